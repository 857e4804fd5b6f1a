//! How a run ends: well, diverged, or before it has begun.

use super::Session;
use crate::error::{Error, Result};
use crate::label::Label;
use crate::output::{Format, Output};
use crate::plot;
use crate::run_folder::{CHECKPOINT, METRICS, PLOT, diverged};

impl Session {
    /// Returns since which step the loss is not finite, and what it was then.
    pub fn diverged(&self) -> Option<(u64, f32)> {
        diverged(&self.records)
    }

    /// Removes what the start of a run has made, where it failed before anything was recorded.
    pub fn discard(&mut self) {
        let Some(is_new) = self.made else { return };
        if self.metrics.is_none() || !self.records.is_empty() || self.folder.join(CHECKPOINT).exists() {
            return;
        }
        self.metrics = None;
        std::fs::remove_file(self.folder.join(METRICS)).ok();
        self.lock = None;
        if is_new {
            // Only where it is empty.
            std::fs::remove_dir(&self.folder).ok();
        }
    }

    /// Draws the run.
    pub(super) fn plot(&self) -> Result<()> {
        if self.metrics.is_none() {
            return Ok(());
        }
        let output = Output { path: self.folder.join(PLOT), format: Format::Svg };
        let label = Label::of_method(&self.recipe.algorithm().into());
        let picture = plot::training(&label, "digits", &self.records);
        plot::write(&output, &picture).map_err(|error| Error::Other(error.to_string()))
    }
}
