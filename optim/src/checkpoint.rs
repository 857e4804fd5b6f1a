//! Checkpoints: states keyed by parameter name, in a safetensors file with a manifest.
//!
//! | entry | what |
//! |---|---|
//! | `param/<name>` | a parameter |
//! | `state/<name>/<state>` | a state, in the parameter's shape; of a block format its codes (U8; in 4 bits two in a byte, in one row) |
//! | `state/<name>/<state>.scale` | a scale for each block of a block format (F32) |
//! | `rank/<rank>/<name>/<error>` | what one rank's compression has left out |
//! | `window/<name>` | the gradient accumulated so far |
//! | `average/<name>` | the average of the parameter |
//! | `step/<name>` | how many gradients the parameter has been given (I64) |
//! | `fallline` in the metadata | the manifest, as JSON |
//!
//! A file is written beside its place, flushed to the disk and renamed, so that there is always a whole
//! one. A load checks everything before it changes anything.

mod files;
mod manifest;

use crate::{Error, Result};
use fallline_core::host::{Blocks, Slice};
use fallline_core::{Backend, Element, Format, Shape, Storage};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

pub use files::{remove_temporaries, write_atomically};
pub use manifest::{Manifest, OptimizerManifest, ParamManifest, Part};

/// The version of the format that this crate writes; it reads all up to it.
pub const VERSION: u32 = 1;
/// The key of the manifest in the file's metadata.
const MANIFEST: &str = "fallline";

/// A tensor of a checkpoint: format, extents, little-endian bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// How its elements are stored.
    pub format: Format,
    /// Its extents.
    pub shape: Shape,
    /// Its elements, row-major, little-endian.
    pub bytes: Vec<u8>,
}

impl Entry {
    /// Copies a backend's memory.
    ///
    /// # Errors
    /// When the backend cannot read it.
    pub fn from_storage(backend: &dyn Backend, storage: &Storage, shape: Shape) -> Result<Entry> {
        macro_rules! read {
            ($t:ty) => {{
                let mut values = vec![<$t>::default(); storage.len()];
                backend.read(storage, values.as_mut_slice().into())?;
                Ok(Entry::new(shape, Slice::from(&values)))
            }};
        }
        match storage.format() {
            Format::F64 => read!(f64),
            Format::F32 => read!(f32),
            Format::Bf16 => read!(bf16),
            Format::F16 => read!(f16),
            other => unreachable!("no entry is made of {other}"),
        }
    }

    /// Copies the elements into a backend's memory.
    ///
    /// # Errors
    /// When the lengths differ or the backend cannot write it.
    pub fn copy_to(&self, backend: &dyn Backend, storage: &mut Storage) -> Result<()> {
        match self.format {
            Format::F64 => backend.write(storage, Slice::from(&self.values::<f64>()))?,
            Format::F32 => backend.write(storage, Slice::from(&self.values::<f32>()))?,
            Format::Bf16 => backend.write(storage, Slice::from(&self.values::<bf16>()))?,
            Format::F16 => backend.write(storage, Slice::from(&self.values::<f16>()))?,
            other => unreachable!("no entry is made of {other}"),
        }
        Ok(())
    }

    /// Copies the elements into new memory of a backend, where format and shape are these, or the format is let pass.
    /// Says whether it was another.
    pub(crate) fn load(
        &self,
        backend: &dyn Backend,
        key: &str,
        (format, shape): (Format, &Shape),
        converting: bool,
    ) -> Result<(Storage, bool)> {
        let converted = self.format != format;
        if self.shape != *shape || (converted && !converting) {
            let (was, got) = (self.format, &self.shape);
            return Err(Error::Mismatch(format!(
                "{key} is {was} of shape {got}, expected {format} of {shape}"
            )));
        }
        let mut storage = backend.allocate(&[(format, shape.elements())])?.remove(0);
        self.copy_to(backend, &mut storage)?;
        Ok((storage, converted))
    }

    /// Copies a slice.
    pub fn new(shape: Shape, values: Slice<'_>) -> Entry {
        Entry { format: values.format(), shape, bytes: little_endian(values) }
    }

