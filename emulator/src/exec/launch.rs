//! A launch: blocks one after another, the warps of a block in turn, barriers between them.

use super::memory::{Memory, SHARED_BASE};
use super::regs::{LANES, Regs};
use super::warp::{Block, Stopped, Warp, lanes};
use crate::machine::fault::{Fault, Status};
use crate::machine::memory::Table;
use crate::machine::shadow::Mark;
use crate::ptx::program::{Constant, Kernel, Special};

/// What a launch needs in addition to memory.
pub struct Launch<'a> {
    pub kernel: &'a Kernel,
    /// Where the module's variables are.
    pub image: u64,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: usize,
    pub params: &'a [u8],
    pub device: u32,
    pub peers: bool,
    pub checked: bool,
    /// The number of this launch; never 0.
    pub serial: u32,
    /// 0 runs everything in its order.
    pub seed: u64,
    pub budget: u64,
}

/// Shuffles with xorshift64; a state of 0 leaves the order.
pub fn shuffle<T>(items: &mut [T], state: &mut u64) {
    if *state == 0 {
        return;
    }
    for i in (1..items.len()).rev() {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        items.swap(i, (*state % (i as u64 + 1)) as usize);
    }
}

fn unfold(n: u32, extent: [u32; 3]) -> [u32; 3] {
    [n % extent[0], n / extent[0] % extent[1], n / extent[0] / extent[1]]
}

impl Launch<'_> {
    fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// Returns what a constant row holds in a lane.
    fn constant(&self, constant: Constant, warp: u32, lane: u32, ctaid: [u32; 3]) -> u64 {
        let thread = warp * LANES as u32 + lane;
        let shared = self.kernel.shared.next_multiple_of(16) as u64;
        match constant {
            Constant::Value(value) => value,
            Constant::Global(offset) => self.image + offset,
            Constant::Shared(offset) => SHARED_BASE + offset,
            Constant::DynamicShared => SHARED_BASE + shared,
            Constant::Local(offset) => offset,
            Constant::Special(special) => u64::from(match special {
                Special::Tid(axis) => unfold(thread, self.block)[axis as usize],
                Special::Ntid(axis) => self.block[axis as usize],
                Special::Ctaid(axis) => ctaid[axis as usize],
                Special::Nctaid(axis) => self.grid[axis as usize],
                Special::Vector => lane,
                Special::Warp => warp,
                Special::Warps => self.threads().div_ceil(LANES as u32),
                Special::MaskEq => 1 << lane,
                Special::MaskLt => (1 << lane) - 1,
                Special::MaskLe => u32::MAX >> (31 - lane),
                Special::MaskGt => !(u32::MAX >> (31 - lane)),
                Special::MaskGe => u32::MAX << lane,
                Special::SharedSize => (shared as usize + self.dynamic_shared) as u32,
                Special::DynamicSharedSize => self.dynamic_shared as u32,
                Special::Zero => 0,
            }),
        }
    }

    /// Puts a warp at the start of a block. Constant rows are filled anew, the others where checks are on.
    fn start(&self, warp: &mut Warp, index: u32, ctaid: [u32; 3], fresh: bool) {
        let kernel = self.kernel;
        if self.checked || fresh {
            // What a register holds before it is written is not defined: all ones, a NaN.
            warp.regs.words.fill([u32::MAX; LANES]);
            warp.regs.longs.fill([u64::MAX; LANES]);
            warp.regs.preds.fill(0);
            warp.local.fill(0xff);
        }
        let again = |c: &Constant| fresh || self.checked || matches!(c, Constant::Special(Special::Ctaid(_)));
        for (reg, constant) in kernel.word_constants.iter().filter(|(_, c)| again(c)) {
            let row = std::array::from_fn(|l| self.constant(*constant, index, l as u32, ctaid) as u32);
            warp.regs.words[*reg as usize] = row;
        }
        for (reg, constant) in kernel.long_constants.iter().filter(|(_, c)| again(c)) {
            let row = std::array::from_fn(|l| self.constant(*constant, index, l as u32, ctaid));
            warp.regs.longs[*reg as usize] = row;
        }
        let here = self.threads() - warp.first;
        warp.alive = if here >= 32 { u32::MAX } else { (1 << here) - 1 };
        (warp.pc, warp.waiting, warp.blocked, warp.epoch) = ([0; LANES], 0, 0, 0);
    }

    fn explain(&self, stopped: Stopped, warp: &Warp, ctaid: [u32; 3]) -> Fault {
        let thread = unfold(warp.first + stopped.lane as u32, self.block);
        let (line, text) = &self.kernel.texts[stopped.pc as usize];
        let Fault { status, message } = stopped.fault;
        let name = &self.kernel.name;
        let message = format!(
            "kernel {name}, block {ctaid:?}, thread {thread:?}: {message}, in line {line} of its PTX: `{text}`"
        );
        Fault { status, message }
    }
}

