//! The instructions of a [`Builder`], one method each.

use super::{Builder, Class, Reg, Type, Value};

/// All lanes of a warp take part in a shuffle.
const ALL_LANES: Value = Value::Bits(u32::MAX);

/// Instructions of two inputs and a result of one type.
macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident => $opcode:literal;)*) => { $(
        $(#[$doc])*
        pub fn $name(&mut self, ty: Type, a: impl Into<Value>, b: impl Into<Value>) -> Reg {
            let class = ty.class();
            let opcode = format!("{}.{}", $opcode, ty.rounded());
            self.operation(&opcode, class, &[(class, a.into()), (class, b.into())])
        }
    )* };
}

/// Instructions of one input and a result of one type.
macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident => $opcode:literal;)*) => { $(
        $(#[$doc])*
        pub fn $name(&mut self, ty: Type, a: impl Into<Value>) -> Reg {
            self.operation(&format!("{}.{}", $opcode, ty.suffix()), ty.class(), &[(ty.class(), a.into())])
        }
    )* };
}

impl Builder {
    binary! {
        /// `a + b`; floats are rounded to nearest, as in all arithmetic here.
        add => "add";
        /// `a − b`.
        sub => "sub";
        /// `a / b`.
        div => "div";
    }

    unary! {
        /// A copy.
        mov => "mov";
        /// The sign flipped, also that of zero.
        neg => "neg";
        /// The sign cleared.
        abs => "abs";
        /// The square root of a float, rounded to nearest.
        sqrt => "sqrt.rn";
    }

    /// Returns `a · b`: of floats, or the lower half of integers.
    pub fn mul(&mut self, ty: Type, a: impl Into<Value>, b: impl Into<Value>) -> Reg {
        let half = if matches!(ty, Type::F32 | Type::F64) { "" } else { "lo." };
        let class = ty.class();
        self.operation(&format!("mul.{half}{}", ty.rounded()), class, &[(class, a.into()), (class, b.into())])
    }

    /// Returns `a · b + c` of two 32-bit numbers without sign and a 64-bit one: how addresses are made.
    pub fn mad_wide(&mut self, a: impl Into<Value>, b: impl Into<Value>, c: impl Into<Value>) -> Reg {
        let inputs = [(Class::B32, a.into()), (Class::B32, b.into()), (Class::B64, c.into())];
        self.operation("mad.wide.u32", Class::B64, &inputs)
    }

    /// Returns the remainder of integers.
    pub fn rem(&mut self, ty: Type, a: impl Into<Value>, b: impl Into<Value>) -> Reg {
        let class = ty.class();
        self.operation(&format!("rem.{}", ty.suffix()), class, &[(class, a.into()), (class, b.into())])
    }

    /// Returns the upper half of the product of two unsigned integers.
    pub fn mul_hi(&mut self, a: impl Into<Value>, b: impl Into<Value>) -> Reg {
        self.operation("mul.hi.u32", Class::B32, &[(Class::B32, a.into()), (Class::B32, b.into())])
    }

    /// Returns the smaller of two integers. (Floats have none here: PTX's drops a NaN.)
    pub fn min(&mut self, ty: Type, a: impl Into<Value>, b: impl Into<Value>) -> Reg {
        self.extreme("min", ty, a.into(), b.into())
    }

    /// Returns the larger of two integers.
    pub fn max(&mut self, ty: Type, a: impl Into<Value>, b: impl Into<Value>) -> Reg {
        self.extreme("max", ty, a.into(), b.into())
    }

    fn extreme(&mut self, which: &str, ty: Type, a: Value, b: Value) -> Reg {
        let class = ty.class();
        assert!(!matches!(class, Class::F32 | Class::F64), "{which} of floats");
        self.operation(&format!("{which}.{}", ty.suffix()), class, &[(class, a), (class, b)])
    }

    /// Returns the bitwise and.
    pub fn and(&mut self, ty: Type, a: impl Into<Value>, b: impl Into<Value>) -> Reg {
        let class = ty.class();
        self.operation(&format!("and.{}", ty.suffix()), class, &[(class, a.into()), (class, b.into())])
    }

    /// Returns the bitwise or.
    pub fn or(&mut self, ty: Type, a: impl Into<Value>, b: impl Into<Value>) -> Reg {
        let class = ty.class();
        self.operation(&format!("or.{}", ty.suffix()), class, &[(class, a.into()), (class, b.into())])
    }

    /// Returns the bitwise exclusive or.
    pub fn xor(&mut self, ty: Type, a: impl Into<Value>, b: impl Into<Value>) -> Reg {
        let class = ty.class();
        self.operation(&format!("xor.{}", ty.suffix()), class, &[(class, a.into()), (class, b.into())])
    }

    /// Shifts bits up by `by`.
    pub fn shl(&mut self, ty: Type, a: impl Into<Value>, by: i64) -> Reg {
        let inputs = [(ty.class(), a.into()), (Class::B32, by.into())];
        self.operation(&format!("shl.{}", ty.suffix()), ty.class(), &inputs)
    }

