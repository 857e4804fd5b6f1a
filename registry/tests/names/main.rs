//! Names: the shipped ones, those beside them, and those that are nearly right.
//!
//! The library has no unit tests: they would have all kernels compiled a second time.

mod beside;
mod changes;
mod near;
mod shipped;
