//! What the threads of a warp do together: shuffles, votes, reductions, barriers of a warp.

use super::regs::{LANES, Row};
use super::transfer::applied;
use super::warp::{Block, Flow, Warp, lanes};
use crate::machine::fault::{Fault, Status};
use crate::ptx::program::{Op, Shuffle, Vote};

impl Warp {
    /// Runs a synchronising instruction for the threads whose mask is complete; the others stay where they are.
    pub fn synchronise(
        &mut self,
        block: &mut Block<'_>,
        op: &Op,
        pc: u32,
        group: u32,
        on: u32,
    ) -> Result<Flow, (usize, Fault)> {
        let (Op::WarpBarrier { mask }
        | Op::Shuffle { mask, .. }
        | Op::Vote { mask, .. }
        | Op::Redux { mask, .. }) = *op
        else {
            unreachable!("called for these only")
        };
        let masks = self.regs.row::<u32>(mask);
        let mut ready = 0;
        let first = masks[on.trailing_zeros() as usize];
        // Almost always all threads come with the mask of all of them.
        let whole = first == on && lanes(on).all(|lane| masks[lane] == first);
        if whole {
            ready = on;
        }
        for lane in lanes(if whole { 0 } else { on }) {
            let mask = masks[lane];
            if mask >> lane & 1 == 0 {
                let message = format!("the mask {mask:#010x} does not name its own thread, lane {lane}");
                return Err((lane, Fault::new(Status::LAUNCH_FAILED, message)));
            }
            if mask & !self.alive != 0 {
                let missing = (mask & !self.alive).trailing_zeros();
                let message =
                    format!("the mask {mask:#010x} names lane {missing}, which has exited or does not exist");
                return Err((lane, Fault::new(Status::LAUNCH_FAILED, message)));
            }
            let alike = lanes(mask & on).all(|other| masks[other] == mask);
            if !alike {
                let message = format!("threads of the mask {mask:#010x} came with other masks");
                return Err((lane, Fault::new(Status::LAUNCH_FAILED, message)));
            }
            if mask & !on == 0 {
                ready |= 1 << lane;
            }
        }
        let here = lanes(self.blocked & !group).any(|lane| self.pc[lane] == pc);
        if ready != on && here {
            // Others wait at this instruction: come again together with them.
            self.place(group, pc);
            return Ok(Flow::Parted);
        }
        if ready != 0 {
            self.exchange(block, op, ready, &masks)?;
        }
        if ready == on {
            return Ok(Flow::Next);
        }
        self.place(group, pc + 1);
        self.place(on & !ready, pc);
        self.blocked |= on & !ready;
        Ok(Flow::Parted)
    }

    fn exchange(
        &mut self,
        block: &Block<'_>,
        op: &Op,
        on: u32,
        masks: &Row<u32>,
    ) -> Result<(), (usize, Fault)> {
        match *op {
            Op::WarpBarrier { .. } => self.epoch += 1,
            Op::Shuffle { shuffle, d, p, a, b, c, .. } => {
                let (a, b, c) = (self.regs.row::<u32>(a), self.regs.row::<u32>(b), self.regs.row::<u32>(c));
                let (mut out, mut valid) = ([0; LANES], 0);
                for lane in lanes(on) {
                    let (from, inside) = source(shuffle, lane as i32, b[lane], c[lane]);
                    if masks[lane] >> from & 1 == 0 && (block.memory.checked || inside) {
                        let message =
                            format!("reads lane {from}, which the mask {:#010x} lacks", masks[lane]);
                        return Err((lane, Fault::new(Status::LAUNCH_FAILED, message)));
                    }
                    out[lane] = a[from];
                    valid |= u32::from(inside) << lane;
                }
                self.regs.put(d, out, on);
                if let Some(p) = p {
                    self.regs.put_pred(p, valid, on);
                }
            }
            Op::Vote { vote, d, p, negate, .. } => {
                let p = self.regs.preds[p as usize] ^ if negate { u32::MAX } else { 0 };
                for lane in lanes(on) {
                    let (mask, yes) = (masks[lane], p & masks[lane]);
                    let truth = match vote {
                        Vote::Ballot => {
                            self.regs.set_lane(false, d, lane, u64::from(yes));
                            continue;
                        }
                        Vote::All => yes == mask,
                        Vote::Any => yes != 0,
                        Vote::Uniform => yes == mask || yes == 0,
                    };
                    self.regs.put_pred(d, if truth { u32::MAX } else { 0 }, 1 << lane);
                }
            }
            Op::Redux { atomic, ty, d, a, .. } => {
                let a = self.regs.row::<u32>(a);
                let total = |mask| {
                    let values = lanes(mask).map(|lane| u64::from(a[lane]));
                    values.reduce(|x, y| applied(atomic, ty, x, y, 0)).unwrap_or(0) as u32
                };
                let out = std::array::from_fn(|l| if on >> l & 1 == 1 { total(masks[l]) } else { 0 });
                self.regs.put(d, out, on);
            }
            _ => unreachable!("called for these only"),
        }
        Ok(())
    }
}

/// Returns the lane that a shuffle reads, and whether it is inside the segment; if not, its own.
fn source(shuffle: Shuffle, lane: i32, b: u32, c: u32) -> (usize, bool) {
    let (offset, clamp, segment) = ((b & 31) as i32, (c & 31) as i32, (c >> 8 & 31) as i32);
    let (low, high) = (lane & segment, (lane & segment) | (clamp & !segment));
    let (from, inside) = match shuffle {
        // `up` counts down to the clamp, which is the low end.
        Shuffle::Up => (lane - offset, lane - offset >= high),
        Shuffle::Down => (lane + offset, lane + offset <= high),
        Shuffle::Butterfly => (lane ^ offset, (lane ^ offset) <= high),
        Shuffle::Index => {
            let from = low | (offset & !segment);
            (from, from <= high)
        }
    };
    if inside { (from as usize, true) } else { (lane as usize, false) }
}
