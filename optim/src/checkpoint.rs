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

use crate::driver::wrap::SavedWrapper;
use crate::hyper::Value;
use crate::{AnyAlgorithm, Error, ModuleKind, Result};
use fallline_core::host::{Blocks, Slice};
use fallline_core::{Backend, Compute, Element, Format, Shape, Storage};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

/// The version of the format that this crate writes; it reads all up to it.
pub const VERSION: u32 = 1;
/// The key of the manifest in the file's metadata.
const MANIFEST: &str = "fallline";
/// The key of an algorithm's name among a group's hyperparameters.
const TYPE: &str = "type";

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

/// What the tensors alone do not tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Manifest {
    /// The version of the format.
    pub version: u32,
    /// The optimizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<OptimizerManifest>,
    /// Whose part it is, where each rank has written its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// How many ranks have an entry of their own (`rank/<rank>/<name>/<error>`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<usize>,
    /// How far the schedule is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<serde_json::Value>,
    /// What goes on around steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wrapper: Option<SavedWrapper>,
    /// How many iterations are in the average of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) average_steps: Option<u64>,
    /// Whatever the trainer wants to find again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainer: Option<serde_json::Value>,
    /// Of a converted checkpoint: what its source needs to have it back, such as the order of the parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<serde_json::Value>,
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

impl Default for Manifest {
    fn default() -> Self {
        Manifest {
            version: VERSION,
            optimizer: None,
            part: None,
            ranks: None,
            schedule: None,
            wrapper: None,
            average_steps: None,
            trainer: None,
            origin: None,
        }
    }
}

/// One rank's part of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The rank that wrote it.
    pub rank: usize,
    /// How many parts there are.
    pub of: usize,
}

/// An optimizer's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptimizerManifest {
    /// The algorithm's name.
    #[serde(rename = "type")]
    name: String,
    /// For each group its hyperparameters, and its [`TYPE`] where that is another than the first group's.
    groups: Vec<BTreeMap<String, serde_json::Value>>,
    /// What the algorithm remembers for all parameters together.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    shared: BTreeMap<String, serde_json::Value>,
    /// What is known of each parameter.
    pub(crate) params: BTreeMap<String, ParamManifest>,
}

/// What is known of a parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParamManifest {
    pub(crate) shape: Vec<usize>,
    pub(crate) group: usize,
    compute: String,
    /// The states that are not stored as they are computed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) formats: BTreeMap<String, String>,
    /// What the chances are drawn with that round it; the counter is its step count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seed: Option<u64>,
    /// The kind of module that it belongs to, where it is not the one that would be guessed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    module: Option<String>,
}

impl ParamManifest {
    pub(crate) fn new(shape: &[usize], group: usize, compute: Compute) -> ParamManifest {
        let formats = BTreeMap::new();
        let (shape, compute) = (shape.to_vec(), compute.to_string());
        ParamManifest { shape, group, compute, formats, seed: None, module: None }
    }

    /// Notes the kind of module that it belongs to.
    pub(crate) fn set_kind(&mut self, kind: ModuleKind, name: &str) {
        let told = kind != ModuleKind::guess(name, &self.shape());
        self.module = told.then(|| kind.name().to_owned());
    }

    /// The kind of module that it belongs to, if it is noted and this version knows it.
    pub(crate) fn kind(&self) -> Option<ModuleKind> {
        ModuleKind::from_name(self.module.as_deref()?)
    }

    pub(crate) fn insert_format(&mut self, state: &str, format: Format) {
        if self.compute().is_none_or(|compute| compute.format() != format) {
            self.formats.insert(state.to_owned(), format.to_string());
        }
    }

    /// Its extents.
    pub fn shape(&self) -> Shape {
        Shape::from(&self.shape[..])
    }

    /// Its group.
    pub fn group(&self) -> usize {
        self.group
    }

    /// How a state of a parameter that was computed in `compute` is stored, if this version knows it.
    pub fn format(&self, state: &str, compute: Compute) -> Option<Format> {
        let Some(name) = self.formats.get(state) else { return Some(compute.format()) };
        Format::ALL.into_iter().chain(Format::BLOCKS).find(|format| format.to_string() == *name)
    }

    /// The type that it is computed in, if this version knows it.
    pub fn compute(&self) -> Option<Compute> {
        [Compute::F32, Compute::F64].into_iter().find(|compute| compute.to_string() == self.compute)
    }
}

impl Manifest {
    /// Whether a state is stored in a block format, by its entry's key.
    fn is_in_blocks(&self, key: &str) -> bool {
        let names = key.strip_prefix("state/").and_then(|names| names.rsplit_once('/'));
        names.zip(self.optimizer.as_ref()).is_some_and(|((param, state), optimizer)| {
            let param = optimizer.params.get(param);
            let format = param.and_then(|param| param.format(state, Compute::F32));
            format.is_some_and(|format| format.block().is_some())
        })
    }
}

impl OptimizerManifest {
    /// Of an algorithm, without groups and parameters yet.
    pub fn new(name: &str) -> OptimizerManifest {
        OptimizerManifest {
            name: name.to_owned(),
            groups: Vec::new(),
            shared: BTreeMap::new(),
            params: BTreeMap::new(),
        }
    }

