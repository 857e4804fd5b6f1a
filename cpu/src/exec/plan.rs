//! What the CPU keeps between passes.

use super::feed::Feed;
use super::table::Table;
use super::tiling::Tiling;

/// What the CPU keeps between passes.
#[derive(Debug, Default)]
pub(crate) struct CpuPlan {
    pub(super) tiling: Tiling,
    pub(super) table: Table,
    /// What goes to the threads while the caller still walks over tensors.
    pub(super) feed: Feed,
    pub(super) constants_f32: Vec<f32>,
    pub(super) constants_f64: Vec<f64>,
    pub(super) partials: Vec<f64>,
}
