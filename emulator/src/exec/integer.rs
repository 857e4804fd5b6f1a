//! Integer and bit operations of 16, 32 and 64 bits.

use super::regs::Regs;
use crate::ptx::program::Alu;
use crate::ptx::types::Type;

/// Division by zero gives all ones, as a device does; the remainder is the dividend.
macro_rules! integers {
    ($name:ident, $word:ty, $unsigned:ty, $signed:ty, $wide:ty, $wide_signed:ty) => {
        fn $name(regs: &mut Regs, alu: Alu, signed: bool, d: u32, s: [u32; 4], mask: u32) {
            type U = $unsigned;
            type S = $signed;
            type W = $word;
            const BITS: u32 = U::BITS;
            let (two, three) = ([s[0], s[1]], [s[0], s[1], s[2]]);
            macro_rules! binary {
                ($f:expr) => {
                    regs.map2(d, two, mask, |a: W, b: W| {
                        let f: fn(U, U) -> U = $f;
                        W::from(f(a as U, b as U))
                    })
                };
            }
            macro_rules! signed {
                ($f:expr) => {
                    regs.map2(d, two, mask, |a: W, b: W| {
                        let f: fn(S, S) -> S = $f;
                        W::from(f(a as S, b as S) as U)
                    })
                };
            }
            macro_rules! unary {
                ($f:expr) => {
                    regs.map1(d, s[0], mask, |a: W| {
                        let f: fn(U) -> U = $f;
                        W::from(f(a as U))
                    })
                };
            }
            let high = |a: W, b: W| {
                if signed {
                    ((a as S as $wide_signed).wrapping_mul(b as S as $wide_signed) >> BITS) as U
                } else {
                    ((a as U as $wide).wrapping_mul(b as U as $wide) >> BITS) as U
                }
            };
            match alu {
                Alu::Add => binary!(|a, b| a.wrapping_add(b)),
                Alu::Sub => binary!(|a, b| a.wrapping_sub(b)),
                Alu::Mul => binary!(|a, b| a.wrapping_mul(b)),
                Alu::MulHi => regs.map2(d, two, mask, |a: W, b: W| W::from(high(a, b))),
                Alu::Mad => regs.map3(d, three, mask, |a: W, b: W, c: W| {
                    W::from((a as U).wrapping_mul(b as U).wrapping_add(c as U))
                }),
                Alu::MadHi => {
                    regs.map3(d, three, mask, |a: W, b: W, c: W| W::from(high(a, b).wrapping_add(c as U)))
                }
                Alu::Div if signed => signed!(|a, b| if b == 0 { -1 } else { a.wrapping_div(b) }),
                Alu::Div => binary!(|a, b| a.checked_div(b).unwrap_or(U::MAX)),
                Alu::Rem if signed => signed!(|a, b| if b == 0 { a } else { a.wrapping_rem(b) }),
                Alu::Rem => binary!(|a, b| a.checked_rem(b).unwrap_or(a)),
                Alu::Min if signed => signed!(|a, b| a.min(b)),
                Alu::Min => binary!(|a, b| a.min(b)),
                Alu::Max if signed => signed!(|a, b| a.max(b)),
                Alu::Max => binary!(|a, b| a.max(b)),
                Alu::Abs => unary!(|a| (a as S).wrapping_abs() as U),
                Alu::Neg => unary!(|a| a.wrapping_neg()),
                Alu::And => binary!(|a, b| a & b),
                Alu::Or => binary!(|a, b| a | b),
                Alu::Xor => binary!(|a, b| a ^ b),
                Alu::Not => unary!(|a| !a),
                Alu::Shl => {
                    regs.map2(d, two, mask, |a: W, n: u32| W::from(if n < BITS { (a as U) << n } else { 0 }))
                }
                Alu::Shr if signed => {
                    regs.map2(d, two, mask, |a: W, n: u32| W::from((a as S >> n.min(BITS - 1)) as U))
                }
                Alu::Shr => {
                    regs.map2(d, two, mask, |a: W, n: u32| W::from(if n < BITS { a as U >> n } else { 0 }))
                }
                Alu::Popc => regs.map1(d, s[0], mask, |a: W| (a as U).count_ones()),
                Alu::Clz => regs.map1(d, s[0], mask, |a: W| (a as U).leading_zeros()),
                Alu::Brev => unary!(|a| a.reverse_bits()),
                Alu::Bfe => regs.map3(d, three, mask, |a: W, at: u32, n: u32| {
                    let (at, n) = (at & 255, n & 255);
                    let field = if at < BITS { a as U >> at } else { 0 };
                    let keep = if n < BITS { (1 as U).wrapping_shl(n).wrapping_sub(1) } else { U::MAX };
                    // The sign is that of the field's last bit, or of the value where the field goes beyond it.
                    let sign = (at + n).saturating_sub(1).min(BITS - 1);
                    let fill = signed && n > 0 && a as U >> sign & 1 == 1;
                    let keep = if at + n > BITS && at < BITS { keep & (U::MAX >> at) } else { keep };
                    let keep = if at >= BITS { 0 } else { keep };
                    W::from(if fill { field & keep | !keep } else { field & keep })
                }),
                Alu::Bfi => {
                    let n = regs.row::<u32>(s[3]);
                    let (a, b, at) = (regs.row::<W>(s[0]), regs.row::<W>(s[1]), regs.row::<u32>(s[2]));
                    let out = std::array::from_fn(|l| {
                        let (at, n) = (at[l] & 255, n[l] & 255);
                        let keep = if n < BITS { (1 as U).wrapping_shl(n).wrapping_sub(1) } else { U::MAX };
                        let keep = keep.checked_shl(at).unwrap_or(0);
                        let new = (a[l] as U).checked_shl(at).unwrap_or(0);
                        W::from(b[l] as U & !keep | new & keep)
                    });
                    regs.put(d, out, mask);
                }
                _ => words(regs, alu, d, s, mask),
            }
        }
    };
}
integers!(halves, u32, u16, i16, u32, i32);
integers!(singles, u32, u32, i32, u64, i64);
integers!(doubles, u64, u64, i64, u128, i128);

