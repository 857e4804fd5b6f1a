//! Ranks over NCCL: a device for each rank, in one process or in several.
//!
//! NCCL is looked for when it is first needed (`libnccl.so`). Its calls are made by a thread of their own, on the
//! backend's stream: whoever asked waits no longer than the limit, then has the exchange broken off.
//!
//! Sums are formed here, in the order that [`ranks`](fallline_core::ranks) documents, and not by NCCL, whose order depends
//! on the number of ranks and on its version: each rank gets the pieces of all and adds them up on its device in `f64`.

mod communicator;
mod ffi;
mod worker;

pub use communicator::Nccl;
pub use ffi::NcclId;