    /// Its elements, rounded to `T` if they are stored otherwise.
    pub fn values<T: Element>(&self) -> Vec<T> {
        fn read<T: Element, const N: usize>(bytes: &[u8], get: impl Fn([u8; N]) -> f64) -> Vec<T> {
            let chunks = bytes.chunks_exact(N);
            chunks.map(|c| T::from_f64(get(c.try_into().unwrap_or([0; N])))).collect()
        }
        match self.format {
            Format::F64 => read(&self.bytes, f64::from_le_bytes),
            Format::F32 => read(&self.bytes, |b| f64::from(f32::from_le_bytes(b))),
            Format::Bf16 => read(&self.bytes, |b| bf16::from_le_bytes(b).to_f64()),
            Format::F16 => read(&self.bytes, |b| f16::from_le_bytes(b).to_f64()),
            other => unreachable!("no entry is read as {other}"),
        }
    }
}

/// Everything that a run needs to go on: parameters, states, step counts, and a manifest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    tensors: BTreeMap<String, Entry>,
    /// Codes of block formats: extents and bytes.
    codes: BTreeMap<String, (Shape, Vec<u8>)>,
    steps: BTreeMap<String, i64>,
    /// What the tensors alone do not tell.
    pub manifest: Manifest,
}

/// What a load may let pass. By default nothing: algorithm, groups, parameters, states, shapes and formats must all fit,
/// and everything is restored.
///
/// ```
/// use fallline_optim::LoadOptions;
/// let fine_tuning = LoadOptions::default().state_only().lenient();
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadOptions {
    pub(crate) state_only: bool,
    pub(crate) lenient: bool,
    pub(crate) converting: bool,
}

impl LoadOptions {
    /// Restores states and step counts, and keeps the optimizer's hyperparameters and groups, `lr` among them.
    pub fn state_only(self) -> LoadOptions {
        LoadOptions { state_only: true, ..self }
    }

    /// Restores what fits by name and shape, and lists the rest in the [`LoadReport`](crate::LoadReport): parameters
    /// that are missing or of another shape stay as they are, missing states start as in a first step. LBFGS, whose
    /// memory is of all parameters together, is still restored as a whole or not at all.
    pub fn lenient(self) -> LoadOptions {
        LoadOptions { lenient: true, ..self }
    }

    /// Converts states that are stored in another format than the optimizer keeps them in, and takes checkpoints of the
    /// other compute type. Every state is rounded once at most. The device never matters.
    pub fn converting(self) -> LoadOptions {
        LoadOptions { converting: true, ..self }
    }
}

impl Checkpoint {
    /// Adds a parameter.
    pub fn insert_param(&mut self, name: &str, entry: Entry) {
        self.tensors.insert(param_key(name), entry);
    }

    /// A parameter.
    pub fn param(&self, name: &str) -> Option<&Entry> {
        self.tensors.get(&param_key(name))
    }

    /// Adds a tensor under any key.
    pub(crate) fn insert(&mut self, key: String, entry: Entry) {
        self.tensors.insert(key, entry);
    }

