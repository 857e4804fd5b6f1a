//! Every instruction set against the specification.

use super::block_codec;
use super::blocks::BlockCodec;
use crate::Isa;
use crate::codec::Coded;
use fallline_core::codec::block::{self, LONGEST, code_of};
use fallline_core::codec::codebook::numbers;
use fallline_core::{Codes, Format};

/// Encodes a block of the longest format, or two of a shorter one, or what there is of them.
unsafe fn encode<T: Coded>(blocks: BlockCodec, numbers: &[T], codes: &mut [u8], scales: &mut [f32]) {
    // SAFETY: the caller vouches for the instruction set, and the slices hold what they must.
    unsafe {
        T::with_singles(numbers.as_ptr(), numbers.len(), |from| {
            (blocks.encode)(from, scales.as_mut_ptr(), codes.as_mut_ptr(), numbers.len());
        });
    }
}

/// Decodes.
unsafe fn decode<T: Coded>(blocks: BlockCodec, codes: &[u8], scales: &[f32], numbers: &mut [T]) {
    // SAFETY: as above.
    unsafe {
        T::from_singles(numbers.as_mut_ptr(), numbers.len(), |to| {
            (blocks.decode)(codes.as_ptr(), scales.as_ptr(), to, numbers.len());
        });
    }
}

/// Blocks of all lengths, with what is not finite. Their numbers, of all sizes, are around all borders of the dynamic
/// codes and all places of the grid.
fn samples() -> Vec<f32> {
    let mut samples = Vec::new();
    let mut block = |scale: f32, of: &mut dyn FnMut(usize) -> f32| {
        samples.push(scale);
        samples.extend((1..LONGEST).map(|i| scale * of(i)));
    };
    for format in [Format::Q8(Codes::Signed), Format::Q8(Codes::Unsigned), Format::Q4(Codes::Signed)] {
        for pair in numbers(format).windows(2) {
            let middle = ((f64::from(pair[0]) + f64::from(pair[1])) / 2.0) as f32;
            let near = |i: usize| f32::from_bits(middle.to_bits().wrapping_add(i as u32).wrapping_sub(128));
            for scale in [1.0, 3.1e-3, 1.7e20, 1e-37] {
                block(scale, &mut |i| near(i).clamp(-1.0, 1.0));
            }
        }
    }
    for first in (0..65536).step_by(LONGEST - 1) {
        block(1.0, &mut |i| -1.0 + (2 * (first + i - 1).min(65535)) as f32 / 65535.0);
        block(1.0, &mut |i| -1.0 + (2 * (first + i - 1).min(65535) + 1) as f32 / 65535.0);
    }
    let mut random = 1u32;
    let mut next = move || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        random >> 8
    };
    for scale in [1.0, 0.37, 2e-38, 3e-41, 1e-45, 1e38, 3e38] {
        for _ in 0..40 {
            block(scale, &mut |_| {
                let x = (next() as f32 / 16_777_216.0 - 0.5) * 2.0;
                x * 10f32.powi(-((next() % 9) as i32))
            });
        }
    }
    samples.extend([0.0; LONGEST]);
    samples.extend([-0.0; LONGEST]);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        samples.extend((0..LONGEST).map(|i| if i == 200 { bad } else { i as f32 }));
    }
    samples
}

#[test]
fn every_instruction_set_gives_the_specified_codes_and_numbers() {
    let samples = samples();
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        for format in Format::BLOCKS {
            let fast = block_codec(format, isa);
            for (place, chunk) in samples.chunks(LONGEST).enumerate() {
                let length = if place % 5 == 0 { LONGEST - place % LONGEST } else { LONGEST };
                let chunk = &chunk[..length];
                let (mut codes, mut expected) = ([0xaa; LONGEST], [0xaa; LONGEST]);
                let (mut scales, mut scale) = ([7.0; 2], [7.0; 2]);
                let block = format.block().expect("a block format");
                for (i, numbers) in chunk.chunks(block).enumerate() {
                    let codes = &mut expected[format.size(i * block)..][..format.size(numbers.len())];
                    scale[i] = block::encode_block(format, numbers, codes);
                }
                // SAFETY: the buffers hold a block, and the machine has the instruction set.
                unsafe { encode(fast, chunk, &mut codes, &mut scales) };
                assert_eq!(codes, expected, "{isa} {format}: {chunk:?}");
                assert_eq!(scales.map(f32::to_bits), scale.map(f32::to_bits), "{isa} {format}");
                let doubles: Vec<f64> = chunk.iter().map(|&x| f64::from(x)).collect();
                // SAFETY: as above.
                unsafe { encode(fast, &doubles, &mut codes, &mut scales) };
                assert_eq!(codes, expected, "{isa} {format} from doubles");
                let (mut found, mut decoded) = ([7.0; LONGEST], [7.0; LONGEST]);
                for (i, numbers) in decoded[..length].chunks_mut(block).enumerate() {
                    block::decode_block(format, &codes[format.size(i * block)..], scale[i], numbers);
                }
                // SAFETY: as above.
                unsafe { decode(fast, &codes, &scales, &mut found[..length]) };
                let same = |a: &f32, b: &f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                assert!(found.iter().zip(&decoded).all(|(a, b)| same(a, b)), "{isa} {format}");
                let mut wide = [7.0f64; LONGEST];
                // SAFETY: as above.
                unsafe { decode(fast, &codes, &scales, &mut wide[..length]) };
                assert!(wide.iter().zip(&decoded).all(|(a, b)| same(&(*a as f32), b)), "{isa} {format}");
            }
        }
    }
}