/// Does what only 32 bits have.
fn words(regs: &mut Regs, alu: Alu, d: u32, s: [u32; 4], mask: u32) {
    let three = [s[0], s[1], s[2]];
    let joined = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    match alu {
        Alu::ShfLeft => regs.map3(d, three, mask, |a, b, n: u32| ((joined(a, b) << (n & 31)) >> 32) as u32),
        Alu::ShfRight => regs.map3(d, three, mask, |a, b, n: u32| (joined(a, b) >> (n & 31)) as u32),
        Alu::ShfLeftClamp => {
            regs.map3(d, three, mask, |a, b, n: u32| ((joined(a, b) << n.min(32)) >> 32) as u32)
        }
        Alu::ShfRightClamp => regs.map3(d, three, mask, |a, b, n: u32| (joined(a, b) >> n.min(32)) as u32),
        Alu::Prmt => regs.map3(d, three, mask, |a, b, choice: u32| {
            let bytes = joined(a, b).to_le_bytes();
            let pick = |i: u32| {
                let nibble = choice >> (4 * i) & 15;
                let byte = bytes[(nibble & 7) as usize];
                if nibble & 8 != 0 { (byte as i8 >> 7) as u8 } else { byte }
            };
            u32::from_le_bytes([pick(0), pick(1), pick(2), pick(3)])
        }),
        Alu::Lop3 => {
            let table = regs.row::<u32>(s[3])[0];
            regs.map3(d, three, mask, |a: u32, b: u32, c: u32| {
                (0..8u32).filter(|i| table >> i & 1 == 1).fold(0, |out, i| {
                    let side = |x: u32, bit: u32| if i >> bit & 1 == 1 { x } else { !x };
                    out | side(a, 2) & side(b, 1) & side(c, 0)
                })
            });
        }
        _ => unreachable!("the decoder gives no other operation on integers"),
    }
}

/// Runs an operation on integers or bits of this type.
pub fn run(regs: &mut Regs, alu: Alu, ty: Type, d: u32, s: [u32; 4], mask: u32) {
    let (two, three) = ([s[0], s[1]], [s[0], s[1], s[2]]);
    match (alu, ty) {
        (Alu::MulWide, Type::U32) => regs.map2(d, two, mask, |a: u32, b: u32| u64::from(a) * u64::from(b)),
        (Alu::MulWide, Type::S32) => {
            regs.map2(d, two, mask, |a: u32, b: u32| (i64::from(a as i32) * i64::from(b as i32)) as u64)
        }
        (Alu::MulWide, Type::U16) => regs.map2(d, two, mask, |a: u32, b: u32| a * b),
        (Alu::MulWide, _) => {
            regs.map2(d, two, mask, |a: u32, b: u32| (i32::from(a as i16) * i32::from(b as i16)) as u32)
        }
        (Alu::MadWide, Type::U32) => {
            regs.map3(d, three, mask, |a: u32, b: u32, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c))
        }
        (Alu::MadWide, Type::S32) => regs.map3(d, three, mask, |a: u32, b: u32, c: u64| {
            ((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(c)
        }),
        (Alu::MadWide, Type::U16) => {
            regs.map3(d, three, mask, |a: u32, b: u32, c: u32| (a * b).wrapping_add(c))
        }
        (Alu::MadWide, _) => regs.map3(d, three, mask, |a: u32, b: u32, c: u32| {
            ((i32::from(a as i16) * i32::from(b as i16)) as u32).wrapping_add(c)
        }),
        _ => match ty.size() {
            2 => halves(regs, alu, ty.is_signed(), d, s, mask),
            4 => singles(regs, alu, ty.is_signed(), d, s, mask),
            _ => doubles(regs, alu, ty.is_signed(), d, s, mask),
        },
    }
}