    /// Shifts bits down by `by`.
    pub fn shr(&mut self, ty: Type, a: impl Into<Value>, by: i64) -> Reg {
        let inputs = [(ty.class(), a.into()), (Class::B32, by.into())];
        self.operation(&format!("shr.{}", ty.suffix()), ty.class(), &inputs)
    }

    /// Returns four bytes out of eight, the lower ones those of `a`, one for each hexadecimal digit of `pick`.
    pub fn prmt(&mut self, a: impl Into<Value>, b: impl Into<Value>, pick: u32) -> Reg {
        let inputs = [(Class::B32, a.into()), (Class::B32, b.into()), (Class::B32, Value::Bits(pick))];
        self.operation("prmt.b32", Class::B32, &inputs)
    }

    /// Returns whether `a` compares to `b` (`lt`, `le`, `gt`, `ge`, `eq`, `ne`, `neu`, `nan`). Where one is NaN only
    /// `neu` and `nan` are true.
    pub fn setp(&mut self, compare: &str, ty: Type, a: impl Into<Value>, b: impl Into<Value>) -> Reg {
        let inputs = [(ty.class(), a.into()), (ty.class(), b.into())];
        self.operation(&format!("setp.{compare}.{}", ty.suffix()), Class::Pred, &inputs)
    }

    /// Returns `yes` where `predicate` is true, else `no`.
    pub fn selp(&mut self, ty: Type, yes: impl Into<Value>, no: impl Into<Value>, predicate: Reg) -> Reg {
        let inputs = [(ty.class(), yes.into()), (ty.class(), no.into()), (Class::Pred, predicate.into())];
        self.operation(&format!("selp.{}", ty.suffix()), ty.class(), &inputs)
    }

    /// Converts `a`; `rounding` is empty for conversions that are exact, else `rn` or `rz`.
    pub fn cvt(&mut self, rounding: &str, to: Type, from: Type, a: impl Into<Value>) -> Reg {
        let dot = if rounding.is_empty() { "" } else { "." };
        let opcode = format!("cvt{dot}{rounding}.{}.{}", to.suffix(), from.suffix());
        self.operation(&opcode, to.class(), &[(from.class(), a.into())])
    }

    /// Returns two singles rounded to nearest and packed in one instruction; `pair` is `bf16x2` or `f16x2`. Needs
    /// [`Target::Sm80`](super::Target::Sm80).
    pub fn cvt_pair(&mut self, pair: &str, low: impl Into<Value>, high: impl Into<Value>) -> Reg {
        let inputs = [(Class::F32, high.into()), (Class::F32, low.into())];
        self.operation(&format!("cvt.rn.{pair}.f32"), Class::B32, &inputs)
    }

    /// Returns the same bits as a register of another class and the same width.
    pub fn cast(&mut self, class: Class, a: Reg) -> Reg {
        let width = if matches!(class, Class::B64 | Class::F64) { "b64" } else { "b32" };
        self.operation(&format!("mov.{width}"), class, &[(a.class, a.into())])
    }

    /// Returns two halves as one register of `class`, the lower half first.
    pub fn pack(&mut self, class: Class, low: Reg, high: Reg) -> Reg {
        let width = if matches!(class, Class::B64 | Class::F64) { "b64" } else { "b32" };
        let to = self.result(class);
        let line = format!("mov.{width} {}, {{{}, {}}}", self.name(to), self.name(low), self.name(high));
        self.line(&line);
        to
    }

    /// Returns the halves of a register, the lower one first.
    pub fn unpack(&mut self, half: Class, a: Reg) -> [Reg; 2] {
        let width = if half == Class::B32 { "b64" } else { "b32" };
        let [low, high] = [self.temp(half), self.temp(half)];
        let line = format!("mov.{width} {{{}, {}}}, {}", self.name(low), self.name(high), self.name(a));
        self.line(&line);
        [low, high]
    }

    /// Returns `a` of the lane whose number differs in the bits of `mask`. All lanes of the warp take part.
    pub fn shfl_bfly(&mut self, a: Reg, mask: i64) -> Reg {
        match a.class {
            Class::B32 | Class::F32 => {
                let inputs = [
                    (a.class, a.into()),
                    (Class::B32, mask.into()),
                    (Class::B32, 31.into()),
                    (Class::B32, ALL_LANES),
                ];
                self.operation("shfl.sync.bfly.b32", a.class, &inputs)
            }
            // Shuffles have 32 bits.
            _ => {
                let [low, high] = self.unpack(Class::B32, a);
                let (low, high) = (self.shfl_bfly(low, mask), self.shfl_bfly(high, mask));
                self.pack(a.class, low, high)
            }
        }
    }

    /// Goes on at `label`. All branches are the same for a whole warp; said, because otherwise the assembler
    /// prepares every shuffle behind one for a warp that is split.
    pub fn bra(&mut self, label: &str) {
        self.line(&format!("bra.uni {label}"));
    }

    /// Waits for all lanes of the warp, which then see what the others wrote.
    pub fn bar_warp_sync(&mut self) {
        self.line("bar.warp.sync 0xffffffff");
    }

    /// Waits for all threads of the block.
    pub fn bar_sync(&mut self) {
        self.line("bar.sync 0");
    }
}
