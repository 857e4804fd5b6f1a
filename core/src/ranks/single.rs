//! A world of one.

use super::{Communicator, RankError, Reduction, same_length};
use crate::Result;
use crate::host::{Slice, SliceMut};

/// The only rank there is: every exchange is a copy, or nothing.
///
/// ```
/// use fallline_core::ranks::{Communicator, SelfComm};
/// assert_eq!((SelfComm.rank(), SelfComm.world_size()), (0, 1));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SelfComm;

impl Communicator for SelfComm {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn describe(&self) -> String {
        "1 rank".into()
    }

    fn all_to_all(&self, send: &[u8], receive: &mut [u8]) -> Result<(), RankError> {
        same_length("all_to_all", "the receive buffer", send.len(), receive.len())?;
        receive.copy_from_slice(send);
        Ok(())
    }

    fn all_gather(&self, send: &[u8], receive: &mut [u8]) -> Result<(), RankError> {
        same_length("all_gather", "the receive buffer", send.len(), receive.len())?;
        receive.copy_from_slice(send);
        Ok(())
    }

    fn broadcast(&self, root: usize, _bytes: &mut [u8]) -> Result<(), RankError> {
        super::known("broadcast", root, 1)
    }

    fn barrier(&self) -> Result<(), RankError> {
        Ok(())
    }

    fn all_reduce(&self, _values: SliceMut<'_>, _how: Reduction) -> Result<(), RankError> {
        Ok(())
    }

    fn reduce_scatter(
        &self,
        values: Slice<'_>,
        mut own: SliceMut<'_>,
        _how: Reduction,
    ) -> Result<(), RankError> {
        same_length("reduce_scatter", "the result", values.len(), own.len())?;
        own.copy_from(values);
        Ok(())
    }
}
