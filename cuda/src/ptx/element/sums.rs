//! Sums in the one order of [`fallline_core::reduction`].
//!
//! A step's 256 terms are reduced to 64 by exchanges that leave each lane fewer of them. First lanes 16 apart swap
//! four of their eight, then lanes 8 apart two of the four left. Lane `l` then owns the accumulators `8 (l mod 8) + 4
//! (bit 4 of l) + 2 (bit 3 of l)` and the next one. So nothing is computed twice, and an accumulator is in a register
//! from the segment's first step to its last. Addition commutes, so an exchange gives both lanes the bits of the
//! order.

use super::kernel::{Element, Place};
use super::operand::PER_LANE;
use crate::ptx::{Reg, Space, Type, Value};

/// The lanes' distances at which accumulators 32, 16, 8, 4 and 2 apart are.
const TREE: [i64; 5] = [4, 2, 1, 16, 8];

impl Element<'_> {
    /// Accumulators start from +0.
    pub(super) fn zero_accumulators(&mut self) {
        let ty = self.compute;
        for (name, _) in self.graph.sums() {
            self.b.comment(&format!("{name}: the lane's two accumulators"));
            let owned = [0, 1].map(|i| {
                let reg = self.b.named(ty.class(), &format!("{name}_sum_{i}"));
                self.b.to(reg).mov(ty, Value::zero(ty))
            });
            self.accumulators.push(owned);
        }
    }

    /// Terms of elements that are not there count as +0.
    pub(super) fn masked_terms(&mut self, place: &Place) {
        let present = self.present(place, 0..PER_LANE);
        let ty = self.compute;
        for terms in &self.terms {
            for (&term, &there) in terms.iter().zip(&present) {
                self.b.to(term).selp(ty, term, Value::zero(ty), there);
            }
        }
    }

    /// Folds the step's terms and adds them to the accumulators.
    pub(super) fn add_terms(&mut self, lane: Reg) {
        let b = &mut self.b;
        b.comment("the step's 256 terms fold to 64");
        // Lanes with the bit keep the second half of their terms, the others the first.
        let keeps_second = [16, 8].map(|bit| {
            let bits = b.and(Type::B32, lane, bit);
            (bit, b.setp("ne", Type::U32, bits, 0))
        });
        let ty = self.compute;
        for ((name, _), (accumulators, terms)) in
            self.graph.sums().iter().zip(self.accumulators.iter().zip(&self.terms))
        {
            b.comment(name);
            let mut terms = terms.clone();
            for (bit, second) in keeps_second {
                let (low, high) = terms.split_at(terms.len() / 2);
                terms = low
                    .iter()
                    .zip(high)
                    .map(|(&low, &high)| {
                        let keep = b.selp(ty, high, low, second);
                        let give = b.selp(ty, low, high, second);
                        let got = b.shfl_bfly(give, bit);
                        b.add(ty, keep, got)
                    })
                    .collect();
            }
            for (&accumulator, term) in accumulators.iter().zip(terms) {
                b.to(accumulator).add(ty, accumulator, term);
            }
        }
    }

    /// Folds the accumulators and stores the segment's partial of each sum.
    pub(super) fn store_partials(&mut self, segment: Reg, partials: Reg, lane: Reg) {
        let b = &mut self.b;
        let count = self.accumulators.len();
        b.comment("the segment's end: 64 accumulators fold to one, which lane 0 stores in double precision");
        let at = b.mad_wide(segment, 8 * count as i64, partials);
        let first = b.setp("eq", Type::U32, lane, 0);
        let ty = self.compute;
        for (i, &[mut even, mut odd]) in self.accumulators.iter().enumerate() {
            b.comment(self.graph.sums()[i].0);
            for distance in TREE {
                for accumulator in [&mut even, &mut odd] {
                    let other = b.shfl_bfly(*accumulator, distance);
                    *accumulator = b.add(ty, *accumulator, other);
                }
            }
            let mut total = b.add(ty, even, odd);
            if ty == Type::F32 {
                total = b.cvt("", Type::F64, Type::F32, total);
            }
            b.when(first).st(Space::Global, Type::F64, at, 8 * i, &[total.into()]);
        }
    }
}
