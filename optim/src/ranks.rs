//! Distributed training: averaged gradients, sharded states.
//!
//! Every rank has the same parameters and a part of each batch. [`Averager`] all-reduces the ranks' gradients while
//! the next ones are computed. A [`Driver`](crate::Driver) that [knows the ranks](crate::Driver::with_ranks) checks
//! that all step the same parameters with the same hyperparameters. It shards the states where the configuration says
//! so (`ZeroRedundancyOptimizer`).

mod average;
mod local_steps;
pub(crate) mod partition;
pub(crate) mod process_group;
mod world;
mod zero;

pub use average::{Averaged, Averager};
pub use fallline_core::ranks::*;
pub use partition::partition;
pub use zero::ZeroRedundancy;
