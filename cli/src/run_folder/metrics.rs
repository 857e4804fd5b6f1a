//! The record of a run, `metrics.jsonl`: a line each step and each epoch.

use super::{Record, named};
use crate::common::warn;
use crate::escape::shortened;
use fallline::core::files;
use fallline::optim::checkpoint::write_atomically;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// The longest record that is read: 4 GiB, some 30 million steps.
const LONGEST: u64 = 4 << 30;

/// Replaces the file at `path`, which never holds a part of `contents`. Returns the file, open at its end.
///
/// # Errors
/// Where the file cannot be written or renamed; the error names the path and the old file is as it was.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<File> {
    write_atomically(path, contents).map_err(|error| named(path, &error))
}

/// Returns the test loss and accuracy of each epoch that a record has, by epoch. What cannot be read is skipped.
pub fn tested(path: &Path) -> BTreeMap<u64, (f32, f64)> {
    let text = files::read(path, LONGEST).unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n');
    let records = lines.filter_map(|line| serde_json::from_slice(line).ok());
    let of_epoch = |record| match record {
        Record::Epoch { epoch, test_loss, test_accuracy, .. } => Some((epoch, (test_loss, test_accuracy))),
        Record::Step { .. } => None,
    };
    records.filter_map(of_epoch).collect()
}

/// Returns how many records a file has, an unfinished last line aside; none where something else is in it. A file that is
/// missing has none.
pub fn records_of_ours(path: &Path) -> Option<usize> {
    let text = match files::read(path, LONGEST) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(0),
        read => read.ok()?,
    };
    let mut lines = text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    lines.try_fold(0, |count, line| serde_json::from_slice::<Record>(line).is_ok().then_some(count + 1))
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
        Ok(Metrics { file: BufWriter::new(file), path: path.to_owned() })
    }

    /// Opens the file of a run that resumes from `last_step`, and returns the records that are kept: those up to
    /// that step. A run that was killed may have written later ones, which it will now write again, and half a
    /// line at the end.
    ///
    /// A warning says which other lines are no records: those are dropped. It says so, too, where the file is missing,
    /// which then starts empty.
    ///
    /// # Errors
    /// Where the file cannot be read or replaced, or has too few lines to have reached that step.
    pub fn resume(path: &Path, last_step: u64) -> io::Result<(Self, Vec<Record>)> {
        let text = match files::read(path, LONGEST) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            read => Some(read.map_err(|error| named(path, &error))?),
        };
        let Read { kept, records, reached, bad, damaged } =
            Read::of(text.as_deref().unwrap_or_default(), last_step);
        let shown = path.display();
        match text {
            None if last_step > 0 => {
                warn(&format!("{shown} is missing: it begins anew after step {last_step}"))
            }
            Some(_) if reached + damaged < last_step => {
                let message = format!(
                    "it ends at step {reached}, and the checkpoint is of step {last_step}: without the file, the run \
                     resumes and the record begins anew"
                );
                return Err(named(path, &io::Error::new(io::ErrorKind::InvalidData, message)));
            }
            _ => {}
        }
        if let Some((line, text)) = bad.first() {
            let text = shortened(String::from_utf8_lossy(text).trim());
            let others = match bad.len() {
                1 => String::new(),
                count => format!(" (and {} more)", count - 1),
            };
            let problem = "is not a record of a step or an epoch, and is dropped";
            warn(&format!("{shown}: line {line}{others} {problem}: {text}"));
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

/// What a record holds for a run that resumes.
struct Read<'a> {
    /// The lines up to its step.
    kept: Vec<u8>,
    records: Vec<Record>,
    /// The last step that has a line.
    reached: u64,
    /// The lines after it: steps that were written, and cannot be read any more.
    damaged: u64,
    /// The lines that are no records, with their numbers.
    bad: Vec<(usize, &'a [u8])>,
}

impl Read<'_> {
    fn of(text: &[u8], last_step: u64) -> Read<'_> {
        let (kept, records) = (Vec::with_capacity(text.len()), Vec::new());
        let mut read = Read { kept, records, reached: 0, damaged: 0, bad: Vec::new() };
        for (index, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
            match serde_json::from_slice::<Record>(line) {
                Ok(record) => {
                    (read.reached, read.damaged) = (read.reached.max(record.step()), 0);
                    if record.step() <= last_step {
                        read.kept.extend_from_slice(line.trim_ascii_end());
                        read.kept.push(b'\n');
                        read.records.push(record);
                    }
                }
                Err(_) if line.trim_ascii().is_empty() => {}
                Err(_) => {
                    read.damaged += 1;
                    // Half a line at the end is what a killed run leaves: it is written again.
                    if line.ends_with(b"\n") || read.reached < last_step {
                        read.bad.push((index + 1, line));
                    }
                }
            }
        }
        read
    }
}
