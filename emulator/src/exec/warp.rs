//! A warp: its threads, which of them run together, and one instruction for all that do.

use super::memory::Memory;
use super::regs::{LANES, Regs};
use super::{convert, float, integer};
use crate::machine::fault::{Fault, Status};
use crate::machine::shadow::Mark;
use crate::ptx::program::{Compare, Instr, Kernel, Logic, Op};
use crate::ptx::types::{File, Type};

use super::memory::SHARED_WINDOW;

/// What a block's threads have in common.
pub struct Block<'a> {
    pub kernel: &'a Kernel,
    pub params: &'a [u8],
    pub memory: Memory<'a>,
    /// The number of the block and of the launch, and the barriers passed.
    pub mark: Mark,
    /// The run of a block: marks of shared memory.
    pub instance: u32,
    /// Instructions that may still run: a loop that never ends is a fault.
    pub budget: u64,
    /// Whether the threads that are ahead run first, where a warp has diverged.
    pub ahead_first: bool,
    /// State of the random order, 0 for none.
    pub random: u64,
    pub ticks: u64,
}

/// A thread's fault: its lane, its instruction.
pub struct Stopped {
    pub lane: usize,
    pub pc: u32,
    pub fault: Fault,
}

/// 32 threads.
pub struct Warp {
    pub regs: Regs,
    pub pc: [u32; LANES],
    /// Threads that have not exited.
    pub alive: u32,
    /// Threads at a barrier of the block: which, and for how many threads (0 for all).
    pub waiting: u32,
    pub barrier: [(u32, u32); LANES],
    /// Threads at an instruction whose other threads have not come yet.
    pub blocked: u32,
    pub epoch: u32,
    pub first: u32,
    pub local: Vec<u8>,
}

/// Returns the lanes of a mask.
pub fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        let lane = left.trailing_zeros() as usize;
        left &= left.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}

/// What an instruction does to the flow of its threads.
pub enum Flow {
    Next,
    /// All threads go there.
    Jump(u32),
    /// The threads have diverged, or wait: their counters are set.
    Parted,
}

impl Warp {
    /// Returns a lane's mark for the checks.
    pub fn mark(&self, block: &Mark, lane: usize) -> Mark {
        Mark { thread: self.first as u16 + lane as u16, warp_epoch: self.epoch, ..*block }
    }

    /// Runs until every thread has exited or waits for threads of other warps.
    pub fn run(&mut self, block: &mut Block<'_>) -> Result<(), Stopped> {
        loop {
            let present = self.alive & !self.waiting;
            let runnable = present & !self.blocked;
            if runnable == 0 {
                return Ok(());
            }
            let counters = lanes(runnable).map(|lane| self.pc[lane]);
            let chosen = if block.ahead_first { counters.max() } else { counters.min() };
            let pc = chosen.expect("a thread is runnable");
            // Threads that wait at this instruction for others try again with those that came.
            let group = lanes(present).filter(|lane| self.pc[*lane] == pc).fold(0, |m, lane| m | 1 << lane);
            self.blocked &= !group;
            let others = lanes(runnable & !group).map(|lane| self.pc[lane]).min();
            let meet = if block.ahead_first { u32::MAX } else { others.unwrap_or(u32::MAX) };
            self.together(block, pc, group, meet)?;
        }
    }

    /// Runs threads that are at the same instruction, until they diverge or meet others.
    fn together(&mut self, block: &mut Block<'_>, mut pc: u32, group: u32, meet: u32) -> Result<(), Stopped> {
        let kernel = block.kernel;
        loop {
            let Instr { guard, op } = &kernel.code[pc as usize];
            let on = match guard {
                None => group,
                Some((p, false)) => group & self.regs.preds[*p as usize],
                Some((p, true)) => group & !self.regs.preds[*p as usize],
            };
            block.ticks += 1;
            if block.ticks > block.budget {
                let fault = Fault::new(Status::TIMEOUT, "the kernel runs too long");
                return Err(Stopped { lane: group.trailing_zeros() as usize, pc, fault });
            }
            let flow = if on == 0 {
                Flow::Next
            } else {
                self.step(block, op, pc, group, on).map_err(|(lane, fault)| Stopped { lane, pc, fault })?
            };
            match flow {
                Flow::Next => pc += 1,
                Flow::Jump(to) => pc = to,
                Flow::Parted => return Ok(()),
            }
            if pc >= meet {
                self.place(group, pc);
                return Ok(());
            }
        }
    }

