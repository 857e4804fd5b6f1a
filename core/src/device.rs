//! Devices by name.

use core::fmt;

/// Where memory lives and work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The host, with its SIMD instruction sets.
    Cpu,
    /// The host, one element at a time: the reference.
    Scalar,
    /// The CUDA device with this index.
    Cuda(usize),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Scalar => f.write_str("scalar"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}
