//! Loads and stores: whole steps 128 bits at a time, others element by element.

use super::{Element, PER_LANE, Place};
use crate::ptx::{Class, Reg, Space, Type, Value};
use fallline_core::Format;

/// How a format is moved: the type of one access's parts, and how many elements a part has.
pub(super) fn parts(format: Format) -> (Type, usize) {
    match format {
        Format::F64 => (Type::F64, 1),
        Format::F32 => (Type::F32, 1),
        Format::Bf16 | Format::F16 => (Type::B32, 2),
        other => unimplemented!("element-wise kernels of operands in {other}"),
    }
}

impl Element<'_> {
    /// 128 bits at a time.
    pub(super) fn whole_loads(&mut self) {
        for stream in self.streams.iter_mut().filter(|stream| stream.loaded) {
            let (ty, pack) = parts(stream.format);
            let address = stream.address.expect("what is loaded has an address");
            self.b.comment(&format!("load {}", stream.name));
            stream.raw = (0..PER_LANE / pack)
                .map(|i| self.b.named(ty.class(), &format!("{}_{}", stream.name, i * pack)))
                .collect();
            for (i, regs) in stream.raw.chunks(16 / ty.bytes()).enumerate() {
                self.b.ld_to(regs, Space::Global, ty, address, 16 * i);
            }
        }
    }

    /// 128 bits at a time.
    pub(super) fn whole_stores(&mut self) {
        for stream in self.streams.iter().filter(|stream| stream.store.is_some()) {
            let (ty, _) = parts(stream.format);
            let address = stream.address.expect("what is stored has an address");
            self.b.comment(&format!("store {}", stream.name));
            for (i, values) in stream.new.chunks(16 / ty.bytes()).enumerate() {
                self.b.st(Space::Global, ty, address, 16 * i, values);
            }
        }
    }

    /// For each of the lane's elements whether it is there.
    pub(super) fn present(&mut self, place: &Place) -> Vec<Reg> {
        let b = &mut self.b;
        b.comment("which of the lane's elements are there");
        let before = b.shl(Type::B32, place.lane, i64::from(PER_LANE.ilog2()));
        // Below zero in lanes behind the end, and a chunk has less than 2^31 elements.
        let mine = b.sub(Type::S32, place.rest, before);
        (0..PER_LANE as i64).map(|element| b.setp("gt", Type::S32, mine, element)).collect()
    }

    /// The elements that are there, one by one into the registers of the whole loads, and zeros for the rest.
    pub(super) fn masked_loads(&mut self, place: &Place) {
        let present = self.present(place);
        let b = &mut self.b;
        for stream in self.streams.iter().filter(|stream| stream.loaded) {
            let (ty, pack) = parts(stream.format);
            let address = stream.address.expect("what is loaded has an address");
            b.comment(&format!("load {}", stream.name));
            if pack == 1 {
                for (i, (&reg, &there)) in stream.raw.iter().zip(&present).enumerate() {
                    b.to(reg).mov(ty, zero(ty));
                    b.when(there).to(reg).ld(Space::Global, ty, 1, address, i * ty.bytes());
                }
                continue;
            }
            for (i, &reg) in stream.raw.iter().enumerate() {
                let halves = [2 * i, 2 * i + 1].map(|element| {
                    let half = b.mov(Type::B16, 0);
                    b.when(present[element]).to(half).ld(Space::Global, Type::B16, 1, address, 2 * element);
                    half
                });
                b.to(reg).pack(Class::B32, halves[0], halves[1]);
            }
        }
    }

    /// The elements that are there, one by one.
    pub(super) fn masked_stores(&mut self, place: &Place) {
        let present = self.present(place);
        let b = &mut self.b;
        for stream in self.streams.iter().filter(|stream| stream.store.is_some()) {
            let (ty, pack) = parts(stream.format);
            let address = stream.address.expect("what is stored has an address");
            b.comment(&format!("store {}", stream.name));
            for (i, &value) in stream.new.iter().enumerate() {
                if pack == 1 {
                    b.when(present[i]).st(Space::Global, ty, address, i * ty.bytes(), &[value]);
                    continue;
                }
                let Value::Reg(pair) = value else { unreachable!("pairs are encoded into registers") };
                let halves = b.unpack(Class::B16, pair);
                for (element, half) in [2 * i, 2 * i + 1].into_iter().zip(halves) {
                    b.when(present[element]).st(
                        Space::Global,
                        Type::B16,
                        address,
                        2 * element,
                        &[half.into()],
                    );
                }
            }
        }
    }
}

/// Zero of a type.
pub(super) fn zero(ty: Type) -> Value {
    match ty {
        Type::F32 => Value::F32(0.0),
        Type::F64 => Value::F64(0.0),
        _ => Value::Int(0),
    }
}
