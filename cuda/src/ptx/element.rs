//! The element-wise kernel of a recorded rule.
//!
//! The shape: one warp works on one chunk, in steps of 256 elements. Lane `l` holds the eight from `8 l`, so that
//! every format is moved 128 bits at a time. A step that is whole and aligned goes straight through. Any other
//! branches to the same step's masked loads, terms and stores, which follow the loop. The arithmetic between them
//! exists only once, and the map from elements to lanes never changes.

mod access;
mod blocks;
mod broadcast;
mod codec;
mod evaluate;
mod kernel;
mod operand;
mod print;
mod stochastic;
mod sums;

pub use operand::Stored;
pub use print::{element_kernel, skippable_kernel};
