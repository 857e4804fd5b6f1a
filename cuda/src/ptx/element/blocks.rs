//! Block formats: the bits of [`fallline_core::codec::block`].
//!
//! A block is a step's 256 elements, or half of them: its scale is the largest magnitude that some lanes find by
//! exchanges. What codes mean, and the borders between them, every block of threads copies to shared memory first.

use super::kernel::{Element, Place};
use super::operand::{Blocks, Operand, PER_LANE};
use crate::ptx::{Builder, Class, Reg, Space, Type, Value};
use fallline_core::codec::block::zero_code;
use fallline_core::codec::codebook;
use fallline_core::reduction::STEP;
use fallline_core::{Codes, Format};

/// What a magnitude is without the sign.
const MAGNITUDE: Value = Value::Bits(0x7fff_ffff);
/// Lifts subnormal numbers into the normal ones, exactly: 2^64.
const LIFT: f32 = 18_446_744_073_709_551_616.0;
/// Words that a warp copies at a time, two a lane.
const COPIED: usize = 64;

/// Returns the borders between the codes of a format that are looked for.
fn borders(format: Format) -> Option<&'static [f32]> {
    match format {
        Format::Q8(Codes::Signed) | Format::Q8Grid(Codes::Signed) => Some(&codebook::DYNAMIC_SIGNED_BORDERS),
        Format::Q8(Codes::Unsigned) | Format::Q8Grid(Codes::Unsigned) => {
            Some(&codebook::DYNAMIC_UNSIGNED_BORDERS)
        }
        Format::Q4(Codes::Signed) => Some(&codebook::FOUR_BORDERS[0]),
        Format::Q4(Codes::Unsigned) => Some(&codebook::FOUR_BORDERS[1]),
        _ => None,
    }
}

