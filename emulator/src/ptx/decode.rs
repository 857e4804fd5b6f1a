//! Opcodes: the table, and those on integers, bits and predicates.

use super::line::{Decoded, Line};
use super::program::{Alu, FloatMode, Logic, Op};
use super::types::{File, Type};

use Type::*;

const INTEGERS: &[Type] = &[U16, S16, U32, S32, U64, S64];
const UNTYPED: &[Type] = &[B16, B32, B64];
const WIDE_BITS: &[Type] = &[B32, B64];
const WIDE_INTEGERS: &[Type] = &[U32, S32, U64, S64];

impl Line<'_, '_> {
    /// Returns the work of this instruction.
    pub fn decode(&mut self) -> Decoded<Op> {
        let float = self.types.last().is_some_and(|ty| ty.is_float());
        if float && self.types.iter().all(|ty| ty.size() == 2 || matches!(ty, F16x2 | BF16x2)) {
            // Kernels compute in f32 and f64; 16 bits are a way of storing.
            if !matches!(self.base, "mov" | "ld" | "st" | "cvt" | "selp") {
                return Ok(Op::Unknown);
            }
        }
        match self.base {
            "mov" => self.mov(),
            "cvt" => self.cvt(),
            "setp" => self.setp(),
            "selp" | "slct" => self.select(),
            "ld" | "ldu" => self.load(),
            "st" => self.store(),
            "atom" | "red" => self.atomic(),
            "cvta" => self.cvta(),
            "membar" | "fence" => self.fence(),
            "prefetch" | "nanosleep" => self.hint(),
            "bra" => self.branch(),
            "ret" | "exit" => {
                self.takes("uni");
                self.count(0)?;
                Ok(Op::Exit)
            }
            "trap" => Ok(Op::Trap),
            "bar" | "barrier" => self.barrier(),
            "shfl" => self.shuffle(),
            "vote" => self.vote(),
            "redux" => self.redux(),
            "activemask" => self.active_mask(),
            "add" | "sub" | "mul" | "div" | "min" | "max" | "abs" | "neg" | "fma" | "sqrt" | "rcp"
            | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh"
                if float =>
            {
                self.float()
            }
            "add" | "sub" | "div" | "rem" | "min" | "max" | "abs" | "neg" => self.integer(),
            "mul" | "mad" => self.product(float),
            "and" | "or" | "xor" | "not" => self.logic(),
            "shl" | "shr" => self.shift(),
            "shf" => self.funnel(),
            "popc" | "clz" => self.count_bits(),
            "brev" | "bfe" | "bfi" | "prmt" | "lop3" => self.bit_field(),
            _ => Ok(Op::Unknown),
        }
    }

    /// Decodes `d, a, b, …` of one type.
    pub fn uniform(&mut self, alu: Alu, ty: Type, sources: usize, mode: FloatMode) -> Decoded<Op> {
        self.count(sources + 1)?;
        let d = self.dst(0, ty)?;
        let mut s = [0; 4];
        for (i, s) in s.iter_mut().enumerate().take(sources) {
            *s = self.src(i + 1, ty)?;
        }
        // An operation reads three rows whether it needs them or not.
        let first = s[0];
        s[sources..].fill(first);
        Ok(Op::Alu { alu, ty, mode, d, s })
    }

    fn plain(&mut self, alu: Alu, ty: Type, sources: usize) -> Decoded<Op> {
        self.uniform(alu, ty, sources, FloatMode::PLAIN)
    }

    fn integer(&mut self) -> Decoded<Op> {
        let ty = self.one_type(INTEGERS)?;
        let (alu, sources) = match self.base {
            "add" => (Alu::Add, 2),
            "sub" => (Alu::Sub, 2),
            "div" => (Alu::Div, 2),
            "rem" => (Alu::Rem, 2),
            "min" => (Alu::Min, 2),
            "max" => (Alu::Max, 2),
            "abs" => (Alu::Abs, 1),
            _ => (Alu::Neg, 1),
        };
        if sources == 1 && !ty.is_signed() {
            return self.refuse("needs a signed type");
        }
        self.plain(alu, ty, sources)
    }

