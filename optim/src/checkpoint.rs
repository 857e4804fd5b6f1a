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
//! The manifest has a hash of every entry and of each of its own keys, under `hashes`. Readers of versions before ignore it.
//! [`Checkpoint::read`] compares them, and [`Checkpoint::read_unverified`] does not. All NaNs hash as one.
//!
//! A file is written atomically: to a temporary file next to it, flushed to the disk and renamed. So there is always
//! a whole one. A load checks everything before it changes anything.

mod container;
mod entry;
mod files;
mod hashes;
mod manifest;
mod params;
mod rename;

pub use entry::{Entry, dtype, format};
pub use files::{is_temporary, remove_temporaries, write_atomically};
pub use manifest::{Manifest, OptimizerManifest, ParamManifest, Part};
pub(crate) use rename::{differ_in_wrappers, rule_between};

use crate::map::map_of;
use crate::{Error, Result};
use fallline_core::host::{Blocks, Slice};
use fallline_core::{Backend, Format, Shape, Storage, fallible};
use std::collections::BTreeMap;

/// The version of the format that this crate writes; it reads all up to it.
pub const VERSION: u32 = 1;

/// The key of the manifest in the file's metadata.
const MANIFEST: &str = "fallline";

/// Everything that a run needs to resume: parameters, states, step counts, and a manifest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    tensors: BTreeMap<String, Entry>,
    /// Codes of block formats: shape and bytes.
    codes: BTreeMap<String, (Shape, Vec<u8>)>,
    steps: BTreeMap<String, i64>,
    /// What the tensors alone do not tell.
    pub manifest: Manifest,
}

/// Which mismatches a load ignores, and what it renames. By default nothing: algorithm, groups, hyperparameters,
/// parameters, states, shapes and formats must all fit, and everything is restored. The group of a parameter must be the one
/// that the configuration gives it, and a checkpoint with parameters must have all that its manifest lists.
///
/// An optimizer that has not stepped yet does not know its parameters. What a load brings is compared with those that
/// its first step binds, before that step changes anything:
///
/// | in the first step | strict | [lenient](LoadOptions::lenient) |
/// |---|---|---|
/// | a parameter that the checkpoint does not have | error, with a hint at [`rename`](LoadOptions::rename) | starts anew |
/// | another shape, or another type of the arithmetic | error | starts anew |
/// | a parameter of the checkpoint that is not bound | kept until a step binds it | the same |
///
/// The error is [`Error::Mismatch`]. Nothing is changed then: load again, or bind other parameters.
/// [`StepReport::loaded`](crate::StepReport::loaded) says what started anew and what was not bound. An optimizer may step a
/// part of its parameters at a time, so what is merely not bound is no error. In later steps new parameters may join,
/// unless they differ from one that is not bound in `module.`, `_orig_mod.` or `model.` alone. An
/// [incremental step](crate::Driver::begin) compares each parameter when it is bound.
///
/// ```
/// use fallline_optim::LoadOptions;
/// let fine_tuning = LoadOptions::default().state_only().lenient();
/// let without_wrapper = LoadOptions::default().rename("module.", "");
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadOptions {
    pub(crate) state_only: bool,
    pub(crate) lenient: bool,
    pub(crate) converting: bool,
    pub(crate) rename: Vec<(String, String)>,
}

impl LoadOptions {
    /// Restores states and step counts, and keeps the optimizer's hyperparameters and groups, `lr` among them.
    pub fn state_only(self) -> LoadOptions {
        LoadOptions { state_only: true, ..self }
    }

    /// Restores what fits by name and shape, and lists the rest in the [`LoadReport`](crate::LoadReport) (torch's
    /// `strict=False`). Parameters that are missing or of another shape stay as they are. Missing states start as in
    /// a first step. LBFGS, whose memory is of all parameters together, is still restored as a whole or not at all.
    pub fn lenient(self) -> LoadOptions {
        LoadOptions { lenient: true, ..self }
    }

    /// Converts states that are stored in another format than the optimizer keeps them in, and takes checkpoints of the
    /// other compute type. Every state is rounded once at most. The device never matters.
    pub fn converting(self) -> LoadOptions {
        LoadOptions { converting: true, ..self }
    }

    /// Loads parameters whose names begin with `old` under names that begin with `new`: `rename("module.", "")` strips
    /// what `DistributedDataParallel` puts in front. It holds for everything that a checkpoint has of a parameter. Of
    /// several rules the first that fits a name holds. A rule that fits none is an error, unless the load is lenient.
    pub fn rename(mut self, old: &str, new: &str) -> LoadOptions {
        self.rename.push((old.to_owned(), new.to_owned()));
        self
    }

    /// Refuses a mismatch, unless it may be ignored.
    pub(crate) fn refuse(&self, problem: impl FnOnce() -> String) -> Result<()> {
        if self.lenient { Ok(()) } else { Err(Error::Mismatch(problem())) }
    }
}

/// What the scales' key has behind that of the codes.
const SCALE: &str = ".scale";

impl Checkpoint {
    /// Adds a parameter. [`insert_params`](Checkpoint::insert_params) adds what is bound.
    pub fn insert_param(&mut self, name: &str, entry: Entry) {
        self.tensors.insert(param_key(name), entry);
    }

    /// A parameter.
    pub fn param(&self, name: &str) -> Option<&Entry> {
        self.tensors.get(&param_key(name))
    }

    /// Returns the bytes of all its tensors.
    pub fn bytes(&self) -> usize {
        let tensors = self.tensors.values().map(|entry| entry.bytes.len());
        tensors.chain(self.codes.values().map(|(_, codes)| codes.len())).fold(0, usize::saturating_add)
    }

