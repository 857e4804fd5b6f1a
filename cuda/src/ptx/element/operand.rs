//! How operands are stored, and what is known of them while a kernel is printed.

use crate::ptx::{Reg, Value};
use fallline_core::Format;
use fallline_core::reduction::STEP;

/// Elements of a step that one lane holds.
pub(super) const PER_LANE: usize = STEP / 32;
/// Registers for a lane's loaded elements of a step beyond which it takes the step in two sub-steps.
const REGISTER_BUDGET: usize = 32;

/// How an operand is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stored {
    /// Its format.
    pub format: Format,
    /// Whether what is stored as bfloat16 is rounded up or down stochastically.
    pub stochastic: bool,
    /// The format of the cast copy, if what is stored is also stored in another format.
    pub copy: Option<Format>,
    /// Whether each run of elements is several times, as [`Broadcast`](fallline_core::backend::Broadcast) says.
    pub repeated: bool,
}

impl From<Format> for Stored {
    fn from(format: Format) -> Stored {
        Stored { format, stochastic: false, copy: None, repeated: false }
    }
}

/// One operand of the rule, as the kernel sees it, or its copy.
pub(super) struct Operand {
    pub(super) name: String,
    pub(super) format: Format,
    /// The place of its address in the tensor's record.
    pub(super) word: usize,
    pub(super) blocks: Option<Blocks>,
    pub(super) stochastic: Option<Stochastic>,
    pub(super) repeated: Option<Broadcast>,
    /// Whether the rule uses what is stored.
    pub(super) loaded: bool,
    /// The node that is stored back.
    pub(super) store: Option<u32>,
    /// The address of the lane's first element in this step, or of the first of all where they are repeated.
    pub(super) address: Option<Reg>,
    /// The lane's elements of this step, as they are stored: a register each, or one for a pair of 16 bits.
    pub(super) raw: Vec<Reg>,
    /// The same for what is stored back.
    pub(super) new: Vec<Value>,
}

impl Operand {
    /// Returns whether the rule uses or writes it.
    pub(super) fn touched(&self) -> bool {
        self.loaded || self.store.is_some()
    }
}

/// An operand in a block format.
pub(super) struct Blocks {
    pub(super) elements: usize,
    /// Where the numbers of its codes and the borders between them start in shared memory.
    pub(super) numbers: Option<Reg>,
    pub(super) borders: Option<Reg>,
    /// The address of the scale of the lane's block in this step, and how far the block starts into the step.
    pub(super) scale_at: Option<Reg>,
    pub(super) before: Option<Reg>,
    /// The scale that was loaded.
    pub(super) scale: Option<Reg>,
    /// The lane's numbers of this step that are to be encoded.
    pub(super) values: Vec<Reg>,
}

impl Blocks {
    pub(super) fn of(format: Format) -> Option<Blocks> {
        let elements = format.block()?;
        let (numbers, borders, scale_at, before, scale, values) = Default::default();
        Some(Blocks { elements, numbers, borders, scale_at, before, scale, values })
    }
}

/// The random bits of an operand that is rounded stochastically.
pub(super) struct Stochastic {
    /// The halves of its key.
    pub(super) key: [Option<Reg>; 2],
    /// The random words of four neighbours.
    pub(super) words: [Option<Reg>; 2],
}

impl Stochastic {
    pub(super) fn new() -> Stochastic {
        Stochastic { key: [None; 2], words: [None; 2] }
    }
}

/// How an operand is repeated.
#[derive(Default)]
pub(super) struct Broadcast {
    /// Elements of a run, and of all its times.
    pub(super) dims: Option<[Reg; 2]>,
}

/// Returns how many of its elements a lane takes together: all, or half of them. It is half where all would take
/// too many registers, and half still fill accesses of 128 bits. Five operands of a rule in single precision are
/// too many, or three in double. Broadcast ones are loaded one by one in any case.
pub(super) fn substep_len(operands: &[Operand]) -> usize {
    let moved = |operand: &&Operand| operand.touched() && operand.repeated.is_none();
    let touched = || operands.iter().filter(moved).map(|operand| operand.format.bytes());
    let held = PER_LANE * touched().sum::<usize>() / 4;
    if held > REGISTER_BUDGET && touched().all(|bytes| PER_LANE / 2 * bytes >= 16) {
        PER_LANE / 2
    } else {
        PER_LANE
    }
}