    fn product(&mut self, float: bool) -> Decoded<Op> {
        if float {
            // `mad` of floats is `fma` by another name.
            return self.float();
        }
        let ty = self.one_type(INTEGERS)?;
        let mad = self.base == "mad";
        if self.takes("wide") {
            let Some(wide) = ty.doubled() else { return self.refuse(".wide of 64 bits") };
            self.count(if mad { 4 } else { 3 })?;
            let (d, a, b) = (self.dst(0, wide)?, self.src(1, ty)?, self.src(2, ty)?);
            let c = if mad { self.src(3, wide)? } else { 0 };
            let alu = if mad { Alu::MadWide } else { Alu::MulWide };
            return Ok(Op::Alu { alu, ty, mode: FloatMode::PLAIN, d, s: [a, b, c, 0] });
        }
        let Some(high) = self.one_of(&[("lo", false), ("hi", true)]) else {
            return self.refuse("needs .lo, .hi or .wide");
        };
        let alu = match (mad, high) {
            (false, false) => Alu::Mul,
            (false, true) => Alu::MulHi,
            (true, false) => Alu::Mad,
            (true, true) => Alu::MadHi,
        };
        self.plain(alu, ty, if mad { 3 } else { 2 })
    }

    fn logic(&mut self) -> Decoded<Op> {
        let not = self.base == "not";
        if self.types == [Pred] {
            self.count(if not { 2 } else { 3 })?;
            let (d, a) = (self.dst(0, Pred)?, self.src(1, Pred)?);
            if not {
                return Ok(Op::PredNot { d, a });
            }
            let logic = match self.base {
                "and" => Logic::And,
                "or" => Logic::Or,
                _ => Logic::Xor,
            };
            return Ok(Op::PredLogic { logic, d, a, b: self.src(2, Pred)? });
        }
        let ty = self.one_type(UNTYPED)?;
        let alu = match self.base {
            "and" => Alu::And,
            "or" => Alu::Or,
            "xor" => Alu::Xor,
            _ => Alu::Not,
        };
        self.plain(alu, ty, if not { 1 } else { 2 })
    }

    fn shift(&mut self) -> Decoded<Op> {
        let left = self.base == "shl";
        let ty =
            self.one_type(if left { UNTYPED } else { &[B16, B32, B64, U16, S16, U32, S32, U64, S64] })?;
        self.count(3)?;
        let (d, a, b) = (self.dst(0, ty)?, self.src(1, ty)?, self.src(2, U32)?);
        let alu = if left { Alu::Shl } else { Alu::Shr };
        Ok(Op::Alu { alu, ty, mode: FloatMode::PLAIN, d, s: [a, b, b, b] })
    }

    fn funnel(&mut self) -> Decoded<Op> {
        let ty = self.one_type(&[B32])?;
        let left = self.one_of(&[("l", true), ("r", false)]);
        let clamp = self.one_of(&[("wrap", false), ("clamp", true)]);
        let alu = match (left, clamp) {
            (Some(true), Some(false)) => Alu::ShfLeft,
            (Some(false), Some(false)) => Alu::ShfRight,
            (Some(true), Some(true)) => Alu::ShfLeftClamp,
            (Some(false), Some(true)) => Alu::ShfRightClamp,
            _ => return self.refuse("needs a direction and .wrap or .clamp"),
        };
        self.plain(alu, ty, 3)
    }

    fn count_bits(&mut self) -> Decoded<Op> {
        let ty = self.one_type(WIDE_BITS)?;
        self.count(2)?;
        let (d, a) = (self.dst(0, U32)?, self.src(1, ty)?);
        let alu = if self.base == "popc" { Alu::Popc } else { Alu::Clz };
        Ok(Op::Alu { alu, ty, mode: FloatMode::PLAIN, d, s: [a; 4] })
    }

