//! Distributed training: averaged gradients, sharded states.
//!
//! Every rank has the same parameters and a part of each batch. [`Averager`] makes one gradient of the ranks' own while
//! the next ones are computed; a [`Driver`](crate::Driver) that
//! [knows of the ranks](crate::Driver::with_ranks) sees to it that all step the same parameters with the same
//! hyperparameters, and shares the states out where the configuration says so (`ZeroRedundancyOptimizer`).

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
