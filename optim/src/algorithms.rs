//! The algorithms, one file each.

pub mod adam;
pub mod adamw;
pub mod lion;
pub mod sgd;

pub use adam::Adam;
pub use adamw::AdamW;
pub use lion::Lion;
pub use sgd::Sgd;
