//! Checkpoints as safetensors: read, written, and joined of parts.

use super::{
    Checkpoint, Entry, LoadOptions, MANIFEST, Manifest, OptimizerManifest, Part, SCALE, VERSION, dtype,
    format, hashes, param_key, write_atomically,
};
use crate::{Error, LoadReport, Result, ShapeMismatch};
use fallline_core::fallible;
use fallline_core::files::read_tensors;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

/// What the keys of tensors begin with.
const KINDS: [&str; 5] = ["param/", "state/", "rank/", "window/", "average/"];

impl Checkpoint {
    /// Returns what does not belong here, each with what is wrong. That is step counts and what ranks have of
    /// parameters that are not `known`, states that are not `expected`, and entries of no kind.
    pub(crate) fn others(
        &self,
        known: impl Fn(&str) -> bool + Copy,
        expected: impl Fn(&str, &str) -> bool,
    ) -> impl Iterator<Item = (&str, &'static str)> {
        let known_to_ranks = known;
        let steps = self.steps.keys().filter(move |name| !known(name));
        let steps = steps.map(|name| (name.as_str(), "has a step count, but its manifest does not know it"));
        let keys = self.tensors.keys().chain(self.codes.keys());
        let states = keys.filter_map(|key| key.strip_prefix("state/"));
        // The scales of codes are next to them.
        let whole = |key: &'_ str| match key.strip_suffix(SCALE) {
            Some(whole) if self.codes.contains_key(&format!("state/{whole}")) => whole.to_owned(),
            _ => key.to_owned(),
        };
        let fits =
            move |key: &str| whole(key).rsplit_once('/').is_some_and(|(param, state)| expected(param, state));
        let states = states.filter(move |state| !fits(state));
        let states = states.map(|state| (state, "is not expected: the parameter has no such state"));
        let of_ranks = self.tensors.keys().filter(move |key| {
            let rest = key.strip_prefix("rank/").and_then(|rest| rest.split_once('/'));
            let name = rest.map(|(_, rest)| rest.rsplit_once('/').map_or(rest, |(name, _)| name));
            name.is_some_and(|name| !known_to_ranks(name))
        });
        let of_ranks = of_ranks.map(|key| (key.as_str(), "is of an unknown parameter"));
        let strange = self.tensors.keys().filter(|key| !KINDS.iter().any(|kind| key.starts_with(kind)));
        let strange = strange.map(|key| (key.as_str(), "is no entry of a checkpoint"));
        steps.chain(states).chain(of_ranks).chain(strange)
    }

    /// Compares the parameters that a training loop has added with those that the manifest knows. There may be more of
    /// them, which are not optimized; where there is none at all, they are elsewhere.
    pub(crate) fn check_params(
        &self,
        manifest: &OptimizerManifest,
        (options, report): (&LoadOptions, &mut LoadReport),
    ) -> Result<()> {
        if self.params().next().is_none() {
            return Ok(());
        }
        for (name, known) in manifest.params() {
            let key = param_key(name);
            match self.tensors.get(&key) {
                None => {
                    options.refuse(|| format!("{key} is missing"))?;
                    report.missing.push(key);
                }
                Some(entry) if entry.shape != known.shape() => {
                    let (expected, got) = (known.shape(), entry.shape.clone());
                    options.refuse(|| format!("{key} has shape {got}, expected {expected}"))?;
                    report.shape.push(ShapeMismatch { param: key, expected, got });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// One checkpoint of the parts that all ranks have written ([`Driver::save_own`](crate::Driver::save_own)), which
    /// loads with any number of ranks.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when a part is missing or there twice, or they are of different steps or configurations.
    pub fn join(parts: impl IntoIterator<Item = Checkpoint>) -> Result<Checkpoint> {
        let mut whole: Option<Checkpoint> = None;
        // A part says how many there are, which is not believed before they are there.
        let (mut found, mut expected) = (BTreeSet::new(), None);
        for mut part in parts {
            let Some(Part { rank, of }) = part.manifest.part.take() else {
                return Err(Error::Mismatch("it is whole: only parts of ranks can be joined".into()));
            };
            if *expected.get_or_insert(of) != of || rank >= of || !found.insert(rank) {
                return Err(Error::Mismatch(format!(
                    "the part of rank {rank} of {of} is there twice, or of another number"
                )));
            }
            let Some(whole) = &mut whole else {
                whole = Some(part);
                continue;
            };
            whole.take_part(part, rank)?;
        }
        let of = expected.unwrap_or(0);
        match (whole, (0..of).find(|rank| !found.contains(rank))) {
            (Some(whole), None) => Ok(whole),
            (_, missing) => {
                let rank = missing.unwrap_or(0);
                Err(Error::Mismatch(format!("the part of rank {rank} of {of} is missing")))
            }
        }
    }

    /// Adds another rank's part.
    fn take_part(&mut self, part: Checkpoint, rank: usize) -> Result<()> {
        let differs =
            |what: &str| Error::Mismatch(format!("the part of rank {rank} has {what} than the first"));
        let (Some(own), Some(other)) = (&mut self.manifest.optimizer, part.manifest.optimizer) else {
            return Err(differs("another optimizer"));
        };
        if (&own.name, &own.groups, &own.shared) != (&other.name, &other.groups, &other.shared) {
            return Err(differs("another configuration"));
        }
        if self.manifest.schedule != part.manifest.schedule || self.manifest.trainer != part.manifest.trainer
        {
            return Err(differs("another progress"));
        }
        if let Some(name) = other.params.keys().find(|name| own.params.contains_key(*name)) {
            return Err(Error::Mismatch(format!("the part of rank {rank} has {name:?} too")));
        }
        own.params.extend(other.params);
        self.tensors.extend(part.tensors);
        self.codes.extend(part.codes);
        self.steps.extend(part.steps);
        Ok(())
    }

    /// Returns the file's bytes.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when a tensor's extents do not fit its bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let steps: Vec<(String, [u8; 8])> =
            self.steps.iter().map(|(name, steps)| (format!("step/{name}"), steps.to_le_bytes())).collect();
        let failed =
            |error: safetensors::SafeTensorError| Error::Mismatch(format!("cannot be written: {error}"));
        let mut views = Vec::new();
        for (key, entry) in &self.tensors {
            let shape = entry.shape.dims().to_vec();
            views.push((
                key.as_str(),
                TensorView::new(dtype(entry.format), shape, &entry.bytes).map_err(failed)?,
            ));
        }
        for (key, (shape, bytes)) in &self.codes {
            let view = TensorView::new(Dtype::U8, shape.dims().to_vec(), bytes).map_err(failed)?;
            views.push((key.as_str(), view));
        }
        for (key, bytes) in &steps {
            views.push((key.as_str(), TensorView::new(Dtype::I64, Vec::new(), bytes).map_err(failed)?));
        }
        let manifest = serde_json::to_string(&self.manifest)
            .and_then(|text| hashes::added(&text, views.iter().map(|(key, view)| (*key, view))))
            .map_err(|error| Error::Mismatch(format!("cannot be written: {error}")))?;
        let metadata = HashMap::from([(MANIFEST.to_owned(), manifest)]);
        fallible::check(Some(self.bytes()), "the bytes of a checkpoint")?;
        safetensors::serialize(views, Some(metadata)).map_err(failed)
    }

    /// Writes the file atomically: to a temporary file next to it, flushed to the disk, then renamed.
    ///
    /// # Errors
    /// [`Error::Io`] names the file; an older one is then still whole.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = self.to_bytes()?;
        write_atomically(path, &bytes).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        Ok(())
    }

    /// Reads a file, and compares it with the hashes that its manifest has of it. Files of versions before hashes are
    /// read without.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Malformed`], naming the file, and the entry that is missing, added or changed.
    pub fn read(path: impl AsRef<Path>) -> Result<Checkpoint> {
        read(path.as_ref(), Checkpoint::from_bytes)
    }

    /// Reads a file as it is, without a look at its hashes: one that was edited on purpose, say. What a load checks
    /// itself it still checks.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Malformed`], naming the file.
    pub fn read_unverified(path: impl AsRef<Path>) -> Result<Checkpoint> {
        read(path.as_ref(), Checkpoint::from_bytes_unverified)
    }

    /// Reads a file's bytes, as [`read`](Checkpoint::read) does.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Checkpoint, String> {
        Checkpoint::parse(bytes, true)
    }

    /// Reads a file's bytes, as [`read_unverified`](Checkpoint::read_unverified) does.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_bytes_unverified(bytes: &[u8]) -> Result<Checkpoint, String> {
        Checkpoint::parse(bytes, false)
    }

    fn parse(bytes: &[u8], verifies: bool) -> Result<Checkpoint, String> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
        let manifest = header.metadata().as_ref().and_then(|metadata| metadata.get(MANIFEST));
        let text = manifest.ok_or("it has no manifest (the key `fallline` of its metadata)")?;
        let manifest: Manifest =
            serde_json::from_str(text).map_err(|error| format!("its manifest cannot be read: {error}"))?;
        if manifest.version == 0 || manifest.version > VERSION {
            return Err(format!(
                "it has version {}, and this fallline reads up to {VERSION}",
                manifest.version
            ));
        }
        let entries = file.tensors();
        if verifies {
            hashes::verify(text, &entries)?;
        }
        let mut checkpoint = Checkpoint { manifest, ..Checkpoint::default() };
        for (key, view) in entries {
            if let Some(name) = key.strip_prefix("step/") {
                let bytes = <[u8; 8]>::try_from(view.data());
                let (Ok(bytes), Dtype::I64) = (bytes, view.dtype()) else {
                    return Err(format!("{key} is not one I64"));
                };
                checkpoint.steps.insert(name.to_owned(), i64::from_le_bytes(bytes));
                continue;
            }
            if view.dtype() == Dtype::U8 && key.starts_with("state/") {
                if !checkpoint.manifest.is_in_blocks(&key) {
                    return Err(format!("{key} is of type U8, but its manifest has it in no block format"));
                }
                let codes = fallible::copied(view.data(), &key).map_err(|error| error.to_string())?;
                checkpoint.codes.insert(key, (view.shape().into(), codes));
                continue;
            }
            let format =
                format(view.dtype()).ok_or_else(|| format!("{key} is of type {:?}", view.dtype()))?;
            let bytes = fallible::copied(view.data(), &key).map_err(|error| error.to_string())?;
            let entry = Entry { format, shape: view.shape().into(), bytes };
            checkpoint.tensors.insert(key, entry);
        }
        Ok(checkpoint)
    }
}

fn read(path: &Path, parse: fn(&[u8]) -> Result<Checkpoint, String>) -> Result<Checkpoint> {
    let bytes = read_tensors(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    parse(&bytes).map_err(|problem| Error::Malformed { path: path.to_owned(), problem })
}
