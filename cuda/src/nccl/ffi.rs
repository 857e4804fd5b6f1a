//! NCCL's library: whether it is there, what its calls say, and the id of a world.

use cudarc::nccl::sys::{self, ncclComm_t, ncclResult_t};
use fallline_core::{Error, Result};

/// What the ranks of one world have in common: made by one of them, and handed to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NcclId([u8; 128]);

impl NcclId {
    /// Creates a new one.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when there is no NCCL.
    pub fn new() -> Result<NcclId> {
        present()?;
        let mut id = sys::ncclUniqueId { internal: [0; 128] };
        // SAFETY: a place for the id.
        check(unsafe { sys::ncclGetUniqueId(&mut id) }).map_err(Error::Unavailable)?;
        Ok(NcclId(id.internal.map(|byte| byte as u8)))
    }

    /// Returns its bytes, to hand on.
    pub fn bytes(&self) -> &[u8; 128] {
        &self.0
    }
}

impl From<[u8; 128]> for NcclId {
    fn from(bytes: [u8; 128]) -> NcclId {
        NcclId(bytes)
    }
}

/// Checks that there is NCCL.
///
/// # Errors
/// [`Error::Unavailable`], with what was looked for.
pub(super) fn present() -> Result<()> {
    /// Stands in where cudarc links the library, as `driver_is_present` says.
    #[allow(dead_code, reason = "cudarc's own shadows it where it loads the library")]
    unsafe fn is_culib_present() -> bool {
        true
    }
    // cudarc panics where it is missing, so this comes first.
    let is_present = {
        #[allow(unused_imports, reason = "as above")]
        use cudarc::nccl::sys::*;
        // SAFETY: only looks for the library.
        unsafe { is_culib_present() }
    };
    if is_present {
        return Ok(());
    }
    Err(Error::Unavailable("there is no NCCL here (searched: libnccl.so)".into()))
}

/// Checks what a call said.
pub(super) fn check(result: ncclResult_t) -> Result<(), String> {
    match result {
        ncclResult_t::ncclSuccess => Ok(()),
        failed => Err(format!("NCCL: {failed:?}")),
    }
}

/// A communicator of NCCL.
#[derive(Clone, Copy)]
pub(super) struct Comm(pub(super) ncclComm_t);

// SAFETY: NCCL's calls are made by one thread, but for the one that breaks an exchange off, which is meant for that.
unsafe impl Send for Comm {}
// SAFETY: as above.
unsafe impl Sync for Comm {}