impl Element<'_> {
    /// Copies the tables of all block formats to shared memory, before any warp leaves.
    pub(super) fn copy_tables(&mut self) {
        let mut words: Vec<u32> = Vec::new();
        let mut known: Vec<(&'static [f32], usize)> = Vec::new();
        let mut place = |table: &'static [f32]| {
            if let Some((_, at)) = known.iter().find(|(other, _)| core::ptr::eq(*other, table)) {
                return *at;
            }
            let at = 4 * words.len();
            words.extend(table.iter().map(|x| x.to_bits()));
            known.push((table, at));
            at
        };
        let mut places = Vec::new();
        for operand in self.operands.iter().filter(|operand| operand.blocks.is_some()) {
            let numbers = operand.loaded.then(|| place(codebook::numbers(operand.format)));
            let borders = operand.store.and_then(|_| borders(operand.format)).map(&mut place);
            places.push((numbers, borders));
        }
        if words.is_empty() {
            return;
        }
        words.resize(words.len().next_multiple_of(COPIED), 0);
        let bytes = 4 * words.len() as i64;
        let b = &mut self.b;
        let [from, to] = [b.constants("codebooks", words), b.shared("books", bytes as usize)];
        b.comment("what the codes mean, and the borders between them, to shared memory");
        let (table, books) = (b.mov(Type::U64, from), b.named(Class::B32, "books"));
        b.to(books).mov(Type::U32, to);
        let thread = b.mov(Type::U32, "%tid.x");
        let threads = b.mov(Type::U32, "%ntid.x");
        let stride = b.shl(Type::B32, threads, 3);
        let at = b.named(Class::B32, "copied");
        b.to(at).shl(Type::B32, thread, 3);
        let [copy, copied] = ["copy", "copied"].map(|name| b.label(name));
        b.place(&copy);
        let done = b.setp("ge", Type::U32, at, bytes);
        b.when(done).bra(&copied);
        let source = b.mad_wide(at, 1, table);
        let words: Vec<Value> =
            b.ld(Space::Constant, Type::B32, 2, source, 0).into_iter().map(Value::from).collect();
        let target = b.add(Type::U32, books, at);
        b.st(Space::Shared, Type::B32, target, 0, &words);
        b.to(at).add(Type::U32, at, stride);
        b.bra(&copy);
        b.place(&copied);
        b.bar_sync();
        let blocks = self.operands.iter_mut().filter_map(|operand| operand.blocks.as_mut());
        for (blocks, (numbers, borders)) in blocks.zip(places) {
            let mut start = |at: usize| b.add(Type::U32, books, at as i64);
            blocks.numbers = numbers.map(&mut start);
            blocks.borders = borders.map(&mut start);
        }
    }

    /// Finds where the scales of the lane's blocks are.
    pub(super) fn find_scales(&mut self, lane: Reg, first: Reg, record: Reg) {
        let b = &mut self.b;
        for operand in self.operands.iter_mut().filter(|operand| operand.touched()) {
            let Some(blocks) = &mut operand.blocks else { continue };
            b.comment(&format!("the scales of {}", operand.name));
            let base = b.ld(Space::Constant, Type::U64, 1, record, 8 * (operand.word + 1))[0];
            // A chunk begins with a step, and that with a block: 4 bytes for each.
            let before = b.shr(Type::U64, first, i64::from(blocks.elements.ilog2()) - 2);
            let scales = b.add(Type::U64, base, before);
            let lanes = blocks.elements / PER_LANE;
            let own = b.shr(Type::U32, lane, i64::from(lanes.ilog2()));
            let at = b.named(Class::B64, &format!("{}_scale_at", operand.name));
            blocks.scale_at = Some(b.to(at).mad_wide(own, 4, scales));
            blocks.before = Some(b.mul(Type::U32, own, blocks.elements as i64));
        }
    }

    /// Loads the scales of this step's blocks; 0 where there is none.
    pub(super) fn load_scales(&mut self, place: &Place) {
        let b = &mut self.b;
        for operand in self.operands.iter_mut().filter(|operand| operand.loaded) {
            let Some(blocks) = &mut operand.blocks else { continue };
            let (Some(at), Some(before)) = (blocks.scale_at, blocks.before) else { continue };
            b.comment(&format!("the scale of {}", operand.name));
            let scale = b.named(Class::F32, &format!("{}_scale", operand.name));
            if blocks.elements < STEP {
                let there = b.setp("gt", Type::U32, place.rest, before);
                b.to(scale).mov(Type::F32, Value::F32(0.0));
                b.when(there);
            }
            b.to(scale).ld(Space::Global, Type::F32, 1, at, 0);
            blocks.scale = Some(scale);
        }
    }

    /// Names the registers of numbers that are to be encoded.
    pub(super) fn name_values(&mut self) {
        for operand in self.operands.iter_mut().filter(|operand| operand.store.is_some()) {
            let Some(blocks) = &mut operand.blocks else { continue };
            let name = |i| format!("{}_coded_{i}", operand.name);
            blocks.values = (0..PER_LANE).map(|i| self.b.named(Class::F32, &name(i))).collect();
        }
    }

    /// Returns whether anything is stored in blocks.
    pub(super) fn stores_blocks(&self) -> bool {
        self.operands.iter().any(|operand| operand.store.is_some() && operand.blocks.is_some())
    }

    /// Sets numbers of elements that are not there to +0.
    pub(super) fn masked_values(&mut self, place: &Place) {
        let present = self.present(place, 0..PER_LANE);
        for operand in &self.operands {
            let values = operand.blocks.iter().flat_map(|blocks| &blocks.values);
            for (&value, &there) in values.zip(&present) {
                self.b.to(value).selp(Type::F32, value, Value::F32(0.0), there);
            }
        }
    }

    /// Encodes the numbers of this step, and stores the scales of its blocks.
    pub(super) fn encode_blocks(&mut self, place: &Place) {
        for operand in self.operands.iter_mut().filter(|operand| operand.store.is_some()) {
            if operand.blocks.is_some() {
                operand.encode_block(&mut self.b, place);
            }
        }
    }

    /// Moves on to the next step's scales.
    pub(super) fn next_scales(&mut self) {
        for blocks in self.operands.iter().filter_map(|operand| operand.blocks.as_ref()) {
            if let Some(at) = blocks.scale_at {
                self.b.to(at).add(Type::U64, at, (4 * STEP / blocks.elements) as i64);
            }
        }
    }
}

impl Operand {
    /// Returns element `i` of the lane as a single.
    pub(super) fn decode_code(&self, b: &mut Builder, i: usize) -> Reg {
        let found = self.blocks.as_ref().and_then(|blocks| blocks.numbers.zip(blocks.scale));
        let Some((numbers, scale)) = found else { unreachable!("what is loaded has a codebook and a scale") };
        let (word, shift, mask) = match self.format {
            // The first of two in the upper half of their byte.
            Format::Q4(_) => (self.raw[0], 8 * (i as i64 / 2) + 4 * (1 - i as i64 % 2), 0x3c),
            _ => (self.raw[i / 4], 8 * (i as i64 % 4), 0x3fc),
        };
        // The code times 4, the bytes of a number.
        let code = match shift {
            0 => b.shl(Type::B32, word, 2),
            _ => b.shr(Type::U32, word, shift - 2),
        };
        let code = b.and(Type::B32, code, mask);
        let at = b.add(Type::U32, numbers, code);
        let number = b.ld(Space::Shared, Type::F32, 1, at, 0)[0];
        b.mul(Type::F32, number, scale)
    }

