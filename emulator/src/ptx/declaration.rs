//! Declarations of variables, in any space, and literals.

use std::collections::HashMap;

use super::PtxError;
use super::program::Constant;
use super::text::{self, Float};
use super::types::{Space, Type};

/// What holds for the whole text.
pub struct Context {
    pub version: (u32, u32),
    pub target: u32,
    /// Refuse what the assembler may contract (`add.f32` without a rounding).
    pub strict: bool,
    pub symbols: HashMap<String, Constant>,
    pub module_shared: usize,
}

/// A declaration of a variable, in any space.
pub struct Declaration {
    pub space: Space,
    pub ty: Type,
    pub align: usize,
    pub name: String,
    /// Bytes; 0 for `name[]`.
    pub size: usize,
    pub external: bool,
    pub initialiser: Option<String>,
}

impl Declaration {
    /// Reads `.shared .align 16 .b8 name[64]` and its like; `None` where the text declares no variable.
    pub fn parse(line: usize, text: &str) -> Result<Option<Declaration>, PtxError> {
        let refuse = |reason: &str| PtxError::new(line, text, reason);
        let (left, initialiser) = match text.split_once('=') {
            Some((left, right)) => (left, Some(right.trim().to_string())),
            None => (text, None),
        };
        let left = left.replace('[', " [");
        let words: Vec<&str> = left.split_whitespace().collect();
        let Some(space) = words.iter().find_map(|w| w.strip_prefix('.').and_then(Space::parse)) else {
            return Ok(None);
        };
        let (mut ty, mut align, mut external, mut name, mut count) = (None, None, false, None, Some(1usize));
        let mut at = 0;
        while at < words.len() {
            match words[at] {
                ".extern" => external = true,
                ".visible" | ".weak" | ".ptr" => {}
                ".align" => {
                    at += 1;
                    let value = words.get(at).and_then(|w| w.parse::<usize>().ok());
                    let value = value.filter(|v| v.is_power_of_two());
                    align = Some(value.ok_or_else(|| refuse("an alignment is a power of two"))?);
                }
                "[]" => count = None,
                w if w.starts_with('[') => {
                    let extent = w.trim_matches(['[', ']']).parse::<usize>();
                    let extent = extent.map_err(|_| refuse("the extent of an array is a number"))?;
                    count = count.map(|c| c * extent);
                }
                w if w.starts_with('.') => match (Type::parse(&w[1..]), Space::parse(&w[1..])) {
                    (Some(Type::Pred), _) => return Err(refuse("a predicate cannot be in memory")),
                    (Some(t), _) => ty = Some(t),
                    (None, Some(_)) => {}
                    (None, None) => return Err(refuse("unknown directive in a declaration")),
                },
                w => name = Some(w.trim_end_matches(',').to_string()),
            }
            at += 1;
        }
        let ty = ty.ok_or_else(|| refuse("a variable needs a type"))?;
        let name = name.ok_or_else(|| refuse("a variable needs a name"))?;
        let size = count.map_or(0, |c| c * ty.size());
        let align = align.unwrap_or(ty.size());
        Ok(Some(Declaration { space, ty, align, name, size, external, initialiser }))
    }

    /// Returns the bytes of the initialiser, zeros where it ends early.
    pub fn bytes(&self, line: usize) -> Result<Vec<u8>, PtxError> {
        let mut out = vec![0u8; self.size];
        let Some(list) = &self.initialiser else { return Ok(out) };
        let refuse = |reason: String| PtxError::new(line, format!("{} = …", self.name), reason);
        let items = list.trim_matches(|c: char| c == '{' || c == '}' || c.is_whitespace());
        for (i, item) in items.split(',').map(str::trim).filter(|item| !item.is_empty()).enumerate() {
            let value =
                literal(item, self.ty).ok_or_else(|| refuse(format!("cannot read the value {item}")))?;
            let (at, n) = (i * self.ty.size(), self.ty.size());
            let place = out.get_mut(at..at + n).ok_or_else(|| refuse("more values than elements".into()))?;
            place.copy_from_slice(&value.to_le_bytes()[..n]);
        }
        Ok(out)
    }
}

/// Returns a literal as the bits of a value of this type; `None` where ptxas would refuse it.
pub fn literal(text: &str, ty: Type) -> Option<u64> {
    match text::float(text) {
        Some(Float::Single(bits)) => matches!(ty, Type::F32 | Type::B32).then_some(u64::from(bits)),
        Some(Float::Double(bits)) => match ty {
            Type::F64 | Type::B64 => Some(bits),
            // A double is converted to the type of the instruction.
            Type::F32 => Some(u64::from((f64::from_bits(bits) as f32).to_bits())),
            _ => None,
        },
        Some(Float::Decimal(x)) => match ty {
            Type::F64 => Some(x.to_bits()),
            Type::F32 => Some(u64::from((x as f32).to_bits())),
            _ => None,
        },
        None if ty.is_float() => None,
        None => text::integer(text).map(|v| v & (u64::MAX >> (64 - ty.bits()))),
    }
}
