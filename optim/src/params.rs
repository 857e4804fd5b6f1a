//! What the engine keeps for each parameter: states, and what else belongs to it.

pub(crate) mod averaged;
pub(crate) mod mask;
mod precision;
pub(crate) mod residuals;
pub(crate) mod row_sparse;
pub(crate) mod slots;
pub(crate) mod staging;

pub(crate) use precision::MASTER;
pub use precision::ParamPrecision;