    fn encode_block(&mut self, b: &mut Builder, place: &Place) {
        let Some(blocks) = &self.blocks else { return };
        let (Some(scale_at), Some(before)) = (blocks.scale_at, blocks.before) else { return };
        b.comment(&format!("{}' to {}: the largest magnitude of the block", self.name, self.format));
        let mut largest: Option<Reg> = None;
        for &value in &blocks.values {
            let bits = b.cast(Class::B32, value);
            let bits = b.and(Type::B32, bits, MAGNITUDE);
            largest = Some(match largest {
                Some(most) => b.max(Type::U32, most, bits),
                None => bits,
            });
        }
        let mut largest = largest.expect("a lane has elements");
        let mut distance = blocks.elements / PER_LANE / 2;
        while distance > 0 {
            let other = b.shfl_bfly(largest, distance as i64);
            largest = b.max(Type::U32, largest, other);
            distance /= 2;
        }
        b.comment("its scale, and what a number is in units of it");
        // The scale is 0 or not finite: then all have the code of zero.
        let less = b.sub(Type::U32, largest, 1);
        let none = b.setp("ge", Type::U32, less, Value::Bits(0x7f7f_ffff));
        let bad = b.setp("ge", Type::U32, largest, Value::Bits(0x7f80_0000));
        let stored = b.selp(Type::B32, Value::Bits(f32::NAN.to_bits()), largest, bad);
        let lanes = blocks.elements / PER_LANE;
        let place_in_block = b.and(Type::B32, place.lane, lanes as i64 - 1);
        let leads = b.setp("eq", Type::U32, place_in_block, 0);
        let start = b.selp(Type::B32, before, Value::Bits(u32::MAX), leads);
        let stores = b.setp("lt", Type::U32, start, place.rest);
        if self.loaded {
            // The other lanes have read the old one.
            b.bar_warp_sync();
        }
        b.when(stores).st(Space::Global, Type::B32, scale_at, 0, &[stored.into()]);
        let scale = b.cast(Class::F32, largest);
        let small = b.setp("lt", Type::U32, largest, Value::Bits(0x0080_0000));
        let lift = b.selp(Type::F32, Value::F32(LIFT), Value::F32(1.0), small);
        let lifted = b.mul(Type::F32, scale, lift);
        let factor = b.div(Type::F32, Value::F32(1.0), lifted);
        b.comment("codes");
        let codes: Vec<Reg> = (blocks.values.iter())
            .map(|&value| {
                let lifted = b.mul(Type::F32, value, lift);
                let y = b.mul(Type::F32, lifted, factor);
                self.code_of(b, blocks, y)
            })
            .collect();
        let (words, zeros) = match self.format {
            Format::Q4(_) => (vec![nibbles(b, &codes)], 0x11),
            _ => (codes.chunks(4).map(|four| bytes(b, four)).collect(), 1),
        };
        let zeros = Value::Bits(u32::from(zero_code(self.format)) * zeros * 0x0101_0101);
        self.new.extend(words.into_iter().map(|word| Value::from(b.selp(Type::B32, zeros, word, none))));
    }

    /// Returns the code of a number in units of its block's scale.
    fn code_of(&self, b: &mut Builder, blocks: &Blocks, y: Reg) -> Reg {
        match self.format {
            Format::Q8Linear(Codes::Signed) => {
                let nearest = nearest_integer(b, y, 127.0);
                b.add(Type::S32, nearest, 128)
            }
            Format::Q8Linear(Codes::Unsigned) => {
                let nearest = nearest_integer(b, y, 255.0);
                let positive = b.setp("gt", Type::F32, y, Value::F32(0.0));
                let least = b.selp(Type::B32, 1, 0, positive);
                b.max(Type::S32, nearest, least)
            }
            Format::Fp8 => fp8(b, y),
            Format::Q8Grid(_) => {
                let y = to_grid(b, y);
                self.search(b, blocks, y)
            }
            _ => self.search(b, blocks, y),
        }
    }

