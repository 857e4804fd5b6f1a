//! What a load has brought where nothing is loaded: a build without checkpoints.

use crate::engine::Engine;
use crate::gradients::accumulate::Window;
use crate::params::slots::Slots;
use crate::{Binding, Result, StepReport};
use std::fmt;

/// In place of the last load.
#[derive(Default)]
pub(crate) struct Loaded {}

impl Loaded {
    /// Writes nothing.
    pub(super) fn fingerprint(&self, _: &Slots, _: &mut String) -> fmt::Result {
        Ok(())
    }

    /// Finds nothing that does not fit.
    pub(super) fn check(&mut self, _: &mut Engine, _: &mut Window, _: &[Binding<'_>]) -> Result<()> {
        Ok(())
    }

    /// Keeps nothing.
    pub(super) fn settle(&mut self, _: &mut Engine, _: &mut Window, _through: bool, _bound: usize) {}

    /// Tells nothing.
    pub(super) fn end_step(&mut self, _: &Slots, _: &mut StepReport) {}
}
