//! One instruction: guard, opcode with its suffixes, operands with their checks.

use super::PtxError;
use super::body::Body;
use super::declaration::literal;
use super::program::{Address, Constant, FloatMode, Instr, Op, Reg, Round, Special};
use super::text::{self, operands};
use super::types::{File, Type};

/// An instruction while it is decoded. Every suffix must be taken; what is left over is refused.
pub struct Line<'a, 'm> {
    pub body: &'a mut Body<'m>,
    pub number: usize,
    text: &'a str,
    pub base: &'a str,
    suffixes: Vec<&'a str>,
    /// The types at the end of the opcode, in order.
    pub types: Vec<Type>,
    pub operands: Vec<&'a str>,
}

pub type Decoded<T> = Result<T, PtxError>;

impl<'a, 'm> Line<'a, 'm> {
    /// Decodes a statement.
    pub fn read(body: &'a mut Body<'m>, number: usize, text: &'a str) -> Decoded<Instr> {
        let (guard, work) = match text.strip_prefix('@') {
            Some(rest) => {
                let (name, work) = rest.split_once(' ').unwrap_or((rest, ""));
                (Some(name), work.trim())
            }
            None => (None, text),
        };
        let (opcode, rest) = work.split_once(' ').unwrap_or((work, ""));
        let mut parts = opcode.split('.');
        let base = parts.next().unwrap_or("");
        let mut suffixes: Vec<&str> = parts.collect();
        let mut types = vec![];
        while let Some(ty) = suffixes.last().and_then(|s| Type::parse(s)) {
            types.insert(0, ty);
            suffixes.pop();
        }
        let mut line = Line { body, number, text, base, suffixes, types, operands: operands(rest) };
        let guard = match guard {
            Some(name) => {
                let (negate, name) = name.strip_prefix('!').map_or((false, name), |n| (true, n));
                Some((line.register(name, Type::Pred)?, negate))
            }
            None => None,
        };
        let op = line.decode()?;
        if !matches!(op, Op::Unknown)
            && let Some(left) = line.suffixes.first()
        {
            let reason = format!("the modifier .{left} is not known for {}", line.base);
            return line.refuse(&reason);
        }
        Ok(Instr { guard, op })
    }

    pub fn refuse<T>(&self, reason: &str) -> Decoded<T> {
        Err(PtxError::new(self.number, self.text, reason))
    }

    /// Takes a suffix, if it is there.
    pub fn takes(&mut self, suffix: &str) -> bool {
        let at = self.suffixes.iter().position(|s| *s == suffix);
        at.map(|at| self.suffixes.remove(at)).is_some()
    }

