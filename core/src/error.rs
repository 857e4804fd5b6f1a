//! What can go wrong in a backend.

use crate::ranks::error::RankError;
use crate::{Device, Format};

/// A failure of a backend, with what was attempted, what was expected and what was got.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Memory could not be had.
    #[error("{device}: no memory for {bytes} bytes")]
    OutOfMemory {
        /// Where it was asked for.
        device: Device,
        /// How much.
        bytes: usize,
    },
    /// Memory of the host could not be had for something whose size comes from outside.
    #[error("no memory for {what}, which takes {bytes} bytes")]
    NoMemory {
        /// What it was for.
        what: String,
        /// How much.
        bytes: usize,
    },
    /// Two things that must have the same number of elements have not.
    #[error("{operation}: {what} has {got} elements, expected {expected}")]
    Length {
        /// What was attempted.
        operation: &'static str,
        /// The thing at fault.
        what: String,
        /// Elements expected.
        expected: usize,
        /// Elements got.
        got: usize,
    },
    /// An operand is stored in a format that the operation does not take.
    #[error("{operation}: {what} is stored as {got}, expected {expected}")]
    Format {
        /// What was attempted.
        operation: &'static str,
        /// The thing at fault.
        what: String,
        /// The formats that it takes.
        expected: String,
        /// The format got.
        got: Format,
    },
    /// Elements cannot be at an address that was given.
    #[error("{operation}: {len} elements of {format} cannot be at address {address:#x}")]
    Unaligned {
        /// What was attempted.
        operation: &'static str,
        /// The address.
        address: usize,
        /// How many elements.
        len: usize,
        /// Their format.
        format: Format,
    },
    /// A tensor lives where the backend cannot reach it.
    #[error("{operation}: {what} is not in memory that {device} can reach")]
    Unreachable {
        /// What was attempted.
        operation: &'static str,
        /// The thing at fault.
        what: String,
        /// The backend.
        device: Device,
    },
    /// A rule was not compiled for the backend.
    #[error("rule {rule} was not compiled for {device}: link it with the backend's `Link`")]
    NotLinked {
        /// The rule.
        rule: &'static str,
        /// The backend.
        device: Device,
    },
    /// A call of the device's driver failed.
    #[error("{device}: {problem}")]
    Failed {
        /// The device.
        device: Device,
        /// What was attempted, and what the driver says.
        problem: String,
        /// Whether memory may have been written before.
        written: bool,
    },
    /// An exchange between ranks failed.
    #[error(transparent)]
    Ranks(#[from] RankError),
    /// The backend lacks a capability that an operation needs.
    #[error("{operation}: {device} does not support it")]
    Unsupported {
        /// What was attempted.
        operation: &'static str,
        /// The backend.
        device: Device,
    },
    /// The backend cannot be had as asked.
    #[error("{0}")]
    Unavailable(String),
}

impl Error {
    /// Returns whether the operation may have written something before it failed.
    pub fn may_have_written(&self) -> bool {
        matches!(self, Error::Failed { written: true, .. })
    }
}

/// Checks that there are as many elements as an operation expects.
pub(crate) fn check_len(operation: &'static str, what: &str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::Length { operation, what: what.into(), expected, got })
}

/// The result of an operation of a backend.
pub type Result<T, E = Error> = core::result::Result<T, E>;
