//! The folder of a run, and the record that grows in it.

mod lock;
mod metrics;

pub use lock::FolderLock;
pub use metrics::{Metrics, replace, tested};

use fallline::optim::checkpoint::is_temporary;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The name of the checkpoint in a run's folder.
pub const CHECKPOINT: &str = "checkpoint.safetensors";
/// The name of the record there.
pub const METRICS: &str = "metrics.jsonl";
/// The name of the picture there.
pub const PLOT: &str = "loss.svg";

/// What a line of `metrics.jsonl` is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A step.
    Train,
    /// The test set.
    Test,
}

impl Kind {
    /// What records of steps are about, in files of versions that did not say so.
    fn train() -> Kind {
        Kind::Train
    }

    /// What records of epochs are about, likewise.
    fn test() -> Kind {
        Kind::Test
    }
}

/// One line of `metrics.jsonl`. `step` counts the steps taken, this one included. What earlier versions did not write may be
/// missing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Record {
    /// After a step.
    Step {
        /// The steps taken.
        step: u64,
        /// The epoch that the step belongs to.
        epoch: u64,
        /// The mean loss over the step's batch, before the step.
        #[serde(with = "finite_or_null")]
        loss: f32,
        /// The learning rate that the step used.
        #[serde(with = "finite_or_null")]
        lr: f64,
        /// Whether it was skipped, because a gradient was NaN or infinite; written where it was.
        #[serde(default, skip_serializing_if = "core::ops::Not::not")]
        skipped: bool,
        /// What it is about.
        #[serde(default = "Kind::train")]
        kind: Kind,
        /// The seconds since training began.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        time: Option<f64>,
        /// The examples of the batch over the time of the step.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        examples_per_second: Option<f64>,
        /// The norm of all gradients together before clipping, where it was computed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grad_norm: Option<f64>,
    },
    /// After the last step of an epoch.
    Epoch {
        /// The steps taken.
        step: u64,
        /// The epoch that ended.
        epoch: u64,
        /// The share of the test images that are classified right, from 0 to 1.
        #[serde(with = "finite_or_null")]
        test_accuracy: f64,
        /// The mean loss over the test images.
        #[serde(with = "finite_or_null")]
        test_loss: f32,
        /// What it is about.
        #[serde(default = "Kind::test")]
        kind: Kind,
        /// The seconds since training began.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        time: Option<f64>,
    },
}

impl Record {
    /// Returns the steps taken when it was written.
    pub fn step(&self) -> u64 {
        match self {
            Record::Step { step, .. } | Record::Epoch { step, .. } => *step,
        }
    }

    /// The seconds since training began, when it was written.
    pub fn time(&self) -> Option<f64> {
        match self {
            Record::Step { time, .. } | Record::Epoch { time, .. } => *time,
        }
    }
}

/// Returns since which step the loss is not finite, and what it was then; none where the last one is finite.
pub fn diverged(records: &[Record]) -> Option<(u64, f32)> {
    let loss = |record: &Record| match record {
        Record::Step { step, loss, .. } => (*step, *loss),
        Record::Epoch { step, test_loss, .. } => (*step, *test_loss),
    };
    records.iter().rev().map(loss).take_while(|(_, loss)| !loss.is_finite()).last()
}

/// JSON has no infinities and nothing that is not a number: those are written as null, read back as NaN.
mod finite_or_null {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    /// Writes the number, or null.
    pub fn serialize<T: Serialize + Into<f64> + Copy, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let finite: f64 = (*value).into();
        finite.is_finite().then_some(*value).serialize(serializer)
    }

    /// Reads a number, or NaN from null.
    pub fn deserialize<'de, T: Deserialize<'de> + From<f32>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f32::NAN.into()))
    }
}

/// Makes and returns `base/<config>-<n>`, where n is one more than the largest there is, or 1.
///
/// A folder that another process makes at the same moment is not shared: the number after it is taken.
///
/// # Errors
/// Where `config` is not the name of one folder, or the folder cannot be made; the error names the path.
pub fn next_free(base: &Path, config: &str) -> io::Result<PathBuf> {
    if Path::new(config).file_name() != Some(config.as_ref()) {
        let message = format!("'{config}' cannot name a run's folder");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    fs::create_dir_all(base).map_err(|error| named(base, &error))?;
    let mut largest = 0;
    for entry in fs::read_dir(base).map_err(|error| named(base, &error))? {
        let name = entry.map_err(|error| named(base, &error))?.file_name();
        largest = largest.max(name.to_str().and_then(|name| run_number(name, config)).unwrap_or(0));
    }
    for number in largest.saturating_add(1)..=u64::MAX {
        let folder = base.join(format!("{config}-{number}"));
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(named(&folder, &error)),
        }
    }
    Err(named(base, &io::Error::other(format!("no number is left for a run of {config}"))))
}

/// Returns the n of `<config>-<n>`; none for another name.
fn run_number(name: &str, config: &str) -> Option<u64> {
    let number = name.strip_prefix(config)?.strip_prefix('-')?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok()).flatten()
}

/// Returns the folder in `base` whose checkpoint was written last, for `--resume` without a name.
///
/// Folders without a checkpoint are skipped; of two written at the same moment, the last by name counts.
pub fn newest(base: &Path) -> Option<PathBuf> {
    let folders = fs::read_dir(base).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    folders
        .filter_map(|folder| {
            let checkpoint = fs::metadata(folder.join(CHECKPOINT)).ok().filter(fs::Metadata::is_file)?;
            Some((checkpoint.modified().ok()?, folder))
        })
        .max()
        .map(|(_, folder)| folder)
}

/// Returns how many lines the record has that a start without a checkpoint left, where the folder has nothing else.
/// Returns none for any other folder. Call it while the folder is locked.
pub fn abandoned(folder: &Path) -> Option<usize> {
    for entry in fs::read_dir(folder).ok()? {
        let name = entry.ok()?.file_name();
        if ![METRICS, PLOT, lock::LOCK].iter().any(|own| name == *own) && !is_temporary(&name) {
            return None;
        }
    }
    metrics::records_of_ours(&folder.join(METRICS))
}

/// Returns the error with the path in front, of the same kind.
fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
