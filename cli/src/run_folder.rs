//! The folder of a run, and the record that grows in it.

use fallline::optim::checkpoint::write_atomically;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

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
/// Returns none for any other folder, and where a process still writes.
pub fn abandoned(folder: &Path) -> Option<usize> {
    for entry in fs::read_dir(folder).ok()? {
        let name = entry.ok()?.file_name();
        if name != METRICS && name != PLOT {
            return None;
        }
    }
    let path = folder.join(METRICS);
    File::open(&path).ok()?.try_lock().ok()?;
    let text = fs::read_to_string(&path).ok()?;
    let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines.try_fold(0, |count, line| serde_json::from_str::<Record>(line).is_ok().then_some(count + 1))
}

/// Replaces the file at `path`, which never holds a part of `contents`. Returns the file, open at its end.
///
/// # Errors
/// Where the file cannot be written or renamed; the error names the path and the old file is as it was.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<File> {
    write_atomically(path, contents).map_err(|error| named(path, &error))
}

/// Returns the error with the path in front, of the same kind.
fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Returns the test loss and accuracy of each epoch that a record has, by epoch. What cannot be read is skipped.
pub fn tested(path: &Path) -> BTreeMap<u64, (f32, f64)> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let records = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    let of_epoch = |record| match record {
        Record::Epoch { epoch, test_loss, test_accuracy, .. } => Some((epoch, (test_loss, test_accuracy))),
        Record::Step { .. } => None,
    };
    records.filter_map(of_epoch).collect()
}

/// `metrics.jsonl`, open for more lines.
#[derive(Debug)]
pub struct Metrics {
    /// The file, open at its end.
    file: BufWriter<File>,
    /// Where it is, for errors.
    path: PathBuf,
}

impl Metrics {
    /// Starts a file that is not there yet.
    ///
    /// # Errors
    /// Where the file exists (a run is there: it is resumed, or another folder taken) or cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::create_new(path).map_err(|error| named(path, &error))?;
        // Until its first checkpoint a run is told from one that failed by this. Elsewhere a lock keeps readers out.
        if cfg!(unix) {
            file.try_lock().ok();
        }
        Ok(Metrics { file: BufWriter::new(file), path: path.to_owned() })
    }

    /// Opens the file of a run that resumes from `last_step`, and returns the records that are kept: those up to
    /// that step. A run that was killed may have written later ones, which it will now write again, and half a
    /// line at the end. A file that is missing starts empty.
    ///
    /// # Errors
    /// Where the file cannot be read or replaced, or a line before the last is not a record.
    pub fn resume(path: &Path, last_step: u64) -> io::Result<(Self, Vec<Record>)> {
        let text = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read.map_err(|error| named(path, &error))?,
        };
        let (mut kept, mut records) = (Vec::with_capacity(text.len()), Vec::new());
        for (index, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
            match serde_json::from_slice::<Record>(line) {
                Ok(record) if record.step() <= last_step => {
                    kept.extend_from_slice(line.trim_ascii_end());
                    kept.push(b'\n');
                    records.push(record);
                }
                Ok(_) => {}
                Err(_) if !line.ends_with(b"\n") => {}
                Err(_) => {
                    let message = format!("line {} is not a record of a step or an epoch", index + 1);
                    return Err(named(path, &io::Error::new(io::ErrorKind::InvalidData, message)));
                }
            }
        }
        let file = replace(path, &kept)?;
        Ok((Metrics { file: BufWriter::new(file), path: path.to_owned() }, records))
    }

    /// Appends a line. That of an epoch, and those before it, are on the disk when this returns. Append it before
    /// the checkpoint of the same step is written: then a checkpoint is never ahead of the record.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn append(&mut self, record: &Record) -> io::Result<()> {
        let written = serde_json::to_writer(&mut self.file, record).map_err(io::Error::from);
        written.and_then(|()| self.file.write_all(b"\n")).map_err(|error| named(&self.path, &error))?;
        match record {
            Record::Step { .. } => Ok(()),
            Record::Epoch { .. } => self.flush(),
        }
    }

    /// Brings every line to the disk, before a checkpoint inside an epoch.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        let flushed = self.file.flush().and_then(|()| self.file.get_ref().sync_data());
        flushed.map_err(|error| named(&self.path, &error))
    }
}

#[cfg(test)]
mod tests;
