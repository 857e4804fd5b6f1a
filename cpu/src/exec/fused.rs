//! Rules beside the pass's own, which go over the same elements.

use super::{Chosen, Linked, Stored, Work, run_rule};
use crate::codec::Coded;
use crate::exec::tiling::Chunk;
use crate::isa::Isa;
use crate::kernels::direct::Compiled;
use crate::kernels::tape::Code;
use fallline_core::backend::{Beside, MAX_BESIDE, MAX_OPERANDS};

/// Elements that go through all rules of a pass before the next ones do, where there are several and nothing is decoded:
/// so few that the CPU reads ahead over the streams of all of them. (With 4,096 the streams of one rule wait for those of
/// the other, and nothing is won over two passes.)
const TOGETHER: usize = 256;

/// A rule beside the pass's own.
pub(super) struct Companion<'a, T: 'static> {
    rule: Chosen<T>,
    operands: &'a [usize],
    row: &'a [T],
    first: bool,
}

impl<'a, T: Compiled> Companion<'a, T> {
    /// With its row in the type of the pass; none where it is not linked.
    pub(super) fn new(beside: &Beside<'a>, row: &'a [T], isa: Isa) -> Option<Companion<'a, T>> {
        let rule = Chosen::of(beside.kernel, Linked::of(beside.kernel)?, isa);
        Some(Companion { rule, operands: beside.operands, row, first: beside.first })
    }
}

/// A rule whose operands are stored as an entry takes them, on its way through a chunk.
struct Direct<T: 'static> {
    entry: Code<T>,
    row: *const T,
    addresses: [*mut T; MAX_OPERANDS],
    bytes: [usize; MAX_OPERANDS],
}

impl<T: Compiled> Direct<T> {
    fn new(rule: &Chosen<T>, stored: &[Stored], row: &[T], start: usize) -> Option<Direct<T>> {
        let entry = rule.direct(stored)?;
        let (mut addresses, mut bytes) = ([core::ptr::null_mut(); MAX_OPERANDS], [0; MAX_OPERANDS]);
        for (k, operand) in stored.iter().enumerate() {
            bytes[k] = operand.format.bytes();
            // SAFETY: the chunk that begins there lies within the tensor, whose memory was checked.
            addresses[k] = unsafe { operand.address.add(start * bytes[k]) }.cast();
        }
        Some(Direct { entry, row: row.as_ptr(), addresses, bytes })
    }
}

/// Takes a chunk through all rules by turns, if their operands are stored as entries take them; whether they are.
pub(super) fn run_together<T: Compiled>(
    work: &Work<'_, T>,
    chunk: &Chunk,
    stored: &[Stored],
    row: &[T],
) -> bool {
    let mut all: [Option<Direct<T>>; MAX_BESIDE + 1] = [const { None }; MAX_BESIDE + 1];
    let mut places = all.iter_mut();
    for first in [true, false] {
        for beside in work.beside.iter().flatten().filter(|beside| beside.first == first) {
            let mut own = [Stored::NOWHERE; MAX_OPERANDS];
            if let Some(own) = operands_of(work, beside, chunk, stored, &mut own) {
                let direct = Direct::new(&beside.rule, own, beside.row, chunk.start);
                let (Some(direct), Some(place)) = (direct, places.next()) else { return false };
                *place = Some(direct);
            }
        }
        if first {
            let direct = Direct::new(&work.rule, stored, row, chunk.start);
            let (Some(direct), Some(place)) = (direct, places.next()) else { return false };
            *place = Some(direct);
        }
    }
    for start in (0..chunk.elements).step_by(TOGETHER) {
        let elements = TOGETHER.min(chunk.elements - start);
        for Direct { entry, row, addresses, bytes } in all.iter_mut().flatten() {
            // SAFETY: the addresses are those of the elements from `start` on, borrowed for the pass, the written ones
            // mutably; the machine has the instruction set (checked when it was chosen).
            unsafe { entry.run(*row, addresses.as_ptr(), elements, core::ptr::null_mut()) };
            for (address, bytes) in addresses.iter_mut().zip(bytes) {
                *address = address.wrapping_byte_add(elements * *bytes);
            }
        }
    }
    true
}

/// The operands of a rule beside the pass's own, if the tensor has them all.
fn operands_of<'o, T>(
    work: &Work<'_, T>,
    beside: &Companion<'_, T>,
    chunk: &Chunk,
    stored: &[Stored],
    own: &'o mut [Stored; MAX_OPERANDS],
) -> Option<&'o [Stored]> {
    let others = &work.plan.beside[chunk.tensor * work.plan.others..][..work.plan.others];
    let operands = beside.rule.kernel.operands;
    for ((own, operand), &place) in own.iter_mut().zip(operands).zip(beside.operands) {
        let found = match stored.get(place) {
            Some(stored) => *stored,
            None => others[place - stored.len()]?,
        };
        *own = if operand.written { found } else { found.read() };
    }
    Some(&own[..operands.len()])
}

/// A chunk through the rules beside the pass's own that come before it, or after it.
pub(super) fn run_beside<T: Compiled + Coded>(
    work: &Work<'_, T>,
    piece: &Chunk,
    stored: &[Stored],
    first: bool,
) {
    for beside in work.beside.iter().flatten().filter(|beside| beside.first == first) {
        let mut own = [Stored::NOWHERE; MAX_OPERANDS];
        if let Some(own) = operands_of(work, beside, piece, stored, &mut own) {
            run_rule(work, &beside.rule, piece, own, beside.row);
        }
    }
}
