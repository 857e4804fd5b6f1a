//! Block formats: the specification's loops, compiled for each instruction set, and the choice of the faster ones.

use super::{Codec, Decode, Encode};
use crate::isa::Isa;
use core::mem::MaybeUninit;
use core::slice::{from_raw_parts, from_raw_parts_mut};
use fallline_core::codec::block::{self, LONGEST, Units, code_of, number_of, scale_of, zero_code};
use fallline_core::{Codes, Format};

/// A block format as a type, so that loops are compiled for it.
trait Blocked {
    const FORMAT: Format;
}

macro_rules! blocked {
    ($($name:ident $format:expr;)*) => { $(
        struct $name;
        impl Blocked for $name {
            const FORMAT: Format = $format;
        }
    )* };
}
blocked! {
    Q8Signed Format::Q8(Codes::Signed);
    Q8Unsigned Format::Q8(Codes::Unsigned);
    GridSigned Format::Q8Grid(Codes::Signed);
    GridUnsigned Format::Q8Grid(Codes::Unsigned);
    LinearSigned Format::Q8Linear(Codes::Signed);
    LinearUnsigned Format::Q8Linear(Codes::Unsigned);
    Q4Signed Format::Q4(Codes::Signed);
    Q4Unsigned Format::Q4(Codes::Unsigned);
    Fp8 Format::Fp8;
}

/// Elements of a block, in every format that has so many or fewer.
const fn block_of(format: Format) -> usize {
    match format.block() {
        Some(block) => block,
        None => LONGEST,
    }
}

const fn in_fours(format: Format) -> bool {
    matches!(format, Format::Q4(_))
}

/// # Safety
/// As [`Decode`].
#[inline(always)]
unsafe fn decode<F: Blocked>(stored: *const u8, scales: *const f32, numbers: *mut f32, count: usize) {
    let block = const { block_of(F::FORMAT) };
    for (i, start) in (0..count).step_by(block).enumerate() {
        let length = block.min(count - start);
        // SAFETY: the caller vouches for `count` elements with their scales on either side.
        let (codes, scale, numbers) = unsafe {
            let codes = from_raw_parts(stored.add(F::FORMAT.size(start)), F::FORMAT.size(length));
            (codes, *scales.add(i), from_raw_parts_mut(numbers.add(start), length))
        };
        if const { in_fours(F::FORMAT) } {
            let pairs = numbers.chunks_exact_mut(2);
            for (pair, &byte) in pairs.zip(codes) {
                pair[0] = number_of(F::FORMAT, byte >> 4) * scale;
                pair[1] = number_of(F::FORMAT, byte & 15) * scale;
            }
            if length % 2 == 1 {
                numbers[length - 1] = number_of(F::FORMAT, codes[length / 2] >> 4) * scale;
            }
        } else {
            for (x, &code) in numbers.iter_mut().zip(codes) {
                *x = number_of(F::FORMAT, code) * scale;
            }
        }
    }
}

/// The bits of the largest magnitude.
#[inline(always)]
pub(super) fn magnitude(numbers: &[f32]) -> u32 {
    numbers.iter().fold(0, |most, x| most.max(x.to_bits() & 0x7fff_ffff))
}

/// # Safety
/// As [`Encode`].
#[inline(always)]
unsafe fn encode<F: Blocked>(numbers: *const f32, stored: *mut u8, scales: *mut f32, count: usize) {
    let block = const { block_of(F::FORMAT) };
    for (i, start) in (0..count).step_by(block).enumerate() {
        let length = block.min(count - start);
        // SAFETY: the caller vouches for `count` elements with their scales on either side.
        unsafe {
            let numbers = from_raw_parts(numbers.add(start), length);
            let codes = from_raw_parts_mut(stored.add(F::FORMAT.size(start)), F::FORMAT.size(length));
            let (scale, units) = scale_of(magnitude(numbers));
            *scales.add(i) = scale;
            encode_block::<F>(numbers, units, codes);
        }
    }
}

#[inline(always)]
fn encode_block<F: Blocked>(numbers: &[f32], units: Units, codes: &mut [u8]) {
    if const { in_fours(F::FORMAT) } {
        block::encode_fours(F::FORMAT, units, numbers, codes);
    } else {
        each::<F>(numbers, units, codes);
    }
}

