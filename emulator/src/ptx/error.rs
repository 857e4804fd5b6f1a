//! Why a text was refused.

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
    pub(super) fn new(line: usize, text: impl Into<String>, reason: impl Into<String>) -> Self {
        PtxError { line, text: text.into(), reason: reason.into() }
    }
}
