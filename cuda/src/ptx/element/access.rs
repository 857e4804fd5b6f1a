//! Loads and stores: whole steps 128 bits at a time, others element by element.

use super::blocks::bytes;
use super::kernel::{Element, Place};
use super::operand::PER_LANE;
use crate::ptx::{Class, Reg, Space, Type, Value};
use core::ops::Range;
use fallline_core::Format;

/// Returns how a format is moved: the type of one access's parts, and how many elements a part has.
pub(super) fn parts(format: Format) -> (Type, usize) {
    match format {
        Format::F64 => (Type::F64, 1),
        Format::F32 => (Type::F32, 1),
        Format::Bf16 | Format::F16 => (Type::B32, 2),
        Format::Q4(_) => (Type::B32, 8),
        _ => (Type::B32, 4),
    }
}

impl Element<'_> {
    /// Loads the elements of the sub-step from `first` on, 128 bits at a time.
    pub(super) fn whole_loads(&mut self, first: usize) {
        for operand in self.operands.iter_mut().filter(|operand| operand.loaded) {
            let (ty, pack) = parts(operand.format);
            let address = operand.address.expect("what is loaded has an address");
            self.b.comment(&format!("load {}", operand.name));
            let elements = (first..first + self.substep).step_by(pack);
            let regs: Vec<Reg> =
                elements.map(|i| self.b.named(ty.class(), &format!("{}_{i}", operand.name))).collect();
            operand.raw.extend(&regs);
            if operand.repeated.is_some() {
                operand.load_repeated(&mut self.b, self.element, first..first + self.substep, None);
                continue;
            }
            for (i, regs) in regs.chunks(16 / ty.bytes()).enumerate() {
                self.b.ld_to(regs, Space::Global, ty, address, operand.format.size(first) + 16 * i);
            }
        }
    }

    /// Stores the elements of the sub-step from `first` on, 128 bits at a time.
    pub(super) fn whole_stores(&mut self, first: usize) {
        for operand in self.operands.iter().filter(|operand| operand.store.is_some()) {
            let (ty, pack) = parts(operand.format);
            let address = operand.address.expect("what is stored has an address");
            self.b.comment(&format!("store {}", operand.name));
            for (i, values) in operand.new[first / pack..].chunks(16 / ty.bytes()).enumerate() {
                self.b.st(Space::Global, ty, address, operand.format.size(first) + 16 * i, values);
            }
        }
    }

    /// Returns for each of the elements `from` the lane's eight whether it is there.
    pub(super) fn present(&mut self, place: &Place, from: Range<usize>) -> Vec<Reg> {
        let b = &mut self.b;
        b.comment("which of the lane's elements are there");
        let before = b.shl(Type::B32, place.lane, i64::from(PER_LANE.ilog2()));
        // Below zero in lanes behind the end, and a chunk has less than 2^31 elements.
        let mine = b.sub(Type::S32, place.rest, before);
        from.map(|element| b.setp("gt", Type::S32, mine, element as i64)).collect()
    }

    /// Loads the elements of the sub-step that are there, one by one into the registers of the whole loads, and
    /// zeros for the rest.
    pub(super) fn masked_loads(&mut self, place: &Place, first: usize) {
        let part = first..first + self.substep;
        let present = self.present(place, part.clone());
        let b = &mut self.b;
        for operand in self.operands.iter().filter(|operand| operand.loaded) {
            let (ty, pack) = parts(operand.format);
            let address = operand.address.expect("what is loaded has an address");
            b.comment(&format!("load {}", operand.name));
            if operand.repeated.is_some() {
                operand.load_repeated(b, self.element, part.clone(), Some(&present));
                continue;
            }
            let elements = part.clone().step_by(pack).zip(present.chunks(pack));
            for ((i, there), &reg) in elements.zip(&operand.raw[first / pack..]) {
                if let [there] = *there {
                    b.to(reg).mov(ty, Value::zero(ty));
                    b.when(there).to(reg).ld(Space::Global, ty, 1, address, i * ty.bytes());
                    continue;
                }
                if operand.blocks.is_some() {
                    // The first of the elements that share a byte is there if one is.
                    let shared = pack / 4;
                    let each: Vec<Reg> = (there.iter().step_by(shared).enumerate())
                        .map(|(byte, &there)| {
                            let code = b.mov(Type::B32, 0);
                            let at = operand.format.size(i) + byte;
                            b.when(there).to(code).ld(Space::Global, Type::U8, 1, address, at);
                            code
                        })
                        .collect();
                    let word = bytes(b, &each);
                    b.to(reg).mov(ty, word);
                    continue;
                }
                let halves = [0, 1].map(|k| {
                    let half = b.mov(Type::B16, 0);
                    b.when(there[k]).to(half).ld(Space::Global, Type::B16, 1, address, 2 * (i + k));
                    half
                });
                b.to(reg).pack(Class::B32, halves[0], halves[1]);
            }
        }
    }

    /// Stores the elements of the sub-step that are there, one by one.
    pub(super) fn masked_stores(&mut self, place: &Place, first: usize) {
        let part = first..first + self.substep;
        let present = self.present(place, part.clone());
        let b = &mut self.b;
        for operand in self.operands.iter().filter(|operand| operand.store.is_some()) {
            let (ty, pack) = parts(operand.format);
            let address = operand.address.expect("what is stored has an address");
            b.comment(&format!("store {}", operand.name));
            let elements = part.clone().step_by(pack).zip(present.chunks(pack));
            for ((i, there), &value) in elements.zip(&operand.new[first / pack..]) {
                if let [there] = *there {
                    b.when(there).st(Space::Global, ty, address, i * ty.bytes(), &[value]);
                    continue;
                }
                let Value::Reg(pair) = value else { unreachable!("pairs are encoded into registers") };
                if operand.blocks.is_some() {
                    for (byte, there) in there.chunks(pack / 4).enumerate() {
                        let mut code = b.shr(Type::U32, pair, 8 * byte as i64);
                        if let [_, second] = *there {
                            // Nothing stands where there is no second one.
                            let first = b.and(Type::B32, code, 0xf0);
                            code = b.selp(Type::B32, code, first, second);
                        }
                        let at = operand.format.size(i) + byte;
                        b.when(there[0]).st(Space::Global, Type::U8, address, at, &[code.into()]);
                    }
                    continue;
                }
                for (k, half) in b.unpack(Class::B16, pair).into_iter().enumerate() {
                    let half = [half.into()];
                    b.when(there[k]).st(Space::Global, Type::B16, address, 2 * (i + k), &half);
                }
            }
        }
    }
}