    fn bit_field(&mut self) -> Decoded<Op> {
        match self.base {
            "brev" => {
                let ty = self.one_type(WIDE_BITS)?;
                self.plain(Alu::Brev, ty, 1)
            }
            "prmt" => {
                let ty = self.one_type(&[B32])?;
                self.plain(Alu::Prmt, ty, 3)
            }
            "lop3" => {
                let ty = self.one_type(&[B32])?;
                self.plain(Alu::Lop3, ty, 4)
            }
            "bfe" => {
                let ty = self.one_type(WIDE_INTEGERS)?;
                self.count(4)?;
                let (d, a, b, c) = (self.dst(0, ty)?, self.src(1, ty)?, self.src(2, U32)?, self.src(3, U32)?);
                Ok(Op::Alu { alu: Alu::Bfe, ty, mode: FloatMode::PLAIN, d, s: [a, b, c, c] })
            }
            _ => {
                let ty = self.one_type(WIDE_BITS)?;
                self.count(5)?;
                let (d, a, b) = (self.dst(0, ty)?, self.src(1, ty)?, self.src(2, ty)?);
                let (c, e) = (self.src(3, U32)?, self.src(4, U32)?);
                Ok(Op::Alu { alu: Alu::Bfi, ty, mode: FloatMode::PLAIN, d, s: [a, b, c, e] })
            }
        }
    }

    fn mov(&mut self) -> Decoded<Op> {
        let ty = self.one_type(&[Pred, B16, U16, S16, B32, U32, S32, F32, B64, U64, S64, F64])?;
        self.count(2)?;
        let [to, from] = [self.operands[0], self.operands[1]];
        if let "%clock" | "%clock64" | "%globaltimer" = from {
            let wide = if from == "%clock" { U32 } else { U64 };
            if !wide.accepts(ty) {
                return self.refuse("the size of the clock");
            }
            return Ok(Op::Clock { d: self.dst(0, ty)?, file: ty.file() });
        }
        match (inside(to), inside(from)) {
            (None, None) => Ok(Op::Mov { file: ty.file(), d: self.dst(0, ty)?, a: self.src(1, ty)? }),
            (Some(list), None) => {
                let part = self.part(ty, list.len())?;
                let one = |l: &Self, name: &str| {
                    if name == "_" { Ok(None) } else { l.wide_register(name, part).map(|(reg, _)| Some(reg)) }
                };
                let parts = list.iter().map(|name| one(self, name)).collect::<Decoded<Vec<_>>>()?;
                Ok(Op::Unpack { part, whole: ty.file(), parts, a: self.src(1, ty)? })
            }
            (None, Some(list)) => {
                let part = self.part(ty, list.len())?;
                let parts = list.iter().map(|name| self.source(name, part)).collect::<Decoded<Vec<_>>>()?;
                Ok(Op::Pack { part, whole: ty.file(), d: self.dst(0, ty)?, parts })
            }
            _ => self.refuse("a vector on both sides"),
        }
    }

    /// Returns the type of one of `n` parts of an untyped value.
    fn part(&self, ty: Type, n: usize) -> Decoded<Type> {
        match (ty, n) {
            (B32, 2) | (B64, 4) => Ok(B16),
            (B64, 2) => Ok(B32),
            _ => self.refuse("this value is not packed from so many parts"),
        }
    }

    fn select(&mut self) -> Decoded<Op> {
        const VALUES: &[Type] = &[B16, U16, S16, B32, U32, S32, F32, B64, U64, S64, F64];
        self.count(4)?;
        if self.base == "selp" {
            let ty = self.one_type(VALUES)?;
            let (d, a, b) = (self.dst(0, ty)?, self.src(1, ty)?, self.src(2, ty)?);
            return Ok(Op::Select { file: ty.file(), d, a, b, p: self.src(3, Pred)? });
        }
        let [ty, by @ (S32 | F32)] = self.types[..] else {
            return self.refuse("slct chooses by an s32 or f32");
        };
        let (d, a, b, c) = (self.dst(0, ty)?, self.src(1, ty)?, self.src(2, ty)?, self.src(3, by)?);
        Ok(Op::Slct { file: ty.file(), d, a, b, c, float: by == F32 })
    }

    fn branch(&mut self) -> Decoded<Op> {
        let uniform = self.takes("uni");
        self.count(1)?;
        let label = self.operands[0];
        let number = self.number;
        self.body.branch(number, label);
        Ok(Op::Branch { target: u32::MAX, uniform })
    }

    /// Returns the file of an address register.
    pub fn address_file(&self) -> Decoded<File> {
        Ok(self.one_type(&[U32, U64])?.file())
    }
}

/// Returns the names in `{a, b}`.
pub fn inside(text: &str) -> Option<Vec<&str>> {
    let list = text.strip_prefix('{')?.strip_suffix('}')?;
    Some(list.split(',').map(str::trim).collect())
}
