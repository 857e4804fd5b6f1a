//! What there is without the feature `mpi`.

use core::convert::Infallible;
use fallline_core::ranks::{Communicator, RankError};
use fallline_core::{Error, Result};
use std::time::Duration;

/// This process as a rank of MPI's world; in this build there is none.
#[derive(Debug)]
pub struct Mpi(Infallible);

impl Mpi {
    /// Joins MPI's world.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: this build has no MPI.
    pub fn start(_limit: Duration) -> Result<Mpi> {
        let problem = "this fallline was built without MPI: build it with --features mpi (docs/ranks.md has what it needs)";
        Err(Error::Unavailable(problem.into()))
    }

    /// Leaves MPI's world together with all other ranks.
    ///
    /// # Errors
    /// None in this build.
    pub fn finish(&self) -> Result<(), RankError> {
        match self.0 {}
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        match self.0 {}
    }
    fn world_size(&self) -> usize {
        match self.0 {}
    }
    fn describe(&self) -> String {
        match self.0 {}
    }
    fn all_to_all(&self, _send: &[u8], _receive: &mut [u8]) -> Result<(), RankError> {
        match self.0 {}
    }
    fn all_gather(&self, _send: &[u8], _receive: &mut [u8]) -> Result<(), RankError> {
        match self.0 {}
    }
    fn broadcast(&self, _root: usize, _bytes: &mut [u8]) -> Result<(), RankError> {
        match self.0 {}
    }
    fn barrier(&self) -> Result<(), RankError> {
        match self.0 {}
    }
}