    /// Returns the last code whose border a number has reached, by halving.
    fn search(&self, b: &mut Builder, blocks: &Blocks, y: Reg) -> Reg {
        let (Some(start), Some(table)) = (blocks.borders, borders(self.format)) else {
            unreachable!("formats whose codes are looked for have borders")
        };
        let mut half = table.len() / 2;
        let reached = b.setp("ge", Type::F32, y, Value::F32(table[half]));
        let beyond = b.add(Type::U32, start, 4 * half as i64);
        let mut at = b.selp(Type::B32, beyond, start, reached);
        while half > 1 {
            half /= 2;
            let border = b.ld(Space::Shared, Type::F32, 1, at, 4 * half)[0];
            let reached = b.setp("ge", Type::F32, y, border);
            let beyond = b.add(Type::U32, at, 4 * half as i64);
            at = b.selp(Type::B32, beyond, at, reached);
        }
        let bytes = b.sub(Type::U32, at, start);
        b.shr(Type::U32, bytes, 2)
    }
}

/// Returns the integer nearest to `y · by`, ties to even: the adder rounds.
fn nearest_integer(b: &mut Builder, y: Reg, by: f32) -> Reg {
    const SHIFT: f32 = 12_582_912.0;
    let x = b.mul(Type::F32, y, Value::F32(by));
    let shifted = b.add(Type::F32, x, Value::F32(SHIFT));
    let bits = b.cast(Class::B32, shifted);
    b.sub(Type::S32, bits, i64::from(SHIFT.to_bits()))
}

/// Returns the nearest of the 65,536 numbers `2 i / 65535 - 1`, with bitsandbytes' roundings.
fn to_grid(b: &mut Builder, y: Reg) -> Reg {
    let below = b.setp("lt", Type::F32, y, Value::F32(-1.0));
    let y = b.selp(Type::F32, Value::F32(-1.0), y, below);
    let above = b.setp("gt", Type::F32, y, Value::F32(1.0));
    let y = b.selp(Type::F32, Value::F32(1.0), y, above);
    let up = b.add(Type::F32, y, Value::F32(1.0));
    let up = b.mul(Type::F32, up, Value::F32(32767.5));
    let up = b.add(Type::F32, up, Value::F32(0.5));
    let place = b.cvt("rzi", Type::S32, Type::F32, up);
    let twice = b.add(Type::S32, place, place);
    let twice = b.cvt("rn", Type::F32, Type::S32, twice);
    let share = b.div(Type::F32, twice, Value::F32(65535.0));
    b.add(Type::F32, share, Value::F32(-1.0))
}

/// Returns the E4M3 bits nearest to `y · 448`, ties to even; what rounding leaves beyond takes the largest, and what
/// it would make 0 the smallest.
fn fp8(b: &mut Builder, y: Reg) -> Reg {
    let x = b.mul(Type::F32, y, Value::F32(448.0));
    let bits = b.cast(Class::B32, x);
    let magnitude = b.and(Type::B32, bits, MAGNITUDE);
    // Below 2^-6 the adder aligns and rounds.
    let positive = b.cast(Class::F32, magnitude);
    let aligned = b.add(Type::F32, positive, Value::F32(16384.0));
    let aligned = b.cast(Class::B32, aligned);
    let subnormal = b.sub(Type::U32, aligned, Value::Bits(0x4680_0000));
    let odd = b.shr(Type::U32, magnitude, 20);
    let odd = b.and(Type::B32, odd, 1);
    let moved = b.sub(Type::U32, magnitude, Value::Bits(0x3c00_0000 - 0x7_ffff));
    let moved = b.add(Type::U32, moved, odd);
    let normal = b.shr(Type::U32, moved, 20);
    let small = b.setp("lt", Type::U32, magnitude, Value::Bits(0x3c80_0000));
    let rounded = b.selp(Type::B32, subnormal, normal, small);
    let least = b.min(Type::U32, magnitude, 1);
    let rounded = b.max(Type::U32, rounded, least);
    let rounded = b.min(Type::U32, rounded, 0x7e);
    let sign = b.shr(Type::U32, bits, 24);
    let sign = b.and(Type::B32, sign, 0x80);
    b.or(Type::B32, sign, rounded)
}

/// Returns four bytes as a word, the first the lowest.
pub(super) fn bytes(b: &mut Builder, bytes: &[Reg]) -> Reg {
    let [low, high] = [0, 2].map(|i| b.prmt(bytes[i], bytes[i + 1], 0x1140));
    b.prmt(low, high, 0x5410)
}

/// Returns eight codes of 4 bits as a word: two neighbours share a byte, the first in its upper half.
fn nibbles(b: &mut Builder, codes: &[Reg]) -> Reg {
    let pairs: Vec<Reg> = codes
        .chunks(2)
        .map(|pair| {
            let upper = b.shl(Type::B32, pair[0], 4);
            b.or(Type::B32, upper, pair[1])
        })
        .collect();
    bytes(b, &pairs)
}
