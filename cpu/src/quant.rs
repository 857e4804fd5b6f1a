//! Block formats.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod blocks;
#[cfg(target_arch = "x86_64")]
pub(crate) mod q4;
#[cfg(target_arch = "x86_64")]
pub(crate) mod q8_dynamic;
#[cfg(target_arch = "x86_64")]
pub(crate) mod q8_grid;
