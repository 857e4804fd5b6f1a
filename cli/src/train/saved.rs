//! What a checkpoint keeps of a run.

use super::options::MOST;
use crate::error::{Error, Result};
use crate::registry::registry;
use crate::run_folder::CHECKPOINT;
use fallline::{Checkpoint, Recipe};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps taken.
    pub step: u64,
    /// Epochs finished.
    pub epoch: u64,
    /// Batches of this epoch that are done.
    pub batch: usize,
}

impl Progress {
    /// Checks that it is where epochs of so many steps lead, in a run that is no longer than any.
    pub fn check(self, epochs: u64, steps_of_epoch: u64) -> Result<(), String> {
        let Progress { step, epoch, batch } = self;
        for (what, count) in [("has", epochs), ("has done", epoch)] {
            if count > MOST as u64 {
                return Err(format!("its run {what} {count} epochs, expected at most {MOST}"));
            }
        }
        let batch = batch as u64;
        match batch < steps_of_epoch && step == epoch * steps_of_epoch + batch {
            true => Ok(()),
            false => Err(format!(
                "its progress is no place of the run: step {step}, epoch {epoch} and batch {batch} in epochs of {steps_of_epoch} steps"
            )),
        }
    }
}

/// What a checkpoint keeps of a run, beside parameters, optimizer and schedule.
#[derive(Debug, Serialize, Deserialize)]
pub struct Trainer {
    /// The configuration, everything resolved.
    pub config: String,
    /// The epochs that the run is to have.
    pub epochs: u64,
    /// The epochs that the schedule is written for, where it is scaled to the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_for: Option<u64>,
    pub progress: Progress,
}

/// A checkpoint taken apart.
pub struct SavedRun {
    /// The configuration, everything resolved.
    pub config: String,
    /// The epochs that the run was to have.
    pub epochs: u64,
    /// The epochs that the schedule is written for, where it is scaled to the run.
    pub written_for: Option<u64>,
    /// How far it was.
    pub progress: Progress,
    /// All of it.
    pub checkpoint: Checkpoint,
}

impl SavedRun {
    /// Reads the configuration.
    pub fn recipe(&self, folder: &Path) -> Result<Recipe> {
        Recipe::from_source_with(&self.config, registry()).map_err(|error| {
            let problem = format!("its configuration cannot be read: {error}");
            Error::Malformed { path: folder.join(CHECKPOINT), problem }
        })
    }

    /// Takes a checkpoint apart.
    pub fn read(checkpoint: &Checkpoint, folder: &Path) -> Result<SavedRun> {
        let malformed = |problem: String| Error::Malformed { path: folder.join(CHECKPOINT), problem };
        let trainer = checkpoint.manifest.trainer.as_ref();
        let trainer =
            trainer.ok_or_else(|| malformed("it is not a checkpoint of `fallline train`".into()))?;
        let trainer =
            Trainer::deserialize(trainer).map_err(|e| malformed(format!("its run cannot be read: {e}")))?;
        let Trainer { config, epochs, written_for, progress } = trainer;
        Ok(SavedRun { config, epochs, written_for, progress, checkpoint: checkpoint.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_that_of_its_epochs() {
        let at = |step, epoch, batch| Progress { step, epoch, batch }.check(40, 45);
        assert_eq!([at(0, 0, 0), at(44, 0, 44), at(1800, 40, 0)], [Ok(()), Ok(()), Ok(())]);
        for (step, epoch, batch) in
            [(45, 0, 45), (46, 1, 0), (u64::MAX, 1, 0), (7, u64::MAX, 7), (7, 0, usize::MAX)]
        {
            assert!(at(step, epoch, batch).is_err(), "{step}, {epoch}, {batch}");
        }
        assert!(Progress::default().check(u64::MAX, 45).unwrap_err().contains("18446744073709551615 epochs"));
    }
}
