//! Floating arithmetic, conversions, comparisons.

use super::line::{Decoded, Line};
use super::program::{Alu, Compare, Convert, FloatMode, Logic, Op, Round};
use super::types::{File, Type};

use Type::*;

impl Line<'_, '_> {
    pub fn float(&mut self) -> Decoded<Op> {
        let ty = self.one_type(&[F32, F64])?;
        let round = self.rounding();
        let approximate = self.takes("approx") || (self.base == "div" && self.takes("full"));
        let mut mode = self.float_mode(ty, round)?;
        let (alu, sources) = match self.base {
            "add" => (Alu::Add, 2),
            "sub" => (Alu::Sub, 2),
            "mul" => (Alu::Mul, 2),
            "fma" | "mad" => (Alu::Fma, 3),
            "div" => (Alu::Div, 2),
            "min" => (Alu::Min, 2),
            "max" => (Alu::Max, 2),
            "abs" => (Alu::Abs, 1),
            "neg" => (Alu::Neg, 1),
            "sqrt" => (Alu::Sqrt, 1),
            "rcp" => (Alu::Rcp, 1),
            "rsqrt" => (Alu::Rsqrt, 1),
            "ex2" => (Alu::Ex2, 1),
            "lg2" => (Alu::Lg2, 1),
            "sin" => (Alu::Sin, 1),
            "cos" => (Alu::Cos, 1),
            _ => (Alu::Tanh, 1),
        };
        match alu {
            Alu::Add | Alu::Sub | Alu::Mul if round.is_none() && self.body.context.strict => {
                return self.refuse("without a rounding the assembler may contract it: write .rn");
            }
            Alu::Fma if round.is_none() => return self.refuse("needs a rounding"),
            Alu::Div | Alu::Sqrt | Alu::Rcp if round.is_none() && !approximate => {
                return self.refuse("needs a rounding or .approx");
            }
            Alu::Rsqrt | Alu::Ex2 | Alu::Lg2 | Alu::Sin | Alu::Cos | Alu::Tanh if !approximate => {
                return self.refuse("needs .approx");
            }
            Alu::Ex2 | Alu::Lg2 | Alu::Sin | Alu::Cos | Alu::Tanh if ty == F64 => {
                return self.refuse("is for f32");
            }
            Alu::Min | Alu::Max | Alu::Abs | Alu::Neg if round.is_some() || mode.saturate => {
                return self.refuse("has no rounding");
            }
            Alu::Min | Alu::Max if self.takes("NaN") => {
                self.needs(80, (7, 0))?;
                if ty == F64 {
                    return self.refuse(".NaN is for f32");
                }
                mode.nan = true;
            }
            _ => {}
        }
        let approximates = matches!(alu, Alu::Div | Alu::Sqrt | Alu::Rcp)
            || matches!(alu, Alu::Rsqrt | Alu::Ex2 | Alu::Lg2 | Alu::Sin | Alu::Cos | Alu::Tanh);
        if approximate && (!approximates || round.is_some()) {
            return self.refuse(".approx has no place here");
        }
        if mode.saturate && !matches!(alu, Alu::Add | Alu::Sub | Alu::Mul | Alu::Fma) {
            return self.refuse(".sat has no place here");
        }
        self.uniform(alu, ty, sources, mode)
    }

