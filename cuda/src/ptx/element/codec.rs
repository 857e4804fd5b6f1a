//! Conversions between storage and arithmetic: the bits of [`fallline_core::codec`].

use super::operand::Operand;
use crate::ptx::{Builder, Class, Reg, Target, Type, Value};
use fallline_core::Format;

impl Operand {
    /// Returns whether elements are stored in the compute type.
    pub(super) fn as_computed(&self, compute: Type) -> bool {
        matches!((self.format, compute), (Format::F64, Type::F64) | (Format::F32, Type::F32))
    }

    /// Returns element `i` of the lane in the compute type: exact, but for `f64` that is computed in `f32`.
    pub(super) fn decode(&self, b: &mut Builder, i: usize, compute: Type) -> Reg {
        let single = match self.format {
            Format::F64 if compute == Type::F64 => return self.raw[i],
            Format::F64 => return b.cvt("rn", Type::F32, Type::F64, self.raw[i]),
            Format::F32 => self.raw[i],
            Format::F16 => {
                let halves = b.unpack(Class::B16, self.raw[i / 2]);
                b.cvt("", Type::F32, Type::F16, halves[i % 2])
            }
            // bfloat16 is the upper half of a single.
            Format::Bf16 => {
                let pair = self.raw[i / 2];
                let bits = match i % 2 {
                    0 => b.shl(Type::B32, pair, 16),
                    _ => b.and(Type::B32, pair, Value::Bits(0xffff_0000)),
                };
                b.cast(Class::F32, bits)
            }
            _ => self.decode_code(b, i),
        };
        match compute {
            Type::F64 => b.cvt("", Type::F64, Type::F32, single),
            _ => single,
        }
    }

    /// Encodes two adjacent elements, of which the first is element `i` of the lane: a value each, or one for a pair
    /// of 16 bits. None for those that are encoded later, as a block.
    pub(super) fn encode(
        &self,
        b: &mut Builder,
        pair: [Value; 2],
        i: usize,
        compute: Type,
        target: Target,
    ) -> Vec<Value> {
        if self.as_computed(compute) {
            return pair.to_vec();
        }
        if self.blocks.is_some() || self.stochastic.is_some() {
            let singles = match compute {
                Type::F64 => pair.map(|x| b.cvt("rn", Type::F32, Type::F64, x).into()),
                _ => pair,
            };
            if let Some(stochastic) = &self.stochastic {
                b.comment(&format!("{}' to {} stochastically", self.name, self.format));
                return vec![self.round_stochastically(b, stochastic, singles, i).into()];
            }
            let to = self.blocks.iter().flat_map(|blocks| &blocks.values[i..i + 2]);
            to.zip(singles).for_each(|(&to, single)| _ = b.to(to).mov(Type::F32, single));
            return Vec::new();
        }
        b.comment(&format!("{}' to {}", self.name, self.format));
        match (self.format, compute) {
            (Format::F64, _) => pair.map(|x| b.cvt("", Type::F64, Type::F32, x).into()).to_vec(),
            (Format::F32, _) => pair.map(|x| b.cvt("rn", Type::F32, Type::F64, x).into()).to_vec(),
            (format, compute) => {
                let [low, high] = match compute {
                    Type::F64 => pair.map(|x| single_to_odd(b, x).into()),
                    _ => pair,
                };
                let packed = match (format, target) {
                    (Format::F16, Target::Sm70) => {
                        let [low, high] = [low, high].map(|x| b.cvt("rn", Type::F16, Type::F32, x));
                        b.pack(Class::B32, low, high)
                    }
                    (_, Target::Sm70) => {
                        let [low, high] = [low, high].map(|x| upper_half_rounded(b, x));
                        b.prmt(low, high, 0x7632)
                    }
                    (Format::F16, _) => b.cvt_pair("f16x2", low, high),
                    _ => b.cvt_pair("bf16x2", low, high),
                };
                vec![packed.into()]
            }
        }
    }
}

/// Returns the bits of a single, with bfloat16 in the upper half: rounded by an integer addition, as core does it. A
/// NaN keeps its upper half instead, with a bit that no rounding clears.
fn upper_half_rounded(b: &mut Builder, x: Value) -> Reg {
    let x = b.mov(Type::F32, x);
    let bits = b.cast(Class::B32, x);
    let odd = b.shr(Type::U32, bits, 16);
    let odd = b.and(Type::B32, odd, 1);
    let bump = b.add(Type::U32, odd, Value::Bits(0x7fff));
    let rounded = b.add(Type::U32, bits, bump);
    let nan = b.setp("nan", Type::F32, x, x);
    let quiet = b.or(Type::B32, bits, Value::Bits(0x0040_0000));
    b.selp(Type::B32, quiet, rounded, nan)
}

/// Returns a double as a single, rounded to odd: a second rounding to 16 bits then gives what one rounding gives.
fn single_to_odd(b: &mut Builder, x: Value) -> Reg {
    let x = b.mov(Type::F64, x);
    let near = b.cvt("rz", Type::F32, Type::F64, x);
    let back = b.cvt("", Type::F64, Type::F32, near);
    let inexact = b.setp("neu", Type::F64, back, x);
    let bits = b.cast(Class::B32, near);
    let odd = b.or(Type::B32, bits, 1);
    let bits = b.selp(Type::B32, odd, bits, inexact);
    b.cast(Class::F32, bits)
}
