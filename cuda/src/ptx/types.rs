//! Types, registers and operands of instructions.

/// The type that an instruction works in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are PTX's own")]
pub enum Type {
    Pred,
    /// In memory only: a register of 32 bits holds it.
    U8,
    B16,
    F16,
    B32,
    U32,
    S32,
    F32,
    B64,
    U64,
    S64,
    F64,
}

impl Type {
    /// Returns the suffix of an opcode, without its dot.
    pub const fn suffix(self) -> &'static str {
        match self {
            Type::Pred => "pred",
            Type::U8 => "u8",
            Type::B16 => "b16",
            Type::F16 => "f16",
            Type::B32 => "b32",
            Type::U32 => "u32",
            Type::S32 => "s32",
            Type::F32 => "f32",
            Type::B64 => "b64",
            Type::U64 => "u64",
            Type::S64 => "s64",
            Type::F64 => "f64",
        }
    }

    /// Returns the class of the registers that hold it.
    pub const fn class(self) -> Class {
        match self {
            Type::Pred => Class::Pred,
            Type::B16 | Type::F16 => Class::B16,
            Type::U8 | Type::B32 | Type::U32 | Type::S32 => Class::B32,
            Type::F32 => Class::F32,
            Type::B64 | Type::U64 | Type::S64 => Class::B64,
            Type::F64 => Class::F64,
        }
    }

    /// Returns the bytes in memory.
    ///
    /// # Panics
    /// For predicates, which have no place in memory.
    pub const fn bytes(self) -> usize {
        match self.class() {
            Class::Pred => panic!("predicates have no place in memory"),
            Class::B16 => 2,
            _ if matches!(self, Type::U8) => 1,
            Class::B32 | Class::F32 => 4,
            Class::B64 | Class::F64 => 8,
        }
    }

    /// Returns the suffix of arithmetic. Floats round to nearest, said on every instruction, because otherwise the
    /// assembler may contract a product and a sum into one fused operation.
    pub(super) fn rounded(self) -> String {
        let rounding = if matches!(self, Type::F32 | Type::F64) { "rn." } else { "" };
        format!("{rounding}{}", self.suffix())
    }
}

/// What a register can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are PTX's own")]
pub enum Class {
    Pred,
    B16,
    B32,
    B64,
    F32,
    F64,
}

impl Class {
    /// Every class, in the order of declarations.
    pub const ALL: [Class; 6] = [Class::Pred, Class::B16, Class::B32, Class::B64, Class::F32, Class::F64];

    /// Returns the type of a declaration.
    pub const fn declaration(self) -> &'static str {
        match self {
            Class::Pred => "pred",
            Class::B16 => "b16",
            Class::B32 => "b32",
            Class::B64 => "b64",
            Class::F32 => "f32",
            Class::F64 => "f64",
        }
    }

    /// Returns how the names of its registers begin.
    pub const fn prefix(self) -> &'static str {
        match self {
            Class::Pred => "p",
            Class::B16 => "h",
            Class::B32 => "r",
            Class::B64 => "rd",
            Class::F32 => "f",
            Class::F64 => "fd",
        }
    }
}

/// A register of one [`Builder`](super::Builder).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reg {
    pub(super) class: Class,
    pub(super) number: u32,
}

impl Reg {
    /// Returns what it can hold.
    pub const fn class(self) -> Class {
        self.class
    }
}

/// An operand of an instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A register.
    Reg(Reg),
    /// An integer.
    Int(i64),
    /// An integer that is a pattern of bits, printed in hexadecimal.
    Bits(u32),
    /// A number in single precision, printed as its bits.
    F32(f32),
    /// A number in double precision, printed as its bits.
    F64(f64),
    /// A special register (`%tid.x`) or the address of a shared variable.
    Name(&'static str),
}

impl Value {
    /// Returns zero of a type.
    pub(super) fn zero(ty: Type) -> Value {
        match ty {
            Type::F32 => Value::F32(0.0),
            Type::F64 => Value::F64(0.0),
            _ => Value::Int(0),
        }
    }
}

impl From<Reg> for Value {
    fn from(reg: Reg) -> Value {
        Value::Reg(reg)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Int(number)
    }
}

impl From<&'static str> for Value {
    fn from(name: &'static str) -> Value {
        Value::Name(name)
    }
}

/// A state space of memory. It is always named: generic accesses are slower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// Device memory.
    Global,
    /// Device memory that nothing writes while the kernel runs.
    Constant,
    /// Memory of the block.
    Shared,
}

impl Space {
    /// Returns the modifier of loads and stores.
    pub(super) const fn modifier(self) -> &'static str {
        match self {
            Space::Global => "global",
            Space::Constant => "global.nc",
            Space::Shared => "shared",
        }
    }
}