    pub fn cvt(&mut self) -> Decoded<Op> {
        let [to, from] = self.types[..] else { return self.refuse("needs two types") };
        if to == Pred
            || from == Pred
            || matches!((to, from), (B8 | B16 | B32 | B64, _) | (_, B8 | B16 | B32 | B64))
        {
            return self.refuse("not a conversion");
        }
        if let F16x2 | BF16x2 = to {
            return self.pair_conversion(to, from);
        }
        let integral = self.one_of(&[
            ("rni", Round::Nearest),
            ("rzi", Round::Zero),
            ("rmi", Round::Down),
            ("rpi", Round::Up),
        ]);
        let round = self.rounding();
        let saturate = self.takes("sat");
        let flush = self.takes("ftz");
        if flush && to != F32 && from != F32 {
            return self.refuse(".ftz is for f32");
        }
        let mode = FloatMode { round: round.unwrap_or(Round::Nearest), flush, saturate, nan: false };
        let narrows = to.is_float()
            && (!from.is_float() || to.size() < from.size() || (to.size() == from.size() && to != from));
        match (to.is_float(), from.is_float()) {
            _ if from == F16x2 || from == BF16x2 => return self.refuse("not a conversion"),
            (false, true) if integral.is_none() => return self.refuse("needs .rni, .rzi, .rmi or .rpi"),
            (false, false) if integral.is_some() || round.is_some() => return self.refuse("has no rounding"),
            (true, _) if narrows && round.is_none() => return self.refuse("needs a rounding"),
            (true, _) if !narrows && round.is_some() => return self.refuse("is exact: no rounding"),
            (true, _) if integral.is_some() && to != from => return self.refuse("rounds twice"),
            (false, true) if round.is_some() => return self.refuse("rounds twice"),
            _ => {}
        }
        if let (BF16, _) | (_, BF16) = (to, from) {
            match (to, from) {
                (BF16, F32) => self.needs(80, (7, 0))?,
                (F32, BF16) => self.needs(90, (7, 8))?,
                _ => return self.refuse("bf16 is converted from and to f32"),
            }
            if saturate || !matches!(mode.round, Round::Nearest | Round::Zero) {
                return self.refuse("bf16 has .rn and .rz, and no .sat");
            }
        }
        self.count(2)?;
        let (d, target) = self.wide_register(self.operands[0], to)?;
        // A constant is converted as a value of the source type.
        let (a, source) = match self.wide_register(self.operands[1], from) {
            Ok((reg, has)) => (reg, has.file()),
            Err(error) if self.operands[1].starts_with('%') => match self.src(1, from) {
                Ok(reg) => (reg, from.file()),
                Err(_) => return Err(error),
            },
            Err(_) => (self.src(1, from)?, from.file()),
        };
        let how =
            Convert { to, from, mode, integral, source, target: target.file(), target_bits: target.bits() };
        Ok(Op::Convert { how, d, a, b: None })
    }

    /// Decodes `cvt.rn.bf16x2.f32 d, high, low`.
    fn pair_conversion(&mut self, to: Type, from: Type) -> Decoded<Op> {
        self.needs(80, (7, 0))?;
        let round = self.rounding();
        let Some(round @ (Round::Nearest | Round::Zero)) = round else {
            return self.refuse("needs .rn or .rz");
        };
        if from != F32 {
            return self.refuse("pairs are made from f32");
        }
        self.count(3)?;
        let (d, a, b) = (self.dst(0, B32)?, self.src(1, F32)?, self.src(2, F32)?);
        let mode = FloatMode { round, ..FloatMode::PLAIN };
        let how = Convert {
            to,
            from,
            mode,
            integral: None,
            source: File::Word,
            target: File::Word,
            target_bits: 32,
        };
        Ok(Op::Convert { how, d, a, b: Some(b) })
    }

    pub fn setp(&mut self) -> Decoded<Op> {
        use Compare::*;
        let ty = self.one_type(&[B16, U16, S16, B32, U32, S32, F32, B64, U64, S64, F64])?;
        const FLOAT: &[(&str, (Compare, bool))] = &[
            ("eq", (Eq, false)),
            ("ne", (Ne, false)),
            ("lt", (Lt, false)),
            ("le", (Le, false)),
            ("gt", (Gt, false)),
            ("ge", (Ge, false)),
            ("equ", (Eq, true)),
            ("neu", (Ne, true)),
            ("ltu", (Lt, true)),
            ("leu", (Le, true)),
            ("gtu", (Gt, true)),
            ("geu", (Ge, true)),
            ("num", (Num, false)),
            ("nan", (Nan, true)),
        ];
        const UNSIGNED: &[(&str, (Compare, bool))] =
            &[("lo", (Lt, false)), ("ls", (Le, false)), ("hi", (Gt, false)), ("hs", (Ge, false))];
        let found = match ty {
            _ if ty.is_float() => self.one_of(FLOAT),
            B16 | B32 | B64 => self.one_of(&FLOAT[..2]),
            _ if ty.is_signed() => self.one_of(&FLOAT[..6]),
            _ => self.one_of(&FLOAT[..6]).or_else(|| self.one_of(UNSIGNED)),
        };
        let Some((compare, unordered)) = found else { return self.refuse("needs a comparison of this type") };
        let flush = self.takes("ftz");
        if flush && ty != F32 {
            return self.refuse(".ftz is for f32");
        }
        let logic = self.one_of(&[("and", Logic::And), ("or", Logic::Or), ("xor", Logic::Xor)]);
        self.count(if logic.is_some() { 4 } else { 3 })?;
        let (p, q) = self.pair(0, Pred, Pred)?;
        let (a, b) = (self.src(1, ty)?, self.src(2, ty)?);
        let logic = match logic {
            Some(logic) => {
                let name = self.operands[3];
                let (negate, name) = name.strip_prefix('!').map_or((false, name), |n| (true, n));
                Some((logic, self.source(name, Pred)?, negate))
            }
            None => None,
        };
        Ok(Op::Setp { compare, unordered, ty, flush, logic, p, q, a, b })
    }
}
