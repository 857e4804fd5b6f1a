//! Bits, errors and references: what rules and products compute.

#[path = "../common/mod.rs"]
mod common;

mod bits;
mod format_errors;
mod gemm;
mod lengths;
mod naive;
mod references;
mod references_onebit;
mod schedules;