/// A byte for each number.
#[inline(always)]
fn each<F: Blocked>(numbers: &[f32], units: Units, codes: &mut [u8]) {
    let pairs = codes.iter_mut().zip(numbers);
    match units {
        Units::None => codes[..numbers.len()].fill(zero_code(F::FORMAT)),
        Units::Times(factor) => pairs.for_each(|(code, x)| *code = code_of(F::FORMAT, x * factor)),
        Units::Lifted(_) => pairs.for_each(|(code, &x)| *code = code_of(F::FORMAT, units.of(x))),
    }
}

/// The specification's loops for an instruction set.
macro_rules! portable {
    ($format:ty $(, $features:literal)?) => {{
        /// # Safety
        /// As [`Decode`].
        $(#[target_feature(enable = $features)])?
        unsafe fn decode_all(stored: *const u8, scales: *const f32, numbers: *mut f32, count: usize) {
            // SAFETY: the caller's contract.
            unsafe { decode::<$format>(stored, scales, numbers, count) }
        }
        /// # Safety
        /// As [`Encode`].
        $(#[target_feature(enable = $features)])?
        unsafe fn encode_all(numbers: *const f32, stored: *mut u8, scales: *mut f32, count: usize) {
            // SAFETY: the caller's contract.
            unsafe { encode::<$format>(numbers, stored, scales, count) }
        }
        Codec { decode: decode_all, encode: encode_all }
    }};
}

macro_rules! for_each_isa {
    ($isa:expr, $format:ty) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => portable!($format, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => portable!($format, "avx2,fma,f16c"),
            _ => portable!($format),
        }
    };
}

/// The conversions of a block format from and to singles.
pub(super) fn codec(format: Format, isa: Isa) -> Codec<f32> {
    let portable = match format {
        Format::Q8(Codes::Signed) => for_each_isa!(isa, Q8Signed),
        Format::Q8(Codes::Unsigned) => for_each_isa!(isa, Q8Unsigned),
        Format::Q8Grid(Codes::Signed) => for_each_isa!(isa, GridSigned),
        Format::Q8Grid(Codes::Unsigned) => for_each_isa!(isa, GridUnsigned),
        Format::Q8Linear(Codes::Signed) => for_each_isa!(isa, LinearSigned),
        Format::Q8Linear(Codes::Unsigned) => for_each_isa!(isa, LinearUnsigned),
        Format::Q4(Codes::Signed) => for_each_isa!(isa, Q4Signed),
        Format::Q4(Codes::Unsigned) => for_each_isa!(isa, Q4Unsigned),
        Format::Fp8 => for_each_isa!(isa, Fp8),
        other => unreachable!("{other} stores elements one by one"),
    };
    #[cfg(target_arch = "x86_64")]
    match isa {
        Isa::Avx2 | Isa::Avx512 if in_fours(format) => {
            let encode = super::avx2::encode_fours(format);
            return Codec { encode, ..portable };
        }
        Isa::Avx512 => return super::avx512::faster(format).unwrap_or(portable),
        Isa::Avx2 => return super::avx2::faster(format).unwrap_or(portable),
        _ => {}
    }
    portable
}

/// The conversions of a block format from and to doubles, through singles.
pub(super) fn double_codec(format: Format, isa: Isa) -> Codec<f64> {
    macro_rules! through_singles {
        ($($format:pat => $name:ident,)*) => { match (format, isa) { $(
            ($format, Isa::Scalar) => widened!(Isa::Scalar, $name),
            ($format, Isa::Baseline) => widened!(Isa::Baseline, $name),
            ($format, Isa::Avx2) => widened!(Isa::Avx2, $name),
            ($format, Isa::Avx512) => widened!(Isa::Avx512, $name),
        )* (other, _) => unreachable!("{other} stores elements one by one") } };
    }
    macro_rules! widened {
        ($isa:expr, $name:ident) => {{
            /// # Safety
            /// As [`Decode`].
            unsafe fn decode_all(stored: *const u8, scales: *const f32, numbers: *mut f64, count: usize) {
                // SAFETY: the caller's contract.
                unsafe {
                    widen($name::FORMAT, codec($name::FORMAT, $isa).decode, stored, scales, numbers, count)
                }
            }
            /// # Safety
            /// As [`Encode`].
            unsafe fn encode_all(numbers: *const f64, stored: *mut u8, scales: *mut f32, count: usize) {
                // SAFETY: the caller's contract.
                unsafe {
                    narrow($name::FORMAT, codec($name::FORMAT, $isa).encode, numbers, stored, scales, count)
                }
            }
            Codec { decode: decode_all, encode: encode_all }
        }};
    }
    through_singles! {
        Format::Q8(Codes::Signed) => Q8Signed,
        Format::Q8(Codes::Unsigned) => Q8Unsigned,
        Format::Q8Grid(Codes::Signed) => GridSigned,
        Format::Q8Grid(Codes::Unsigned) => GridUnsigned,
        Format::Q8Linear(Codes::Signed) => LinearSigned,
        Format::Q8Linear(Codes::Unsigned) => LinearUnsigned,
        Format::Q4(Codes::Signed) => Q4Signed,
        Format::Q4(Codes::Unsigned) => Q4Unsigned,
        Format::Fp8 => Fp8,
    }
}

/// # Safety
/// As [`Decode`].
unsafe fn widen(
    format: Format,
    decode: Decode<f32>,
    stored: *const u8,
    scales: *const f32,
    numbers: *mut f64,
    count: usize,
) {
    let mut singles = [MaybeUninit::<f32>::uninit(); LONGEST];
    for start in (0..count).step_by(LONGEST) {
        let length = LONGEST.min(count - start);
        // SAFETY: the caller vouches for `count` elements with their scales on either side; what is read was written.
        unsafe {
            let (stored, scales) = (stored.add(format.size(start)), scales.add(format.scales(start)));
            decode(stored, scales, singles.as_mut_ptr().cast(), length);
            for (i, single) in singles[..length].iter().enumerate() {
                numbers.add(start + i).write(f64::from(single.assume_init()));
            }
        }
    }
}

/// # Safety
/// As [`Encode`].
unsafe fn narrow(
    format: Format,
    encode: Encode<f32>,
    numbers: *const f64,
    stored: *mut u8,
    scales: *mut f32,
    count: usize,
) {
    let mut singles = [0f32; LONGEST];
    for start in (0..count).step_by(LONGEST) {
        let length = LONGEST.min(count - start);
        // SAFETY: the caller vouches for `count` elements with their scales on either side.
        unsafe {
            for (i, single) in singles[..length].iter_mut().enumerate() {
                *single = *numbers.add(start + i) as f32;
            }
            let (stored, scales) = (stored.add(format.size(start)), scales.add(format.scales(start)));
            encode(singles.as_ptr(), stored, scales, length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Coded;
    use fallline_core::codec::codebook::numbers;

    /// Blocks whose numbers are around all borders of the dynamic codes and all places of the grid, of all sizes of
    /// numbers, with what is not finite, and of all lengths.
    fn samples() -> Vec<f32> {
        let mut samples = Vec::new();
        let mut block = |scale: f32, of: &mut dyn FnMut(usize) -> f32| {
            samples.push(scale);
            samples.extend((1..LONGEST).map(|i| scale * of(i)));
        };
        for format in [Format::Q8(Codes::Signed), Format::Q8(Codes::Unsigned), Format::Q4(Codes::Signed)] {
            for pair in numbers(format).windows(2) {
                let middle = ((f64::from(pair[0]) + f64::from(pair[1])) / 2.0) as f32;
                let near =
                    |i: usize| f32::from_bits(middle.to_bits().wrapping_add(i as u32).wrapping_sub(128));
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
                let fast = <f32 as Coded>::codec(format, isa).expect("it is not f32");
                let double = <f64 as Coded>::codec(format, isa).expect("it is not f64");
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
                    unsafe { (fast.encode)(chunk.as_ptr(), codes.as_mut_ptr(), scales.as_mut_ptr(), length) };
                    assert_eq!(codes, expected, "{isa} {format}: {chunk:?}");
                    assert_eq!(scales.map(f32::to_bits), scale.map(f32::to_bits), "{isa} {format}");
                    let doubles: Vec<f64> = chunk.iter().map(|&x| f64::from(x)).collect();
                    // SAFETY: as above.
                    unsafe {
                        (double.encode)(doubles.as_ptr(), codes.as_mut_ptr(), scales.as_mut_ptr(), length)
                    };
                    assert_eq!(codes, expected, "{isa} {format} from doubles");
                    let (mut found, mut decoded) = ([7.0; LONGEST], [7.0; LONGEST]);
                    for (i, numbers) in decoded[..length].chunks_mut(block).enumerate() {
                        block::decode_block(format, &codes[format.size(i * block)..], scale[i], numbers);
                    }
                    // SAFETY: as above.
                    unsafe { (fast.decode)(codes.as_ptr(), scales.as_ptr(), found.as_mut_ptr(), length) };
                    let same = |a: &f32, b: &f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                    assert!(found.iter().zip(&decoded).all(|(a, b)| same(a, b)), "{isa} {format}");
                    let mut wide = [7.0; LONGEST];
                    // SAFETY: as above.
                    unsafe { (double.decode)(codes.as_ptr(), scales.as_ptr(), wide.as_mut_ptr(), length) };
                    assert!(wide.iter().zip(&decoded).all(|(a, b)| same(&(*a as f32), b)), "{isa} {format}");
                }
            }
        }
    }

    /// All of them: the test above takes what could go wrong, this one what nobody thought of.
    #[test]
    #[ignore = "half a minute in release, minutes otherwise"]
    fn every_single_up_to_1_has_its_code() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available() && *isa >= Isa::Avx2) {
            for format in [Format::Q8(Codes::Signed), Format::Q8(Codes::Unsigned)] {
                let fast = <f32 as Coded>::codec(format, isa).expect("it is not f32");
                for first in (0x3000_0000..=0x3f80_0000u32).step_by(LONGEST - 1) {
                    let mut numbers = [1.0; LONGEST];
                    for (x, bits) in numbers[1..].iter_mut().zip(first..=0x3f80_0000) {
                        *x = f32::from_bits(bits);
                    }
                    let (mut codes, mut scale) = ([0; LONGEST], 0.0);
                    // SAFETY: the buffers hold a block, and the machine has the instruction set.
                    unsafe { (fast.encode)(numbers.as_ptr(), codes.as_mut_ptr(), &mut scale, LONGEST) };
                    for (&x, code) in numbers.iter().zip(codes) {
                        assert_eq!(code, code_of(format, x), "{isa} {format}: {x:e}");
                    }
                }
            }
        }
    }

    #[test]
    #[ignore = "measures: prints nanoseconds an element"]
    fn speed() {
        let numbers: Vec<f32> = samples().into_iter().take(64 * LONGEST).map(f32::abs).collect();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            for format in Format::BLOCKS {
                let codec = <f32 as Coded>::codec(format, isa).expect("it is not f32");
                let (mut codes, mut scales) = (vec![0; numbers.len()], vec![0.0; numbers.len() / 128]);
                let mut decoded = vec![0.0; numbers.len()];
                let mut best = [f64::INFINITY; 2];
                for _ in 0..50 {
                    let start = std::time::Instant::now();
                    for i in (0..numbers.len()).step_by(LONGEST) {
                        // SAFETY: the buffers are long enough, and the machine has the instruction set.
                        unsafe {
                            (codec.encode)(
                                numbers[i..].as_ptr(),
                                codes[i..].as_mut_ptr(),
                                scales[i / 128..].as_mut_ptr(),
                                LONGEST,
                            )
                        };
                    }
                    let middle = std::time::Instant::now();
                    for i in (0..numbers.len()).step_by(LONGEST) {
                        // SAFETY: as above.
                        unsafe {
                            (codec.decode)(
                                codes[i..].as_ptr(),
                                scales[i / 128..].as_ptr(),
                                decoded[i..].as_mut_ptr(),
                                LONGEST,
                            )
                        };
                    }
                    let per = |time: std::time::Duration| time.as_secs_f64() * 1e9 / numbers.len() as f64;
                    best = [best[0].min(per(middle - start)), best[1].min(per(middle.elapsed()))];
                }
                println!("{isa} {format} encode {:.3} decode {:.3}", best[0], best[1]);
            }
        }
    }
}
