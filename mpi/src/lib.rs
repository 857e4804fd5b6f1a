//! Ranks over MPI: the processes that `mpirun` or a cluster's launcher starts.
//!
//! Without the feature `mpi` this crate links nothing, and [`Mpi::start`] is an error that says how to have it.
//! With it, the machine's MPI is linked through the crate `mpi`; Debian has what is needed in `libopenmpi-dev`,
//! `openmpi-bin` and `libclang-14-dev`.
//!
//! ```no_run
//! use fallline_core::ranks::Communicator;
//! let ranks = fallline_mpi::Mpi::start(std::time::Duration::from_secs(300))?;
//! println!("rank {} of {}", ranks.rank(), ranks.world_size());
//! ranks.finish()?;
//! # Ok::<(), fallline_core::Error>(())
//! ```
//!
//! An internal crate: depend on `fallline`, which re-exports it as `fallline::Mpi` (feature `mpi`).

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

#[cfg(not(feature = "mpi"))]
mod absent;
#[cfg(feature = "mpi")]
mod worker;

#[cfg(not(feature = "mpi"))]
pub use absent::Mpi;
#[cfg(feature = "mpi")]
pub use worker::Mpi;
