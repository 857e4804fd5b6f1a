//! PTX read into typed instructions. What the reader does not know for certain it refuses, with the line.

mod body;
mod decode;
mod decode_float;
mod decode_memory;
mod decode_warp;
mod kernel;
mod line;
mod module;
pub mod program;
mod text;
pub mod types;

pub use module::parse;

/// Why a PTX text was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {reason}: `{text}`")]
pub struct PtxError {
    /// The line, counted from 1.
    pub line: usize,
    /// The statement.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

impl PtxError {
    fn new(line: usize, text: impl Into<String>, reason: impl Into<String>) -> Self {
        PtxError { line, text: text.into(), reason: reason.into() }
    }
}