    /// Adds a tensor under any key.
    pub(crate) fn insert(&mut self, key: String, entry: Entry) {
        self.tensors.insert(key, entry);
    }

    /// Returns the tensors whose keys begin with a prefix, by the rest of their keys.
    pub(crate) fn below<'c>(&'c self, prefix: &'c str) -> impl Iterator<Item = (&'c str, &'c Entry)> {
        self.tensors.iter().filter_map(move |(key, entry)| Some((key.strip_prefix(prefix)?, entry)))
    }

    /// Returns the parameters' names.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().filter_map(|key| key.strip_prefix("param/"))
    }

    /// A state.
    pub fn state(&self, param: &str, state: &str) -> Option<&Entry> {
        self.tensors.get(&state_key(param, state))
    }

    /// Returns whether there is a state of a parameter, in any format.
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

    /// Returns what one rank alone keeps of a parameter.
    pub(crate) fn of_rank(&self, rank: usize, param: &str, what: &str) -> Option<&Entry> {
        self.tensors.get(&format!("rank/{rank}/{param}/{what}"))
    }

    pub(crate) fn insert_of_rank(&mut self, rank: usize, param: &str, what: &str, entry: Entry) {
        self.tensors.insert(format!("rank/{rank}/{param}/{what}"), entry);
    }

    /// Only what one rank alone keeps.
    pub(crate) fn only_of_ranks(&self) -> Checkpoint {
        let own = self.tensors.iter().filter(|(key, _)| key.starts_with("rank/"));
        let tensors = map_of(own.map(|(key, entry)| (key.clone(), entry.clone())));
        Checkpoint { tensors, ..Checkpoint::default() }
    }

    /// Adds what other ranks keep.
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
        let mut codes = fallible::zeroed(format.size(storage.len()), &key)?;
        let mut scales = fallible::zeroed::<f32>(format.scales(storage.len()), &key)?;
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

    /// Returns the codes of a state in a block format, with their shape.
    pub fn codes(&self, param: &str, state: &str) -> Option<(&Shape, &[u8])> {
        self.codes.get(&state_key(param, state)).map(|(shape, codes)| (shape, &codes[..]))
    }

    /// Returns the scales of a state in a block format.
    pub fn scales(&self, param: &str, state: &str) -> Option<Vec<f32>> {
        Some(self.tensors.get(&scale_key(&state_key(param, state)))?.values())
    }

    pub(crate) fn insert_scalar(&mut self, param: &str, name: &str, value: f64) {
        let entry = Entry::new(Shape::from([]), Slice::from(&[value][..]));
        self.tensors.insert(state_key(param, name), entry);
    }

    /// A scalar that is kept for a parameter.
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

    /// Checks that a state that was stored in a format is there, in this shape and a format that may be read as
    /// `format`: before memory of that shape is asked for.
    pub(crate) fn check_state(
        &self,
        (param, state, was): (&str, &str, Format),
        shape: &Shape,
        format: Format,
        converting: bool,
    ) -> Result<()> {
        let key = state_key(param, state);
        if was.block().is_some() {
            return self.codes_of(&key, was, shape).map(drop);
        }
        let entry = self.tensors.get(&key).ok_or_else(|| missing(&key))?;
        // Earlier versions kept elements for the rows or columns of an empty parameter.
        if entry.shape != *shape && shape.elements() > 0 {
            let got = &entry.shape;
            return Err(Error::Mismatch(format!("{key} has shape {got}, expected {shape}")));
        }
        if entry.format != format && !converting {
            let got = entry.format;
            return Err(Error::Mismatch(format!("{key} is stored as {got}, expected {format}")));
        }
        Ok(())
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
        self.check_state((param, state, was), shape, storage.format(), converting)?;
        let key = state_key(param, state);
        if was.block().is_some() {
            let (codes, scales) = self.codes_of(&key, was, shape)?;
            let scales = scales.numbers::<f32>()?;
            if was == storage.format() {
                backend.write_blocks(storage, codes, &scales)?;
                return Ok(false);
            }
            let mut values = fallible::zeroed::<f32>(shape.elements(), &key)?;
            let blocks = Blocks { format: was, len: values.len(), codes, scales: &scales };
            blocks.decode(values.as_mut_slice().into());
            backend.write(storage, values.as_slice().into())?;
            return Ok(true);
        }
        let entry = self.tensors.get(&key).ok_or_else(|| missing(&key))?;
        if !storage.is_empty() {
            entry.copy_to(backend, storage)?;
        }
        Ok(entry.format != storage.format())
    }

    /// Returns the codes and scales of a state that was stored in a block format.
    fn codes_of(&self, key: &str, format: Format, shape: &Shape) -> Result<(&[u8], &Entry)> {
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
        Ok((codes, scales))
    }
}

fn param_key(name: &str) -> String {
    format!("param/{name}")
}

fn state_key(param: &str, state: &str) -> String {
    format!("state/{param}/{state}")
}

fn scale_key(codes: &str) -> String {
    format!("{codes}{SCALE}")
}

/// Returns the shape of a state's codes: the state's, or that of one row of bytes.
fn shape_of_codes(format: Format, shape: &Shape) -> Shape {
    match format.size(shape.elements()) {
        bytes if bytes == shape.elements() => shape.clone(),
        bytes => [bytes].into(),
    }
}

fn missing(key: &str) -> Error {
    Error::Mismatch(format!("{key} is missing"))
}