    /// Sets the counters of these threads.
    pub fn place(&mut self, group: u32, pc: u32) {
        for lane in lanes(group) {
            self.pc[lane] = pc;
        }
    }

    fn step(
        &mut self,
        block: &mut Block<'_>,
        op: &Op,
        pc: u32,
        group: u32,
        on: u32,
    ) -> Result<Flow, (usize, Fault)> {
        let first = on.trailing_zeros() as usize;
        let regs = &mut self.regs;
        match *op {
            Op::Alu { alu, ty, mode, d, s } => match ty {
                Type::F32 => float::single(regs, alu, mode, d, s, on),
                Type::F64 => float::double(regs, alu, d, s, on),
                _ => integer::run(regs, alu, ty, d, s, on),
            },
            Op::Load(ref access) => self.load(block, access, on)?,
            Op::Store(ref access) => self.store(block, access, on)?,
            Op::LoadParam { ref access, at } => self.load_param(block, access, at, on),
            Op::Atomic { atomic, ref access, d, b, c } => {
                self.atomic(block, atomic, access, (d, b, c), on)?
            }
            Op::Mov { file, d, a } => match file {
                File::Word => regs.map1(d, a, on, |a: u32| a),
                File::Long => regs.map1(d, a, on, |a: u64| a),
                File::Pred => regs.put_pred(d, regs.preds[a as usize], on),
            },
            Op::Convert { ref how, d, a, b } => convert::run(regs, how, d, a, b, on),
            Op::Setp { compare, unordered, ty, flush, logic, p, q, a, b } => {
                let mut truth = truth(regs, compare, unordered, ty, flush, a, b);
                let mut other = !truth;
                if let Some((logic, c, negate)) = logic {
                    let c = regs.preds[c as usize] ^ if negate { u32::MAX } else { 0 };
                    (truth, other) = (combine(logic, truth, c), combine(logic, other, c));
                }
                if let Some(p) = p {
                    regs.put_pred(p, truth, on);
                }
                if let Some(q) = q {
                    regs.put_pred(q, other, on);
                }
            }
            Op::Select { file, d, a, b, p } => {
                let p = regs.preds[p as usize];
                // Write `b` everywhere, then `a` where it is chosen; `a` is read first, as it may be `d`.
                if file == File::Long {
                    let a = regs.row::<u64>(a);
                    regs.map1(d, b, on & !p, |b: u64| b);
                    regs.put(d, a, on & p);
                } else {
                    let a = regs.row::<u32>(a);
                    regs.map1(d, b, on & !p, |b: u32| b);
                    regs.put(d, a, on & p);
                }
            }
            Op::Slct { file, d, a, b, c, float } => {
                let c = regs.row::<u32>(c);
                let yes = |x: u32| if float { f32::from_bits(x) >= 0.0 } else { x as i32 >= 0 };
                for lane in lanes(on) {
                    let from = if yes(c[lane]) { a } else { b };
                    let value = regs.lane(file == File::Long, from, lane);
                    regs.set_lane(file == File::Long, d, lane, value);
                }
            }
            Op::PredLogic { logic, d, a, b } => {
                let value = combine(logic, regs.preds[a as usize], regs.preds[b as usize]);
                regs.put_pred(d, value, on);
            }
            Op::PredNot { d, a } => regs.put_pred(d, !regs.preds[a as usize], on),
            Op::Pack { part, whole, d, ref parts } => {
                for lane in lanes(on) {
                    let join = |(i, r): (usize, &u32)| {
                        (regs.lane(false, *r, lane) & (u64::MAX >> (64 - part.bits())))
                            << (i as u32 * part.bits())
                    };
                    let value = parts.iter().enumerate().map(join).fold(0, |all, part| all | part);
                    regs.set_lane(whole == File::Long, d, lane, value);
                }
            }
            Op::Unpack { part, whole, ref parts, a } => {
                for lane in lanes(on) {
                    let value = regs.lane(whole == File::Long, a, lane);
                    for (i, d) in parts.iter().enumerate() {
                        if let Some(d) = d {
                            regs.set_lane(false, *d, lane, part.extend(value >> (i as u32 * part.bits())));
                        }
                    }
                }
            }
            Op::ToGeneric { d, a } => regs.map1(d, a, on, |a: u64| a.wrapping_add(SHARED_WINDOW)),
            Op::FromGeneric { d, a } => regs.map1(d, a, on, |a: u64| a.wrapping_sub(SHARED_WINDOW)),
            Op::Clock { d, file } => {
                let now = block.ticks;
                for lane in lanes(on) {
                    regs.set_lane(file == File::Long, d, lane, now);
                }
            }
            Op::ActiveMask { d } => regs.put(d, [on; LANES], on),
            Op::Nothing => {}
            Op::Branch { target, uniform } => {
                let off = group & !on;
                if off == 0 {
                    return Ok(Flow::Jump(target));
                }
                if uniform {
                    let message = "bra.uni that not all threads of the warp take";
                    return Err((first, Fault::new(Status::LAUNCH_FAILED, message)));
                }
                self.place(on, target);
                self.place(off, pc + 1);
                return Ok(Flow::Parted);
            }
            Op::Exit => {
                self.alive &= !on;
                self.place(group & !on, pc + 1);
                return Ok(Flow::Parted);
            }
            Op::Barrier { id, threads } => {
                let threads = threads.map(|t| self.regs.row::<u32>(t));
                let id = self.regs.row::<u32>(id);
                for lane in lanes(on) {
                    self.barrier[lane] = (id[lane], threads.map_or(0, |t| t[lane]));
                }
                self.waiting |= on;
                self.place(group, pc + 1);
                return Ok(Flow::Parted);
            }
            Op::WarpBarrier { .. } | Op::Shuffle { .. } | Op::Vote { .. } | Op::Redux { .. } => {
                return self.synchronise(block, op, pc, group, on);
            }
            Op::Trap => return Err((first, Fault::new(Status::LAUNCH_FAILED, "trap"))),
            Op::Unknown => {
                let message = "the emulator does not have this instruction";
                return Err((first, Fault::new(Status::ILLEGAL_INSTRUCTION, message)));
            }
        }
        Ok(Flow::Next)
    }
}