/// Resumes threads whose barrier is complete. Returns whether any was.
fn release(warps: &mut [Warp], launch: &Launch<'_>, mark: &mut Mark) -> Result<bool, Stopped> {
    let alive: u32 = warps.iter().map(|w| w.alive.count_ones()).sum();
    let mut released = false;
    for id in 0..16 {
        let at = |w: &Warp| lanes(w.waiting).filter(|l| w.barrier[*l].0 == id).fold(0u32, |m, l| m | 1 << l);
        let come: u32 = warps.iter().map(|w| at(w).count_ones()).sum();
        let Some((first, lane)) = warps.iter().enumerate().find_map(|(i, w)| {
            let mask = at(w);
            (mask != 0).then(|| (i, mask.trailing_zeros() as usize))
        }) else {
            continue;
        };
        let (_, asked) = warps[first].barrier[lane];
        let place = warps[first].pc[lane];
        if come < if asked == 0 { alive } else { asked } {
            continue;
        }
        // A device counts arrivals. Where checks are on, all threads must have come to the same barrier.
        let alike = warps.iter().all(|w| lanes(at(w)).all(|l| w.pc[l] == place));
        if launch.checked && asked == 0 && (!alike || come != launch.threads()) {
            let message = if alike {
                format!("divergent barrier: {} threads have exited", launch.threads() - come)
            } else {
                "divergent barrier: other threads wait at another one".into()
            };
            let fault = Fault::new(Status::LAUNCH_FAILED, message);
            return Err(Stopped { lane: first * LANES + lane, pc: place - 1, fault });
        }
        for warp in warps.iter_mut() {
            let mask = at(warp);
            warp.waiting &= !mask;
        }
        mark.epoch += 1;
        released = true;
    }
    Ok(released)
}

/// Runs a kernel to its end.
pub fn run(table: &mut Table, launch: &Launch<'_>) -> Result<(), Fault> {
    let kernel = launch.kernel;
    let shared = match launch.dynamic_shared {
        0 => kernel.shared,
        more => kernel.shared.next_multiple_of(16) + more,
    };
    let memory = Memory::new(table, launch.device, launch.peers, launch.checked, shared, kernel.slots);
    let mut block = Block {
        kernel,
        params: launch.params,
        memory,
        mark: Mark { launch: launch.serial, ..Mark::default() },
        instance: 0,
        budget: launch.budget,
        ahead_first: false,
        random: launch.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        ticks: 0,
    };
    let mut warps: Vec<Warp> = (0..launch.threads().div_ceil(LANES as u32))
        .map(|i| Warp {
            regs: Regs {
                words: vec![[0; LANES]; kernel.words],
                longs: vec![[0; LANES]; kernel.longs],
                preds: vec![0; kernel.preds],
            },
            pc: [0; LANES],
            alive: 0,
            waiting: 0,
            barrier: [(0, 0); LANES],
            blocked: 0,
            epoch: 0,
            first: i * LANES as u32,
            local: vec![0xff; kernel.local.next_multiple_of(16) * LANES],
        })
        .collect();
    let mut blocks: Vec<u32> = (0..launch.grid.iter().product()).collect();
    shuffle(&mut blocks, &mut block.random);
    let mut order: Vec<usize> = (0..warps.len()).collect();
    for (nth, number) in blocks.into_iter().enumerate() {
        let ctaid = unfold(number, launch.grid);
        block.mark = Mark { launch: launch.serial, block: number, ..Mark::default() };
        block.instance = nth as u32 + 1;
        block.ahead_first = block.random & 1 == 1;
        block.ticks = 0;
        block.memory.start_block();
        for (i, warp) in warps.iter_mut().enumerate() {
            launch.start(warp, i as u32, ctaid, nth == 0);
        }
        loop {
            shuffle(&mut order, &mut block.random);
            for i in &order {
                let warp = &mut warps[*i];
                warp.run(&mut block).map_err(|stopped| launch.explain(stopped, warp, ctaid))?;
            }
            if warps.iter().all(|warp| warp.alive == 0) {
                break;
            }
            let released = release(&mut warps, launch, &mut block.mark).map_err(|mut stopped| {
                let warp = stopped.lane / LANES;
                stopped.lane %= LANES;
                launch.explain(stopped, &warps[warp], ctaid)
            })?;
            if !released {
                return Err(stuck(launch, &warps, ctaid));
            }
        }
    }
    Ok(())
}

/// Returns the fault that nothing can move any more.
fn stuck(launch: &Launch<'_>, warps: &[Warp], ctaid: [u32; 3]) -> Fault {
    let alive: u32 = warps.iter().map(|w| w.alive.count_ones()).sum();
    let exited = launch.threads() - alive;
    let at_barrier: u32 = warps.iter().map(|w| w.waiting.count_ones()).sum();
    let message = format!(
        "divergent synchronisation: {exited} threads have exited, {at_barrier} wait at a barrier of the block, \
         {} for threads of their warp",
        alive - at_barrier
    );
    let warp = warps.iter().find(|w| w.alive != 0).expect("a thread is alive");
    let lanes = if warp.blocked != 0 { warp.blocked } else { warp.alive };
    let lane = lanes.trailing_zeros() as usize;
    // A thread at a barrier already points behind it.
    let pc = warp.pc[lane] - u32::from(warp.blocked == 0);
    launch.explain(Stopped { lane, pc, fault: Fault::new(Status::LAUNCH_FAILED, message) }, warp, ctaid)
}
