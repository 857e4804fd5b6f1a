//! Pairs of vectors whose elements are stored in 16 bits, and the random bits that round them.

mod avx2;
mod avx512;
mod pair;
mod philox;

pub(crate) use pair::VectorPair;
pub(crate) use philox::{PhiloxCounter, PhiloxKeys, PhiloxState};
