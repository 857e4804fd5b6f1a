//! Distributed training: averaged gradients, sharded states.
//!
//! Every rank has the same parameters and a part of each batch. [`GradientReducer`] all-reduces the ranks' gradients while
//! the next ones are computed. A [`Driver`](crate::Driver) that [knows the ranks](crate::Driver::with_ranks) checks
//! that all step the same parameters with the same hyperparameters. It shards the states where the configuration says
//! so (`ZeroRedundancyOptimizer`).

mod exchange;
mod local_steps;
pub(crate) mod partition;
#[cfg(feature = "checkpoints")]
mod persist;
pub(crate) mod process_group;
mod reducer;
#[cfg(feature = "line-search")]
mod zero;

pub use fallline_core::ranks::*;
pub use partition::partition;
pub use reducer::{Averaged, GradientReducer};
#[cfg(feature = "line-search")]
pub use zero::ZeroRedundancy;
