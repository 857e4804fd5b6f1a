//! Loads, stores, atomics, addresses, fences.

use super::decode::inside;
use super::line::{Decoded, Line};
use super::program::{Access, Address, Atomic, Op, Param};
use super::types::{File, Space, Type};

use Type::*;

/// Suffixes that say where a value may be cached, who sees it, and when. Nothing of that could differ here: one
/// thread of the machine runs at a time and there is no cache.
const HINTS: &[&str] = &[
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "weak",
    "volatile",
    "relaxed",
    "acquire",
    "release",
    "acq_rel",
    "cta",
    "gpu",
    "sys",
    "cluster",
    "L1::no_allocate",
    "L1::evict_first",
    "L1::evict_last",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L2::64B",
    "L2::128B",
    "L2::256B",
];

impl Line<'_, '_> {
    fn hints(&mut self) {
        while self.first(|s| HINTS.contains(&s).then_some(())).is_some() {}
    }

    fn space(&mut self) -> Space {
        self.first(Space::parse).unwrap_or(Space::Generic)
    }

    /// Returns what loads and stores have in common; the operand with the values and that with the address, which a
    /// parameter does not need.
    fn access(&mut self, values: usize, address: Option<usize>) -> Decoded<Access> {
        let space = self.space();
        if self.takes("nc") && (self.base != "ld" || space != Space::Global) {
            return self.refuse(".nc is for ld.global");
        }
        self.hints();
        let count = self.one_of(&[("v2", 2), ("v4", 4)]);
        let ty = self.one_type(&[B8, U8, S8, B16, U16, S16, B32, U32, S32, F32, B64, U64, S64, F64])?;
        if count.unwrap_or(1) * ty.size() > 16 {
            return self.refuse("more than 16 bytes at once");
        }
        self.count(2)?;
        let values = self.operands[values];
        let names = match (count, inside(values)) {
            (None, None) => vec![values],
            (Some(n), Some(list)) if list.len() == n => list,
            _ => return self.refuse("the number of registers is not that of the vector"),
        };
        let short = matches!(space, Space::Shared | Space::Const | Space::Local);
        let address = match address {
            Some(i) => self.address(self.operands[i], short)?,
            None => Address { file: File::Long, base: 0, offset: 0 },
        };
        let mut access = Access {
            space,
            ty,
            count: names.len() as u8,
            regs: [0; 4],
            file: ty.file(),
            register_bits: ty.bits(),
            address,
            slot: self.body.kernel.slots as u32,
        };
        self.body.kernel.slots += 1;
        for (i, name) in names.iter().enumerate() {
            let (reg, has) = match self.wide_register(name, ty) {
                Ok(found) => found,
                // A store may write a constant.
                Err(error) if self.base == "ld" || name.starts_with('%') => return Err(error),
                Err(_) => (self.source(name, ty)?, ty),
            };
            if i > 0 && has.file() != access.file {
                return self.refuse("registers of different sizes");
            }
            (access.regs[i], access.file, access.register_bits) = (reg, has.file(), has.bits());
        }
        Ok(access)
    }

    pub fn load(&mut self) -> Decoded<Op> {
        if self.base == "ldu" {
            return Ok(Op::Unknown);
        }
        if self.first(|s| (Space::parse(s) == Some(Space::Param)).then_some(())).is_some() {
            return self.load_param();
        }
        Ok(Op::Load(self.access(0, Some(1))?))
    }

    /// Decodes the load of a parameter, whose place is known now.
    fn load_param(&mut self) -> Decoded<Op> {
        self.count(2)?;
        let place = self.operands[1].trim_matches(['[', ']']);
        let (name, offset) = place.split_once('+').unwrap_or((place, "0"));
        let found = self.body.kernel.params.iter().find(|p| p.name == name.trim());
        let (Some(Param { offset: start, size, .. }), Ok(offset)) =
            (found.cloned(), offset.trim().parse::<usize>())
        else {
            return self.refuse("no such parameter");
        };
        let access = self.access(0, None)?;
        let bytes = access.ty.size() * access.count as usize;
        let at = start + offset;
        if offset + bytes > size || !at.is_multiple_of(bytes) {
            return self.refuse("outside the parameter, or not aligned");
        }
        Ok(Op::LoadParam { access, at })
    }

    pub fn store(&mut self) -> Decoded<Op> {
        let access = self.access(1, Some(0))?;
        if matches!(access.space, Space::Const | Space::Param) {
            return self.refuse("this space is not written");
        }
        Ok(Op::Store(access))
    }

    pub fn atomic(&mut self) -> Decoded<Op> {
        use Atomic::*;
        let returns = self.base == "atom";
        let space = self.space();
        if !matches!(space, Space::Global | Space::Shared | Space::Generic) {
            return self.refuse("atomics are for global and shared memory");
        }
        self.hints();
        const NAMES: &[(&str, Atomic)] = &[
            ("add", Add),
            ("min", Min),
            ("max", Max),
            ("and", And),
            ("or", Or),
            ("xor", Xor),
            ("exch", Exchange),
            ("cas", Cas),
            ("inc", Inc),
            ("dec", Dec),
        ];
        let Some(atomic) = self.one_of(NAMES) else { return self.refuse("needs an operation") };
        let ty = self.one_type(match atomic {
            Add => &[U32, S32, U64, F32, F64],
            Min | Max => &[U32, S32, U64, S64],
            And | Or | Xor => &[B32, B64],
            Exchange | Cas => &[B32, B64],
            Inc | Dec => &[U32],
        })?;
        if !returns && matches!(atomic, Exchange | Cas) {
            return self.refuse("red has no such operation");
        }
        let at = usize::from(returns);
        self.count(at + if atomic == Cas { 3 } else { 2 })?;
        let d = if returns { self.pair(0, ty, ty)?.0 } else { None };
        let address = self.address(self.operands[at], space == Space::Shared)?;
        let b = self.src(at + 1, ty)?;
        let c = if atomic == Cas { Some(self.src(at + 2, ty)?) } else { None };
        let slot = self.body.kernel.slots as u32;
        self.body.kernel.slots += 1;
        let access = Access {
            space,
            ty,
            count: 1,
            regs: [b; 4],
            file: ty.file(),
            register_bits: ty.bits(),
            address,
            slot,
        };
        Ok(Op::Atomic { atomic, access, d, b, c })
    }

    /// Decodes a conversion of an address. Global and constant addresses are generic as they are; shared ones get a
    /// window.
    pub fn cvta(&mut self) -> Decoded<Op> {
        let from = self.takes("to");
        let space = self.space();
        let file = self.address_file()?;
        let ty = self.types[0];
        self.count(2)?;
        let (d, a) = (self.dst(0, ty)?, self.src(1, ty)?);
        match (space, file) {
            (Space::Global | Space::Const, _) => Ok(Op::Mov { file, d, a }),
            (Space::Shared, File::Long) if from => Ok(Op::FromGeneric { d, a }),
            (Space::Shared, File::Long) => Ok(Op::ToGeneric { d, a }),
            _ => self.refuse("this space is not converted here"),
        }
    }

    pub fn fence(&mut self) -> Decoded<Op> {
        for level in ["gl", "cta", "sys", "gpu", "sc", "acq_rel"] {
            self.takes(level);
        }
        self.count(0)?;
        Ok(Op::Nothing)
    }

    pub fn hint(&mut self) -> Decoded<Op> {
        for word in ["global", "L1", "L2"] {
            self.takes(word);
        }
        self.types.clear();
        Ok(Op::Nothing)
    }
}
