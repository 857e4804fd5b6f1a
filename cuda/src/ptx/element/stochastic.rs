//! Stochastic rounding: the bits of [`fallline_core::codec::stochastic`].

use super::kernel::Element;
use super::operand::{Operand, PER_LANE, Stochastic};
use crate::ptx::{Builder, Class, Reg, Space, Type, Value};
use fallline_core::codec::stochastic::{MULTIPLIER, ROUNDS, WEYL};
use fallline_core::reduction::STEP;

impl Element<'_> {
    /// Returns whether anything is rounded stochastically.
    pub(super) fn rounds_stochastically(&self) -> bool {
        self.operands.iter().any(|operand| operand.stochastic.is_some())
    }

    /// Loads the keys of the tensor's operands, and finds out which fours of its elements the lane's are.
    pub(super) fn find_keys(&mut self, lane: Reg, first: Reg, tensor: Reg, keys: Reg) {
        let operands = self.graph.operands().len() as i64;
        let b = &mut self.b;
        b.comment("the keys of what is rounded stochastically, and the lane's first four elements");
        let row = b.mad_wide(tensor, 8 * (operands + 1), keys);
        for (i, operand) in self.operands.iter_mut().enumerate() {
            let Some(stochastic) = &mut operand.stochastic else { continue };
            let key = b.ld(Space::Constant, Type::B32, 2, row, 8 * i);
            stochastic.key = [Some(key[0]), Some(key[1])];
        }
        let fours = b.shr(Type::U64, first, 2);
        let before = b.ld(Space::Constant, Type::U64, 1, row, 8 * operands as usize)[0];
        let before = b.add(Type::U64, fours, before);
        let counter4 = b.named(Class::B64, "quarter");
        self.counter4 = Some(b.to(counter4).mad_wide(lane, (PER_LANE / 4) as i64, before));
    }

    /// Draws for the lane's four elements from `first` on.
    pub(super) fn draw(&mut self, first: usize) {
        let Some(counter4) = self.counter4 else { return };
        let b = &mut self.b;
        b.comment(&format!("random bits of elements {first} to {} of the lane", first + 3));
        let counter4 = if first == 0 { counter4 } else { b.add(Type::U64, counter4, (first / 4) as i64) };
        let [low, high] = b.unpack(Class::B32, counter4);
        for operand in &mut self.operands {
            let Some(stochastic) = &mut operand.stochastic else { continue };
            let [Some(key), Some(key_high)] = stochastic.key else { unreachable!("keys are loaded") };
            let right = b.xor(Type::B32, key_high, high);
            stochastic.words = philox(b, [low, right], key).map(Some);
        }
    }

    /// Moves on to the next step's elements.
    pub(super) fn next_counter4(&mut self) {
        if let Some(counter4) = self.counter4 {
            self.b.to(counter4).add(Type::U64, counter4, (STEP / 4) as i64);
        }
    }
}

/// Computes one block of Philox2x32-7.
fn philox(b: &mut Builder, [mut left, mut right]: [Reg; 2], key: Reg) -> [Reg; 2] {
    let multiplier = Value::Bits(MULTIPLIER as u32);
    for round in 0..ROUNDS {
        let key = match round {
            0 => key,
            _ => b.add(Type::U32, key, Value::Bits(WEYL.wrapping_mul(round))),
        };
        let (high, low) = (b.mul_hi(left, multiplier), b.mul(Type::U32, left, multiplier));
        let mixed = b.xor(Type::B32, high, key);
        left = b.xor(Type::B32, mixed, right);
        right = low;
    }
    [left, right]
}

impl Operand {
    /// Returns two neighbours, of which the first is element `i` of the lane, as bfloat16 up or down.
    pub(super) fn round_stochastically(
        &self,
        b: &mut Builder,
        words: &Stochastic,
        pair: [Value; 2],
        i: usize,
    ) -> Reg {
        let word = words.words[i / 2 % 2].expect("drawn");
        let chances = [b.and(Type::B32, word, Value::Bits(0xffff)), b.shr(Type::U32, word, 16)];
        let [low, high] = [0, 1].map(|k| {
            let x = b.mov(Type::F32, pair[k]);
            let bits = b.cast(Class::B32, x);
            let up = b.add(Type::U32, bits, chances[k]);
            let quiet = b.or(Type::B32, bits, Value::Bits(0x0040_0000));
            let nan = b.setp("nan", Type::F32, x, x);
            b.selp(Type::B32, quiet, up, nan)
        });
        b.prmt(low, high, 0x7632)
    }
}
