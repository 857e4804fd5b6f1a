//! What the engine keeps for each parameter: states, and what belongs to it beside them.

pub(crate) mod averaged;
pub(crate) mod error_feedback;
pub(crate) mod mask;
mod precision;
pub(crate) mod row_sparse;
pub(crate) mod slots;
pub(crate) mod staging;

pub(crate) use precision::MASTER;
pub use precision::ParamFormat;