    /// The algorithm's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hyperparameters of each group.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = Vec<(&str, Value)>> {
        self.groups
            .iter()
            .map(|group| group.iter().map(|(name, value)| (name.as_str(), from_json(value))).collect())
    }

    /// The parameters, sorted by name.
    pub fn params(&self) -> impl ExactSizeIterator<Item = (&str, &ParamManifest)> {
        self.params.iter().map(|(name, param)| (name.as_str(), param))
    }

    /// Adds a parameter.
    pub fn insert_param(&mut self, name: &str, shape: &Shape, group: usize, compute: Compute) {
        self.params.insert(name.to_owned(), ParamManifest::new(shape.extents(), group, compute));
    }

    /// Says how a state of a parameter is stored. Those of which nothing is said are stored as they are computed.
    pub fn insert_format(&mut self, name: &str, state: &str, format: Format) {
        if let Some(param) = self.params.get_mut(name) {
            param.insert_format(state, format);
        }
    }

    /// Adds a number that the algorithm remembers for all parameters together.
    pub fn insert_shared(&mut self, name: &str, value: f64) {
        self.shared.insert(name.to_owned(), to_json(&Value::Float(value)));
    }

    /// A number that the algorithm remembers for all parameters together.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when there is none.
    pub fn shared(&self, name: &str) -> Result<f64> {
        let value = self.shared.get(name).and_then(|value| from_json(value).as_f64());
        value.ok_or_else(|| Error::Mismatch(format!("the manifest has no number {name:?} under \"shared\"")))
    }

    /// Adds a group with an algorithm's hyperparameters.
    pub fn push_group(&mut self, algorithm: &dyn AnyAlgorithm) {
        let table = algorithm.table().iter();
        let values =
            table.filter_map(|hyper| Some((hyper.name.to_owned(), to_json(&algorithm.get(hyper.name)?))));
        let other = (algorithm.name() != self.name).then(|| (TYPE.to_owned(), algorithm.name().into()));
        self.groups.push(values.chain(other).collect());
    }

    /// Refuses the state of another algorithm.
    pub(crate) fn refuse_other_than(&self, algorithm: &dyn AnyAlgorithm) -> Result<()> {
        match algorithm.name() {
            expected if expected != self.name => {
                Err(Error::Mismatch(format!("it is of {}, expected {expected}", self.name)))
            }
            _ => Ok(()),
        }
    }

    /// The groups' algorithms with the saved hyperparameters.
    pub(crate) fn restore_groups<'a>(
        &self,
        current: impl ExactSizeIterator<Item = &'a dyn AnyAlgorithm>,
    ) -> Result<Vec<Box<dyn AnyAlgorithm>>> {
        if current.len() != self.groups.len() {
            let (got, expected) = (self.groups.len(), current.len());
            return Err(Error::Mismatch(format!("it has {got} parameter groups, expected {expected}")));
        }
        let restored = current.zip(&self.groups).map(|(algorithm, saved)| {
            let name = saved.get(TYPE).and_then(|name| name.as_str()).unwrap_or(&self.name);
            if algorithm.name() != name {
                let expected = algorithm.name();
                return Err(Error::Mismatch(format!("it is of {name}, expected {expected}")));
            }
            let mut algorithm = algorithm.boxed();
            let values: Vec<(&str, Value)> = saved
                .iter()
                .filter(|(name, _)| *name != TYPE)
                .map(|(name, value)| (name.as_str(), from_json(value)))
                .collect();
            algorithm.set(&values).map_err(|error| Error::Mismatch(error.to_string()))?;
            Ok(algorithm)
        });
        restored.collect()
    }
}

/// JSON has no infinity: it is written as a string.
fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::None => serde_json::Value::Null,
        Value::Bool(x) => (*x).into(),
        Value::Int(x) => (*x).into(),
        Value::Float(x) if x.is_finite() => (*x).into(),
        Value::Float(x) => format!("float:{x}").into(),
        Value::Text(x) => x.as_str().into(),
        Value::List(items) => items.iter().map(to_json).collect(),
    }
}

fn from_json(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null | serde_json::Value::Object(_) => Value::None,
        serde_json::Value::Bool(x) => Value::Bool(*x),
        serde_json::Value::Number(x) => match x.as_i64() {
            Some(x) => Value::Int(x),
            None => Value::Float(x.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(x) => match x.strip_prefix("float:").and_then(|x| x.parse().ok()) {
            Some(x) => Value::Float(x),
            None => Value::Text(x.clone()),
        },
        serde_json::Value::Array(items) => Value::List(items.iter().map(from_json).collect()),
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

/// How the names of files being written begin.
const TEMPORARY: &str = ".fallline-";

/// Removes what [`write_atomically`] left in a folder when it was killed. Call it only where nothing else
/// is writing.
///
/// # Errors
/// Those of the file system.
pub fn remove_temporaries(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) && entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Writes a file beside its place, flushes it to the disk and renames it, so that nobody ever sees a part
/// of it. Returns the file, open at its end.
///
/// # Errors
/// Those of the file system; an older file is then still whole.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<std::fs::File> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    // What any new file would get: the process's mask takes its part away.
    #[cfg(unix)]
    let everyone = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666);
    #[cfg(unix)]
    builder.permissions(everyone);
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    let file = file.persist(path).map_err(|error| error.error)?;
    // The rename itself reaches the disk with the folder; where folders cannot be opened, that is all.
    if let Ok(folder) = std::fs::File::open(folder) {
        folder.sync_all().ok();
    }
    Ok(file)
}