fn combine(logic: Logic, a: u32, b: u32) -> u32 {
    match logic {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

/// Compares all lanes.
fn truth(regs: &Regs, compare: Compare, unordered: bool, ty: Type, flush: bool, a: u32, b: u32) -> u32 {
    macro_rules! compare {
        ($word:ty, $read:expr, $nan:expr) => {{
            let (a, b) = (regs.row::<$word>(a), regs.row::<$word>(b));
            let mut out = 0;
            for lane in 0..LANES {
                let (x, y) = ($read(a[lane]), $read(b[lane]));
                let nan = $nan(x) || $nan(y);
                let holds = match compare {
                    Compare::Num => !nan,
                    Compare::Nan => nan,
                    _ if nan => unordered,
                    Compare::Eq => x == y,
                    Compare::Ne => x != y,
                    Compare::Lt => x < y,
                    Compare::Le => x <= y,
                    Compare::Gt => x > y,
                    Compare::Ge => x >= y,
                };
                out |= u32::from(holds) << lane;
            }
            out
        }};
    }
    let single = |x: u32| {
        let x = f32::from_bits(x);
        if flush { float::flush(x) } else { x }
    };
    match ty {
        Type::F32 => compare!(u32, single, f32::is_nan),
        Type::F64 => compare!(u64, f64::from_bits, f64::is_nan),
        Type::S16 => compare!(u32, |x: u32| x as i16, |_| false),
        Type::S32 => compare!(u32, |x: u32| x as i32, |_| false),
        Type::S64 => compare!(u64, |x: u64| x as i64, |_| false),
        Type::U64 | Type::B64 => compare!(u64, |x: u64| x, |_| false),
        _ => compare!(u32, |x: u32| x, |_| false),
    }
}