/// All numbers around the borders between places of the grid. Their places come of sums with 1, so that one of the
/// numbers with the same sum suffices.
#[test]
fn every_border_of_the_grid_is_where_it_should_be() {
    for first in 0..=65536u32 {
        let border = (f64::from(first) - 0.5).max(0.0) / 32767.5;
        let unit = if border < 1.0 { 2f64.powi(-24) } else { 2f64.powi(-23) };
        let numbers = core::array::from_fn::<f32, 8, _>(|i| {
            let sum = (border / unit).floor() + i as f64 - 3.0;
            ((sum * unit) - 1.0).clamp(-1.0, 1.0) as f32
        });
        encodes_on_the_grid(&numbers);
    }
}

/// All sums.
#[test]
#[cfg_attr(debug_assertions, ignore = "minutes without optimization; runs in release")]
fn every_sum_with_1_has_its_code_on_the_grid() {
    let sums = (0..1 << 24).map(|i| i as f32 * 2f32.powi(-24));
    let sums = sums.chain((1 << 23..=1 << 24).map(|i| i as f32 * 2f32.powi(-23)));
    let numbers: Vec<f32> = sums.map(|sum| sum - 1.0).collect();
    numbers.chunks(LONGEST - 1).for_each(encodes_on_the_grid);
}

/// With a block's scale of 1.
fn encodes_on_the_grid(numbers: &[f32]) {
    for codes in [Codes::Signed, Codes::Unsigned] {
        let format = Format::Q8Grid(codes);
        let mut block = [1.0; LONGEST];
        for (to, &x) in block[1..].iter_mut().zip(numbers) {
            *to = if codes == Codes::Signed { x } else { x.max(0.0) };
        }
        let mut expected = [code_of(format, 1.0); LONGEST];
        for (code, &x) in expected.iter_mut().zip(&block).take(numbers.len() + 1) {
            *code = code_of(format, x);
        }
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available() && *isa >= Isa::Avx2) {
            let (mut found, mut scale) = ([0; LONGEST], [0.0]);
            // SAFETY: the buffers hold a block, and the machine has the instruction set.
            unsafe { encode(block_codec(format, isa), &block, &mut found, &mut scale) };
            assert_eq!(found, expected, "{isa} {format}: {numbers:?}");
        }
    }
}

/// All singles: the tests above take what could go wrong, this one what nobody thought of.
#[test]
#[cfg_attr(debug_assertions, ignore = "minutes without optimization; runs in release")]
fn every_single_up_to_1_has_its_code() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available() && *isa >= Isa::Avx2) {
        for format in [Format::Q8(Codes::Signed), Format::Q8(Codes::Unsigned)] {
            let fast = block_codec(format, isa);
            for first in (0x3000_0000..=0x3f80_0000u32).step_by(LONGEST - 1) {
                let mut numbers = [1.0; LONGEST];
                for (x, bits) in numbers[1..].iter_mut().zip(first..=0x3f80_0000) {
                    *x = f32::from_bits(bits);
                }
                let (mut codes, mut scale) = ([0; LONGEST], [0.0]);
                // SAFETY: the buffers hold a block, and the machine has the instruction set.
                unsafe { encode(fast, &numbers, &mut codes, &mut scale) };
                for (&x, code) in numbers.iter().zip(codes) {
                    assert_eq!(code, code_of(format, x), "{isa} {format}: {x:e}");
                }
            }
        }
    }
}
