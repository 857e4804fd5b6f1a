//! Operands whose elements are repeated: those of [`fallline_core::backend::Broadcast`].
//!
//! A lane divides once for the first of its elements. From there on a run ends or goes on.

use super::access::parts;
use super::kernel::Element;
use super::operand::Operand;
use crate::ptx::{Builder, Class, Reg, Space, Type, Value};
use core::ops::Range;
use fallline_core::reduction::STEP;

impl Element<'_> {
    /// Loads how operands are repeated, and which element the lane's first is.
    pub(super) fn find_repeated(&mut self, lane_first: Reg, record: Reg) {
        let b = &mut self.b;
        for operand in self.operands.iter_mut().filter(|operand| operand.loaded) {
            let Some(repeated) = &mut operand.repeated else { continue };
            b.comment(&format!("how {} is repeated: its run, and that times how often", operand.name));
            let address = b.named(Class::B64, &format!("{}_at", operand.name));
            b.to(address).ld(Space::Constant, Type::U64, 1, record, 8 * operand.word);
            operand.address = Some(address);
            let dims = ["run", "all"].map(|what| b.named(Class::B32, &format!("{}_{what}", operand.name)));
            b.ld_to(&dims, Space::Constant, Type::U32, record, 8 * (operand.word + 1));
            repeated.dims = Some(dims);
            if self.element.is_none() {
                let element = b.named(Class::B32, "element");
                self.element = Some(b.to(element).cvt("", Type::U32, Type::U64, lane_first));
            }
        }
    }

    /// Moves on to the next step's elements.
    pub(super) fn next_element(&mut self) {
        if let Some(element) = self.element {
            self.b.to(element).add(Type::U32, element, STEP as i64);
        }
    }
}

impl Operand {
    /// Loads the lane's elements of a sub-step, one by one into their registers: all, or those that are `present`
    /// and zeros for the rest. `first` is which of the tensor's elements the lane's first is.
    pub(super) fn load_repeated(
        &self,
        b: &mut Builder,
        first: Option<Reg>,
        part: Range<usize>,
        present: Option<&[Reg]>,
    ) {
        let dims = self.repeated.as_ref().and_then(|repeated| repeated.dims);
        let (Some([run, all]), Some(first), Some(address)) = (dims, first, self.address) else {
            unreachable!("what is loaded has an address and a run")
        };
        let (ty, pack) = parts(self.format);
        let element = if part.start == 0 { first } else { b.add(Type::U32, first, part.start as i64) };
        let whole = b.div(Type::U32, element, all);
        let mut in_all = b.rem(Type::U32, element, all);
        let mut in_run = b.rem(Type::U32, in_all, run);
        let mut before = b.mul(Type::U32, whole, run);
        let mut halves = Vec::new();
        for i in part.clone() {
            if i > part.start {
                in_run = b.add(Type::U32, in_run, 1);
                let ends = b.setp("eq", Type::U32, in_run, run);
                in_run = b.selp(Type::U32, 0, in_run, ends);
                in_all = b.add(Type::U32, in_all, 1);
                let ends = b.setp("eq", Type::U32, in_all, all);
                in_all = b.selp(Type::U32, 0, in_all, ends);
                let after = b.add(Type::U32, before, run);
                before = b.selp(Type::U32, after, before, ends);
            }
            let stored = b.add(Type::U32, before, in_run);
            let at = b.mad_wide(stored, self.format.bytes() as i64, address);
            let there = present.map(|present| present[i - part.start]);
            let reg = self.raw[i / pack];
            let (ty, to) = if pack == 1 { (ty, reg) } else { (Type::B16, b.temp(Class::B16)) };
            if let Some(there) = there {
                b.to(to).mov(ty, Value::zero(ty));
                b.when(there);
            }
            b.to(to).ld(Space::Constant, ty, 1, at, 0);
            if pack == 2 {
                halves.push(to);
                if let [low, high] = halves[..] {
                    b.to(reg).pack(Class::B32, low, high);
                    halves.clear();
                }
            }
        }
    }
}