    /// The tensors whose keys begin with a prefix, by the rest of their keys.
    pub(crate) fn below<'c>(&'c self, prefix: &'c str) -> impl Iterator<Item = (&'c str, &'c Entry)> {
        self.tensors.iter().filter_map(move |(key, entry)| Some((key.strip_prefix(prefix)?, entry)))
    }

    /// The parameters' names.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().filter_map(|key| key.strip_prefix("param/"))
    }

    /// A state.
    pub fn state(&self, param: &str, state: &str) -> Option<&Entry> {
        self.tensors.get(&state_key(param, state))
    }

    /// Whether there is a state of a parameter, in any format.
    pub(crate) fn has_state(&self, param: &str, state: &str) -> bool {
        let key = state_key(param, state);
        self.tensors.contains_key(&key) || self.codes.contains_key(&key)
    }

    /// A parameter's states, by name.
    pub fn states(&self, param: &str) -> impl Iterator<Item = (&str, &Entry)> {
        let prefix = state_key(param, "");
        let from = self.tensors.range(prefix.clone()..);
        let named = from.map_while(move |(key, entry)| Some((key.strip_prefix(&prefix)?, entry)));
        named.filter(|(state, _)| !state.contains('/'))
    }

    /// Adds a state.
    pub fn insert_state_entry(&mut self, param: &str, state: &str, entry: Entry) {
        self.tensors.insert(state_key(param, state), entry);
    }

    /// What one rank alone keeps of a parameter.
    pub(crate) fn of_rank(&self, rank: usize, param: &str, what: &str) -> Option<&Entry> {
        self.tensors.get(&format!("rank/{rank}/{param}/{what}"))
    }

    pub(crate) fn insert_of_rank(&mut self, rank: usize, param: &str, what: &str, entry: Entry) {
        self.tensors.insert(format!("rank/{rank}/{param}/{what}"), entry);
    }

    /// Only what one rank alone keeps.
    pub(crate) fn only_of_ranks(&self) -> Checkpoint {
        let own = self.tensors.iter().filter(|(key, _)| key.starts_with("rank/"));
        let tensors = own.map(|(key, entry)| (key.clone(), entry.clone())).collect();
        Checkpoint { tensors, ..Checkpoint::default() }
    }

    /// Takes in what other ranks keep.
    pub(crate) fn add_of_ranks(&mut self, other: Checkpoint) {
        self.tensors.extend(other.tensors);
    }

    /// Adds a parameter's step count.
    pub fn insert_steps(&mut self, param: &str, steps: u64) {
        self.steps.insert(param.to_owned(), i64::try_from(steps).unwrap_or(i64::MAX));
    }

    pub(crate) fn insert_state(
        &mut self,
        backend: &dyn Backend,
        param: &str,
        state: &str,
        shape: &Shape,
        storage: &Storage,
    ) -> Result<()> {
        let (key, format) = (state_key(param, state), storage.format());
        if format.block().is_none() {
            self.tensors.insert(key, Entry::from_storage(backend, storage, shape.clone())?);
            return Ok(());
        }
        let mut codes = vec![0; format.size(storage.len())];
        let mut scales = vec![0.0f32; format.scales(storage.len())];
        backend.read_blocks(storage, &mut codes, &mut scales)?;
        self.insert_codes(param, state, (format, shape), codes, &scales);
        Ok(())
    }

    /// Adds a state of this shape in a block format: its codes and its blocks' scales, as many as the format has.
    pub fn insert_codes(
        &mut self,
        param: &str,
        state: &str,
        (format, shape): (Format, &Shape),
        codes: Vec<u8>,
        scales: &[f32],
    ) {
        let key = state_key(param, state);
        self.tensors.insert(scale_key(&key), Entry::new([scales.len()].into(), Slice::from(scales)));
        self.codes.insert(key, (shape_of_codes(format, shape), codes));
    }

    /// The codes of a state in a block format, with their extents.
    pub fn codes(&self, param: &str, state: &str) -> Option<(&Shape, &[u8])> {
        self.codes.get(&state_key(param, state)).map(|(shape, codes)| (shape, &codes[..]))
    }

    /// The scales of a state in a block format.
    pub fn scales(&self, param: &str, state: &str) -> Option<Vec<f32>> {
        Some(self.tensors.get(&scale_key(&state_key(param, state)))?.values())
    }

    pub(crate) fn insert_scalar(&mut self, param: &str, name: &str, value: f64) {
        let entry = Entry::new(Shape::from([]), Slice::from(&[value][..]));
        self.tensors.insert(state_key(param, name), entry);
    }

    /// A number that is remembered for a parameter.
    pub(crate) fn scalar(&self, param: &str, name: &str) -> Result<f64> {
        let key = state_key(param, name);
        let entry = self.tensors.get(&key).ok_or_else(|| missing(&key))?;
        match entry.values::<f64>()[..] {
            [value] if entry.shape.rank() == 0 => Ok(value),
            _ => {
                Err(Error::Mismatch(format!("{key} has shape {}, expected {}", entry.shape, Shape::from([]))))
            }
        }
    }

    /// A parameter's step count.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when there is none or it is negative.
    pub fn steps(&self, param: &str) -> Result<u64> {
        let steps = self.steps.get(param).ok_or_else(|| missing(&format!("step/{param}")))?;
        u64::try_from(*steps).map_err(|_| Error::Mismatch(format!("step/{param} is negative: {steps}")))
    }

    /// Copies a state that was stored in a format into a backend's memory; says whether it was converted to another.
    pub(crate) fn read_state(
        &self,
        backend: &dyn Backend,
        (param, state, was): (&str, &str, Format),
        shape: &Shape,
        storage: &mut Storage,
        converting: bool,
    ) -> Result<bool> {
        let key = state_key(param, state);
        if was.block().is_some() {
            let (codes, scales) = self.codes_of(&key, was, shape)?;
            if was == storage.format() {
                backend.write_blocks(storage, codes, &scales)?;
                return Ok(false);
            }
            let mut values = vec![0.0f32; shape.elements()];
            let blocks = Blocks { format: was, len: values.len(), codes, scales: &scales };
            blocks.decode(values.as_mut_slice().into());
            backend.write(storage, values.as_slice().into())?;
            return Ok(true);
        }
        let entry = self.tensors.get(&key).ok_or_else(|| missing(&key))?;
        if entry.shape != *shape {
            let got = &entry.shape;
            return Err(Error::Mismatch(format!("{key} has shape {got}, expected {shape}")));
        }
        let converted = entry.format != storage.format();
        if converted && !converting {
            let (got, expected) = (entry.format, storage.format());
            return Err(Error::Mismatch(format!("{key} is stored as {got}, expected {expected}")));
        }
        entry.copy_to(backend, storage)?;
        Ok(converted)
    }

    /// The codes and scales of a state that was stored in a block format.
    fn codes_of(&self, key: &str, format: Format, shape: &Shape) -> Result<(&[u8], Vec<f32>)> {
        let (found, codes) = self.codes.get(key).ok_or_else(|| missing(&format!("{key} in U8")))?;
        let expected = shape_of_codes(format, shape);
        if *found != expected {
            return Err(Error::Mismatch(format!("{key} has shape {found}, expected {expected}")));
        }
        let key = scale_key(key);
        let scales = self.tensors.get(&key).ok_or_else(|| missing(&key))?;
        let expected = Shape::from([format.scales(shape.elements())]);
        if scales.format != Format::F32 || scales.shape != expected {
            let (found, got) = (&scales.shape, scales.format);
            let problem = format!("{key} has shape {found} in {got}, expected {expected} in f32");
            return Err(Error::Mismatch(problem));
        }
        Ok((codes, scales.values()))
    }

    /// Step counts of parameters that are not `known`, and states that are not `expected`: each with what is wrong.
    pub(crate) fn others(
        &self,
        known: impl Fn(&str) -> bool,
        expected: impl Fn(&str, &str) -> bool,
    ) -> impl Iterator<Item = (&str, &'static str)> {
        let steps = self.steps.keys().filter(move |name| !known(name));
        let steps = steps.map(|name| (name.as_str(), "has a step count, but its manifest does not know it"));
        let keys = self.tensors.keys().chain(self.codes.keys());
        let states = keys.filter_map(|key| key.strip_prefix("state/"));
        // The scales of codes stand beside them.
        let whole = |key: &'_ str| match key.strip_suffix(SCALE) {
            Some(whole) if self.codes.contains_key(&format!("state/{whole}")) => whole.to_owned(),
            _ => key.to_owned(),
        };
        let fits =
            move |key: &str| whole(key).rsplit_once('/').is_some_and(|(param, state)| expected(param, state));
        let states = states.filter(move |state| !fits(state));
        steps.chain(states.map(|state| (state, "is not expected: the parameter has no such state")))
    }

    /// One checkpoint of the parts that all ranks have written ([`Driver::save_own`](crate::Driver::save_own)), which
    /// loads with any number of ranks.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when a part is missing or there twice, or they are of different steps or configurations.
    pub fn join(parts: impl IntoIterator<Item = Checkpoint>) -> Result<Checkpoint> {
        let mut whole: Option<Checkpoint> = None;
        let mut found = Vec::new();
        for mut part in parts {
            let Some(Part { rank, of }) = part.manifest.part.take() else {
                return Err(Error::Mismatch("it is whole: only parts of ranks can be joined".into()));
            };
            found.resize(of.max(found.len()), false);
            if found.len() != of || rank >= of || core::mem::replace(&mut found[rank], true) {
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
        match (whole, found.iter().position(|found| !found)) {
            (Some(whole), None) => Ok(whole),
            (_, missing) => {
                let (rank, of) = (missing.unwrap_or(0), found.len());
                Err(Error::Mismatch(format!("the part of rank {rank} of {of} is missing")))
            }
        }
    }

    /// Takes in another rank's part.
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

    /// The file's bytes.
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
            let shape = entry.shape.extents().to_vec();
            views.push((
                key.as_str(),
                TensorView::new(dtype(entry.format), shape, &entry.bytes).map_err(failed)?,
            ));
        }
        for (key, (shape, bytes)) in &self.codes {
            let view = TensorView::new(Dtype::U8, shape.extents().to_vec(), bytes).map_err(failed)?;
            views.push((key.as_str(), view));
        }
        for (key, bytes) in &steps {
            views.push((key.as_str(), TensorView::new(Dtype::I64, Vec::new(), bytes).map_err(failed)?));
        }
        let manifest = serde_json::to_string(&self.manifest)
            .map_err(|error| Error::Mismatch(format!("cannot be written: {error}")))?;
        let metadata = HashMap::from([(MANIFEST.to_owned(), manifest)]);
        safetensors::serialize(views, Some(metadata)).map_err(failed)
    }

    /// Writes the file: beside its place first, flushed to the disk, then renamed.
    ///
    /// # Errors
    /// [`Error::Io`] names the file; an older one is then still whole.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = self.to_bytes()?;
        write_atomically(path, &bytes).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        Ok(())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Malformed`], naming the file.
    pub fn read(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        Checkpoint::from_bytes(&bytes).map_err(|problem| Error::Malformed { path: path.to_owned(), problem })
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Checkpoint, String> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
        let manifest = header.metadata().as_ref().and_then(|metadata| metadata.get(MANIFEST));
        let manifest = manifest.ok_or("it has no manifest (the key `fallline` of its metadata)")?;
        let manifest: Manifest = serde_json::from_str(manifest)
            .map_err(|error| format!("its manifest cannot be read: {error}"))?;
        if manifest.version == 0 || manifest.version > VERSION {
            return Err(format!(
                "it has version {}, and this fallline reads up to {VERSION}",
                manifest.version
            ));
        }
        let mut checkpoint = Checkpoint { manifest, ..Checkpoint::default() };
        for (key, view) in file.tensors() {
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
                checkpoint.codes.insert(key, (view.shape().into(), view.data().to_vec()));
                continue;
            }
            let format =
                format(view.dtype()).ok_or_else(|| format!("{key} is of type {:?}", view.dtype()))?;
            let entry = Entry { format, shape: view.shape().into(), bytes: view.data().to_vec() };
            checkpoint.tensors.insert(key, entry);
        }
        Ok(checkpoint)
    }
}

fn param_key(name: &str) -> String {
    format!("param/{name}")
}

fn state_key(param: &str, state: &str) -> String {
    format!("state/{param}/{state}")
}

/// What the scales' key has behind that of the codes.
const SCALE: &str = ".scale";

fn scale_key(codes: &str) -> String {
    format!("{codes}{SCALE}")
}

/// The extents of a state's codes: the state's, or those of one row of bytes.
fn shape_of_codes(format: Format, shape: &Shape) -> Shape {
    match format.size(shape.elements()) {
        bytes if bytes == shape.elements() => shape.clone(),
        bytes => [bytes].into(),
    }
}

fn missing(key: &str) -> Error {
    Error::Mismatch(format!("{key} is missing"))
}

/// A format's name in safetensors.
pub fn dtype(format: Format) -> Dtype {
    match format {
        Format::F64 => Dtype::F64,
        Format::F32 => Dtype::F32,
        Format::Bf16 => Dtype::BF16,
        Format::F16 => Dtype::F16,
        other => unreachable!("{other} is stored as codes"),
    }
}

/// The format of a safetensors type, where there is one.
pub fn format(dtype: Dtype) -> Option<Format> {
    Format::ALL.into_iter().find(|&format| self::dtype(format) == dtype)
}

fn little_endian(values: Slice<'_>) -> Vec<u8> {
    let mut bytes = values.bytes().to_vec();
    if cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(values.format().bytes()).for_each(<[u8]>::reverse);
    }
    bytes
}
