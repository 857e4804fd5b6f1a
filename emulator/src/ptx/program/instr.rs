//! Typed instructions on dense register indices.

use super::super::types::{File, Space, Type};

/// Index of a row in the register file of an operand's type.
pub type Reg = u32;

/// The rounding of a floating result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Round {
    Nearest,
    Zero,
    Down,
    Up,
}

/// What changes a floating operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FloatMode {
    pub round: Round,
    pub flush: bool,
    pub saturate: bool,
    /// `min` and `max` give NaN where an operand is.
    pub nan: bool,
}

impl FloatMode {
    pub const PLAIN: FloatMode =
        FloatMode { round: Round::Nearest, flush: false, saturate: false, nan: false };
}

/// An operation whose operands and result have one type, with few exceptions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alu {
    Add,
    Sub,
    Mul,
    MulHi,
    /// The result is twice as wide.
    MulWide,
    Mad,
    MadHi,
    /// The addend and the result are twice as wide.
    MadWide,
    Fma,
    Div,
    Rem,
    Min,
    Max,
    Abs,
    Neg,
    Sqrt,
    Rcp,
    Rsqrt,
    Ex2,
    Lg2,
    Sin,
    Cos,
    Tanh,
    And,
    Or,
    Xor,
    Not,
    Shl,
    Shr,
    Bfe,
    Bfi,
    Prmt,
    /// The result has 32 bits.
    Popc,
    /// The result has 32 bits.
    Clz,
    Brev,
    ShfLeft,
    ShfRight,
    ShfLeftClamp,
    ShfRightClamp,
    Lop3,
}

/// A comparison; `unordered` is what it gives where an operand is NaN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Num,
    Nan,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Logic {
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Atomic {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    Cas,
    Inc,
    Dec,
}

/// How a value is converted: the rounding to an integer, where there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Convert {
    pub to: Type,
    pub from: Type,
    pub mode: FloatMode,
    /// `.rni` and its like: the value becomes integral.
    pub integral: Option<Round>,
    /// The file of the source register, which may be wider than its type.
    pub source: File,
    /// The file of the destination register, and how many bits of it are written.
    pub target: File,
    pub target_bits: u32,
}

/// An address: a register of 32 or 64 bits and an offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    pub file: File,
    pub base: Reg,
    pub offset: i64,
}

/// A load or a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    pub space: Space,
    pub ty: Type,
    pub count: u8,
    pub regs: [Reg; 4],
    pub file: File,
    /// Bits of each register that a load writes.
    pub register_bits: u32,
    pub address: Address,
    /// The place where this instruction keeps the allocation it last met.
    pub slot: u32,
}

/// The work of an instruction.
#[derive(Clone, Debug)]
pub enum Op {
    Alu {
        alu: Alu,
        ty: Type,
        mode: FloatMode,
        d: Reg,
        s: [Reg; 4],
    },
    /// `and`, `or`, `xor` of predicates.
    PredLogic {
        logic: Logic,
        d: Reg,
        a: Reg,
        b: Reg,
    },
    PredNot {
        d: Reg,
        a: Reg,
    },
    Mov {
        file: File,
        d: Reg,
        a: Reg,
    },
    Pack {
        part: Type,
        whole: File,
        d: Reg,
        parts: Vec<Reg>,
    },
    Unpack {
        part: Type,
        whole: File,
        parts: Vec<Option<Reg>>,
        a: Reg,
    },
    Convert {
        how: Convert,
        d: Reg,
        a: Reg,
        b: Option<Reg>,
    },
    Setp {
        compare: Compare,
        unordered: bool,
        ty: Type,
        flush: bool,
        logic: Option<(Logic, Reg, bool)>,
        p: Option<Reg>,
        q: Option<Reg>,
        a: Reg,
        b: Reg,
    },
    Select {
        file: File,
        d: Reg,
        a: Reg,
        b: Reg,
        p: Reg,
    },
    /// `a` where `c >= 0`, else `b`.
    Slct {
        file: File,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
        float: bool,
    },
    LoadParam {
        access: Access,
        at: usize,
    },
    Load(Access),
    Store(Access),
    Atomic {
        atomic: Atomic,
        access: Access,
        d: Option<Reg>,
        b: Reg,
        c: Option<Reg>,
    },
    /// Between the generic window and the shared space.
    ToGeneric {
        d: Reg,
        a: Reg,
    },
    FromGeneric {
        d: Reg,
        a: Reg,
    },
    Branch {
        target: u32,
        uniform: bool,
    },
    Exit,
    Barrier {
        id: Reg,
        threads: Option<Reg>,
    },
    WarpBarrier {
        mask: Reg,
    },
    Shuffle {
        shuffle: Shuffle,
        d: Reg,
        p: Option<Reg>,
        a: Reg,
        b: Reg,
        c: Reg,
        mask: Reg,
    },
    Vote {
        vote: Vote,
        d: Reg,
        p: Reg,
        negate: bool,
        mask: Reg,
    },
    Redux {
        atomic: Atomic,
        ty: Type,
        d: Reg,
        a: Reg,
        mask: Reg,
    },
    ActiveMask {
        d: Reg,
    },
    Clock {
        d: Reg,
        file: File,
    },
    /// Fences and hints: one thread of the machine runs at a time.
    Nothing,
    Trap,
    /// An opcode the interpreter does not have: a fault when it is reached.
    Unknown,
}

/// An instruction: its guard, its work.
#[derive(Clone, Debug)]
pub struct Instr {
    /// The predicate and whether it is negated.
    pub guard: Option<(Reg, bool)>,
    pub op: Op,
}
