//! The types, state spaces and register files of PTX.

/// A fundamental type of PTX, or one of the two packed pairs that `cvt` knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    Pred,
    B8,
    U8,
    S8,
    B16,
    U16,
    S16,
    F16,
    BF16,
    B32,
    U32,
    S32,
    F32,
    F16x2,
    BF16x2,
    B64,
    U64,
    S64,
    F64,
}

/// How the bits of a type are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meaning {
    Bits,
    Integer,
    Float,
}

/// The file in which a register lives. Registers of 8 and 16 bits live in the 32-bit file, zero-extended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum File {
    Pred,
    Word,
    Long,
}

/// A state space; `Generic` is an address without one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    Param,
    Global,
    Shared,
    Const,
    Local,
    Generic,
}

impl Type {
    /// Returns the type of this suffix, written without its dot.
    pub fn parse(suffix: &str) -> Option<Type> {
        use Type::*;
        const NAMES: [(&str, Type); 19] = [
            ("pred", Pred),
            ("b8", B8),
            ("u8", U8),
            ("s8", S8),
            ("b16", B16),
            ("u16", U16),
            ("s16", S16),
            ("f16", F16),
            ("bf16", BF16),
            ("b32", B32),
            ("u32", U32),
            ("s32", S32),
            ("f32", F32),
            ("f16x2", F16x2),
            ("bf16x2", BF16x2),
            ("b64", B64),
            ("u64", U64),
            ("s64", S64),
            ("f64", F64),
        ];
        NAMES.iter().find(|(name, _)| *name == suffix).map(|(_, ty)| *ty)
    }

    /// Returns the size in bytes.
    pub fn size(self) -> usize {
        use Type::*;
        match self {
            Pred | B8 | U8 | S8 => 1,
            B16 | U16 | S16 | F16 | BF16 => 2,
            B32 | U32 | S32 | F32 | F16x2 | BF16x2 => 4,
            B64 | U64 | S64 | F64 => 8,
        }
    }

    pub fn bits(self) -> u32 {
        self.size() as u32 * 8
    }

    pub fn meaning(self) -> Meaning {
        use Type::*;
        match self {
            U8 | S8 | U16 | S16 | U32 | S32 | U64 | S64 => Meaning::Integer,
            F16 | BF16 | F32 | F64 | F16x2 | BF16x2 => Meaning::Float,
            Pred | B8 | B16 | B32 | B64 => Meaning::Bits,
        }
    }

    pub fn is_float(self) -> bool {
        self.meaning() == Meaning::Float
    }

    pub fn is_signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    pub fn file(self) -> File {
        match self {
            Type::Pred => File::Pred,
            _ if self.size() == 8 => File::Long,
            _ => File::Word,
        }
    }

    /// Returns the integer type of twice the size, for `.wide`.
    pub fn doubled(self) -> Option<Type> {
        Some(match self {
            Type::U16 => Type::U32,
            Type::S16 => Type::S32,
            Type::U32 => Type::U64,
            Type::S32 => Type::S64,
            _ => return None,
        })
    }

    /// Returns whether a register declared as `register` may be used where an instruction wants `self`. `.bX` goes
    /// with everything of its size, signed with unsigned, a float only with itself.
    pub fn accepts(self, register: Type) -> bool {
        if self == Type::Pred || register == Type::Pred {
            return self == register;
        }
        self.size() == register.size()
            && match (self.meaning(), register.meaning()) {
                (Meaning::Bits, _) | (_, Meaning::Bits) | (Meaning::Integer, Meaning::Integer) => true,
                (Meaning::Float, Meaning::Float) => self == register,
                _ => false,
            }
    }

    /// Returns the looser rule of `ld`, `st` and `cvt`: an integer or untyped register may be wider.
    pub fn accepts_wider(self, register: Type) -> bool {
        self.accepts(register)
            || (self != Type::Pred
                && register != Type::Pred
                && register.size() > self.size()
                && register.meaning() != Meaning::Float
                && (self.meaning() != Meaning::Float || (self.size() == 2 && register == Type::B32)))
    }

    /// Extends the low bits of `value` as a value of this type: sign where it has one, else zeros.
    #[inline(always)]
    pub fn extend(self, value: u64) -> u64 {
        let unused = 64 - self.bits();
        if self.is_signed() {
            (((value << unused) as i64) >> unused) as u64
        } else {
            (value << unused) >> unused
        }
    }
}

impl Space {
    /// Returns the space of this suffix, written without its dot.
    pub fn parse(suffix: &str) -> Option<Space> {
        Some(match suffix {
            "param" => Space::Param,
            "global" => Space::Global,
            "shared" | "shared::cta" => Space::Shared,
            "const" => Space::Const,
            "local" => Space::Local,
            _ => return None,
        })
    }
}
