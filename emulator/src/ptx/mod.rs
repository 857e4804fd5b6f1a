//! PTX read into typed instructions. What the reader does not know for certain it refuses, with the line.

mod body;
mod declaration;
mod decode;
mod decode_float;
mod decode_memory;
mod decode_warp;
mod error;
mod line;
mod module;
pub mod program;
mod statement;
mod text;
pub mod types;

pub use error::PtxError;
pub use module::parse;
