//! What a checkpoint keeps of a run.

use crate::error::{Error, Result};
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
        Recipe::from_source(&self.config).map_err(|error| {
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
