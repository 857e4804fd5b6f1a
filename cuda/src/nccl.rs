//! Ranks over NCCL: a device for each rank, in one process or in several.
//!
//! NCCL is loaded when it is first needed (`libnccl.so`). A separate thread makes its calls, on the backend's stream.
//! Whoever asked waits no longer than the limit, then has the exchange aborted.
//!
//! Reductions are done here, in the order that [`ranks`](fallline_core::ranks) documents, not by NCCL. Its order
//! depends on the number of ranks and on its version. Each rank gets the pieces of all and adds them up on its device
//! in `f64`.

mod communicator;
mod ffi;
mod worker;

pub use communicator::Nccl;
pub use ffi::NcclId;
