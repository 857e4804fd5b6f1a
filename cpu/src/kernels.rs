//! What runs a rule over elements.

#[cfg(target_arch = "x86_64")]
pub(crate) mod bf16;
pub(crate) mod direct;
pub(crate) mod interpret;
#[cfg(target_arch = "x86_64")]
pub(crate) mod quantized;
pub(crate) mod tape;
