//! Block quantization: numbers as codes in blocks that share a scale.
//!
//! `blocks` has the specification's loops for every format, `q4`, `avx2` and `avx512` faster ones for some, over the
//! tables of `q8_dynamic` and `q8_grid`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocks;
#[cfg(target_arch = "x86_64")]
mod q4;
#[cfg(target_arch = "x86_64")]
mod q8_dynamic;
#[cfg(target_arch = "x86_64")]
mod q8_grid;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod vector;

use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::permutes_bytes;
pub(crate) use blocks::BlockCodec;
use blocks::for_each_isa;
#[cfg(target_arch = "x86_64")]
pub(crate) use blocks::{AbsMax, QuantParams};
use fallline_core::{Codes, Format};
#[cfg(target_arch = "x86_64")]
pub(crate) use q8_dynamic::Codebook;
#[cfg(target_arch = "x86_64")]
pub(crate) use vector::{QuantVector, REGISTERS};

/// Returns the fastest conversions of a block format that an instruction set has; without the feature for them those that
/// need none.
pub(crate) fn block_codec(format: Format, isa: Isa) -> BlockCodec {
    #[cfg(target_arch = "x86_64")]
    if cfg!(feature = "simd-storage")
        && let Some(faster) = match isa {
            Isa::Avx512 => avx512::simd_codec(format),
            Isa::Avx2 => avx2::simd_codec(format),
            _ => None,
        }
    {
        return faster;
    }
    match format {
        Format::Q8(Codes::Signed) => for_each_isa!(isa, blocks::Q8Signed),
        Format::Q8(Codes::Unsigned) => for_each_isa!(isa, blocks::Q8Unsigned),
        Format::Q8Grid(Codes::Signed) => for_each_isa!(isa, blocks::GridSigned),
        Format::Q8Grid(Codes::Unsigned) => for_each_isa!(isa, blocks::GridUnsigned),
        Format::Q8Linear(Codes::Signed) => for_each_isa!(isa, blocks::LinearSigned),
        Format::Q8Linear(Codes::Unsigned) => for_each_isa!(isa, blocks::LinearUnsigned),
        Format::Q4(Codes::Signed) => for_each_isa!(isa, blocks::Q4Signed),
        Format::Q4(Codes::Unsigned) => for_each_isa!(isa, blocks::Q4Unsigned),
        Format::Fp8 => for_each_isa!(isa, blocks::Fp8),
        other => unreachable!("{other} stores elements one by one"),
    }
}