    /// Takes the one suffix that the table knows.
    pub fn one_of<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        table.iter().find(|(suffix, _)| self.takes(suffix)).map(|(_, value)| *value)
    }

    /// Takes the first suffix that `read` understands.
    pub fn first<T>(&mut self, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (at, value) = self.suffixes.iter().enumerate().find_map(|(i, s)| read(s).map(|v| (i, v)))?;
        self.suffixes.remove(at);
        Some(value)
    }

    /// Checks that the module has the target and PTX version that the instruction needs.
    pub fn needs(&self, target: u32, version: (u32, u32)) -> Decoded<()> {
        if self.body.context.target < target || self.body.context.version < version {
            return self.refuse(&format!("needs sm_{target} and PTX {}.{}", version.0, version.1));
        }
        Ok(())
    }

    /// Returns the one type, which must be among these.
    pub fn one_type(&self, allowed: &[Type]) -> Decoded<Type> {
        match self.types[..] {
            [ty] if allowed.contains(&ty) => Ok(ty),
            [_] => self.refuse("this type is not for this instruction"),
            _ => self.refuse("the instruction needs one type"),
        }
    }

    pub fn count(&self, n: usize) -> Decoded<()> {
        if self.operands.len() == n { Ok(()) } else { self.refuse(&format!("needs {n} operands")) }
    }

    /// Reads `.rn` and its like.
    pub fn rounding(&mut self) -> Option<Round> {
        use Round::*;
        self.one_of(&[("rn", Nearest), ("rz", Zero), ("rm", Down), ("rp", Up)])
    }

    /// Reads `.ftz` and `.sat`, which are for f32 only.
    pub fn float_mode(&mut self, ty: Type, round: Option<Round>) -> Decoded<FloatMode> {
        let mode = FloatMode {
            round: round.unwrap_or(Round::Nearest),
            flush: self.takes("ftz"),
            saturate: self.takes("sat"),
            nan: false,
        };
        if ty != Type::F32 && (mode.flush || mode.saturate) {
            return self.refuse(".ftz and .sat are for f32");
        }
        if ty == Type::F64 && mode.round != Round::Nearest {
            return self.refuse("directed rounding of f64 is not emulated");
        }
        Ok(mode)
    }

    /// Reads a declared register whose type fits.
    fn register(&self, name: &str, ty: Type) -> Decoded<Reg> {
        match self.body.register(name) {
            Some((has, reg)) if ty.accepts(has) => Ok(reg),
            Some((has, _)) => {
                self.refuse(&format!("{name} is {has:?}, the instruction wants {ty:?}").to_lowercase())
            }
            None => self.refuse(&format!("{name} is not declared")),
        }
    }

    /// Returns the destination `operands[i]`.
    pub fn dst(&self, i: usize, ty: Type) -> Decoded<Reg> {
        self.register(self.operands[i], ty)
    }

    /// Reads `d|p` or `d`: the register and the second destination. `_` means none.
    pub fn pair(&self, i: usize, first: Type, second: Type) -> Decoded<(Option<Reg>, Option<Reg>)> {
        let (a, b) = self.operands[i].split_once('|').map_or((self.operands[i], None), |(a, b)| (a, Some(b)));
        let one = |name: &str, ty| if name == "_" { Ok(None) } else { self.register(name, ty).map(Some) };
        Ok((one(a.trim(), first)?, b.map_or(Ok(None), |b| one(b.trim(), second))?))
    }

    /// Returns the source `operands[i]`.
    pub fn src(&mut self, i: usize, ty: Type) -> Decoded<Reg> {
        self.source(self.operands[i], ty)
    }

    /// Reads a register, a special register, a literal or the address of a variable, as a row of the register file.
    pub fn source(&mut self, name: &str, ty: Type) -> Decoded<Reg> {
        if self.body.register(name).is_some() {
            return self.register(name, ty);
        }
        if let Some((special, has)) = special(name) {
            return if ty.accepts(has) {
                Ok(self.body.constant(ty.file(), Constant::Special(special)))
            } else {
                self.refuse(&format!("{name} has {} bits", has.bits()))
            };
        }
        if let Some(place) = self.body.symbol(name) {
            if ty.is_float() || ty.size() < 4 {
                return self.refuse("an address in an instruction of this type");
            }
            return Ok(self.body.constant(ty.file(), place));
        }
        if name.starts_with('%') {
            return self.refuse(&format!("{name} is not declared"));
        }
        match literal(name, ty) {
            Some(value) if ty != Type::Pred => Ok(self.body.constant(ty.file(), Constant::Value(value))),
            _ => self.refuse(&format!("{name} is not an operand of this type")),
        }
    }

    /// Reads a register that may be wider than the type, with its file and declared type.
    pub fn wide_register(&self, name: &str, ty: Type) -> Decoded<(Reg, Type)> {
        match self.body.register(name) {
            Some((has, reg)) if ty.accepts_wider(has) => Ok((reg, has)),
            Some((has, _)) => {
                self.refuse(&format!("{name} is {has:?}, the instruction wants {ty:?}").to_lowercase())
            }
            None => self.refuse(&format!("{name} is not declared")),
        }
    }

    /// Reads `[base+offset]`: a 64-bit register, a 32-bit one where the space allows it, or a variable.
    pub fn address(&mut self, text: &str, short: bool) -> Decoded<Address> {
        let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) else {
            return self.refuse("an address stands in brackets");
        };
        let (base, offset) = match inner.split_once('+') {
            Some((base, offset)) => (base.trim(), text::integer(offset.trim())),
            None => (inner.trim(), Some(0)),
        };
        let Some(offset) = offset else { return self.refuse("an offset is a number") };
        let (file, base) = match (self.body.register(base), self.body.symbol(base)) {
            (Some((Type::U64 | Type::B64 | Type::S64, reg)), _) => (File::Long, reg),
            (Some((Type::U32 | Type::B32 | Type::S32, reg)), _) if short => (File::Word, reg),
            (Some(_), _) => return self.refuse("the register of an address has another size"),
            (None, Some(place)) => (File::Long, self.body.constant(File::Long, place)),
            (None, None) => return self.refuse("no such register or variable"),
        };
        Ok(Address { file, base, offset: offset as i64 })
    }
}

/// Returns a special register and its type.
fn special(name: &str) -> Option<(Special, Type)> {
    let axis = |rest: &str| ["x", "y", "z"].iter().position(|a| *a == rest).map(|a| a as u8);
    if let Some((stem, rest)) = name.split_once('.') {
        let axis = axis(rest)?;
        let special = match stem {
            "%tid" => Special::Tid(axis),
            "%ntid" => Special::Ntid(axis),
            "%ctaid" => Special::Ctaid(axis),
            "%nctaid" => Special::Nctaid(axis),
            _ => return None,
        };
        return Some((special, Type::U32));
    }
    let special = match name {
        "%laneid" => Special::Vector,
        "%warpid" => Special::Warp,
        "%nwarpid" => Special::Warps,
        "%smid" => Special::Zero,
        "%lanemask_eq" => Special::MaskEq,
        "%lanemask_lt" => Special::MaskLt,
        "%lanemask_le" => Special::MaskLe,
        "%lanemask_gt" => Special::MaskGt,
        "%lanemask_ge" => Special::MaskGe,
        "%total_smem_size" => Special::SharedSize,
        "%dynamic_smem_size" => Special::DynamicSharedSize,
        _ => return None,
    };
    Some((special, Type::U32))
}
