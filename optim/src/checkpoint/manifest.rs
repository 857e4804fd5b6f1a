//! What a checkpoint has in addition to its tensors: the optimizer, its groups, its parameters.

use super::{LoadOptions, VERSION};
use crate::gradient_config::loss_scaler::persist::SavedGradientConfig;
use crate::hyper::{Hyper, Value};
use crate::{AnyAlgorithm, Error, LoadReport, ModuleKind, Result, map::map_of, program::Mode};
use fallline_core::{Compute, Format, Shape};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The key of an algorithm's name among a group's hyperparameters.
const TYPE: &str = "type";

/// Hyperparameters that checkpoints of the first versions lack: the optimizer keeps its own.
const LATER: [&str; 6] =
    ["is_paged", "min_8bit_size", "ns_method", "optim_bits", "quantised_trust_ratio", "split"];

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
    /// How many ranks have separate entries (`rank/<rank>/<name>/<error>`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<usize>,
    /// How far the schedule is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<serde_json::Value>,
    /// The gradient pipeline: iterations, loss scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wrapper: Option<SavedGradientConfig>,
    /// Which weights the parameters held, where not those that are trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    /// How many iterations are in the average of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) average_steps: Option<u64>,
    /// Whatever the training loop wants to find again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainer: Option<serde_json::Value>,
    /// Of a converted checkpoint: what its source needs to have it back, such as the order of the parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<serde_json::Value>,
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
            mode: None,
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
    pub(super) name: String,
    /// For each group its hyperparameters, and its [`TYPE`] where that is another than the first group's.
    pub(super) groups: Vec<BTreeMap<String, serde_json::Value>>,
    /// The algorithm's shared scalars.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) shared: BTreeMap<String, serde_json::Value>,
    /// What is known of each parameter.
    pub(crate) params: BTreeMap<String, ParamManifest>,
}

/// What is known of a parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParamManifest {
    pub(crate) shape: Vec<usize>,
    pub(crate) group: usize,
    compute: String,
    /// The states that are not stored in the compute type.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) formats: BTreeMap<String, String>,
    /// The seed of its stochastic rounding; the counter is its step count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seed: Option<u64>,
    /// The seed of the stochastic rounding of its states, where the parameter is not rounded so itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state_seed: Option<u64>,
    /// The kind of module that it belongs to, where it is not the one that would be guessed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    module: Option<String>,
    /// Whether there is no average of it yet, where weights are averaged.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub(crate) unaveraged: bool,
    /// Whether a gradient of it is in an accumulation window.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub(crate) accumulated: bool,
}

impl ParamManifest {
    pub(crate) fn new(shape: &[usize], group: usize, compute: Compute) -> ParamManifest {
        let formats = BTreeMap::new();
        let (shape, compute) = (shape.to_vec(), compute.to_string());
        let (seed, module, unaveraged, accumulated) = (None, None, false, false);
        ParamManifest {
            shape,
            group,
            compute,
            formats,
            seed,
            state_seed: None,
            module,
            unaveraged,
            accumulated,
        }
    }

    /// Notes the kind of module that it belongs to.
    pub(crate) fn set_kind(&mut self, kind: ModuleKind, name: &str) {
        let told = kind != ModuleKind::guess(name, &self.shape());
        self.module = told.then(|| kind.name().to_owned());
    }

    /// Returns the kind of module that it belongs to, if it is noted and this version knows it.
    pub(crate) fn kind(&self) -> Option<ModuleKind> {
        ModuleKind::from_name(self.module.as_deref()?)
    }

    /// Returns the kind of module that is noted, where this version does not know it.
    pub(crate) fn unknown_kind(&self) -> Option<&str> {
        self.module.as_deref().filter(|name| ModuleKind::from_name(name).is_none())
    }

    pub(crate) fn insert_format(&mut self, state: &str, format: Format) {
        if self.compute().is_none_or(|compute| compute.format() != format) {
            self.formats.insert(state.to_owned(), format.to_string());
        }
    }

    /// Returns its shape.
    pub fn shape(&self) -> Shape {
        Shape::from(&self.shape[..])
    }

    /// Returns its group.
    pub fn group(&self) -> usize {
        self.group
    }

    /// Returns how a state of a parameter that was computed in `compute` is stored, if this version knows it.
    pub fn format(&self, state: &str, compute: Compute) -> Option<Format> {
        let Some(name) = self.formats.get(state) else { return Some(compute.format()) };
        Format::ALL.into_iter().chain(Format::BLOCKS).find(|format| format.to_string() == *name)
    }

    /// Returns the type that parameter `name` is computed in from now on: the one that is `known` of it, or as it was
    /// saved. Only where that may be converted they may differ.
    pub(crate) fn compute_as(&self, name: &str, known: Option<Compute>, converting: bool) -> Result<Compute> {
        let mismatch = |problem: String| Error::Mismatch(format!("parameter {name:?} {problem}"));
        let saved = self.compute().ok_or_else(|| mismatch("was computed in an unknown type".into()))?;
        match known {
            Some(ours) if ours != saved && !converting => {
                Err(mismatch(format!("was computed in {saved}, but here in {ours}")))
            }
            known => Ok(known.unwrap_or(saved)),
        }
    }

    /// Returns the type that it is computed in, if this version knows it.
    pub fn compute(&self) -> Option<Compute> {
        [Compute::F32, Compute::F64].into_iter().find(|compute| compute.to_string() == self.compute)
    }
}

impl Manifest {
    /// Returns which weights the parameters held when the checkpoint was saved.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where this version does not know them.
    pub fn mode(&self) -> Result<Mode> {
        let known = [Mode::Training, Mode::Evaluation].into_iter();
        match &self.mode {
            None => Ok(Mode::Training),
            Some(saved) => known.into_iter().find(|mode| mode.to_string() == *saved).ok_or_else(|| {
                Error::Mismatch(format!("its weights are those of a mode {saved:?}, which is unknown"))
            }),
        }
    }

    /// Returns how many iterations accumulation and loss scale have counted, if there are any.
    pub fn iterations(&self) -> Option<u64> {
        Some(self.wrapper.as_ref()?.done)
    }

    /// Returns how many iterations are in the average of the weights, if there is one.
    pub fn averaged_iterations(&self) -> Option<u64> {
        self.average_steps
    }

    /// Notes which weights the parameters hold.
    pub fn set_mode(&mut self, mode: Mode) {
        self.mode = (mode != Mode::Training).then(|| mode.to_string());
    }

    /// Returns what is known of a parameter, to change.
    pub(crate) fn param_mut(&mut self, name: &str) -> Option<&mut ParamManifest> {
        self.optimizer.as_mut()?.params.get_mut(name)
    }

    /// Returns the optimizer of a whole checkpoint.
    pub(crate) fn whole_optimizer(&self) -> Result<&OptimizerManifest> {
        if let Some(Part { rank, of }) = self.part {
            let problem = format!("it is the part of rank {rank} of {of}: join the parts of all ranks first");
            return Err(Error::Mismatch(problem));
        }
        self.optimizer.as_ref().ok_or_else(|| Error::Mismatch("it holds no optimizer state".into()))
    }

    /// Returns whether a state is stored in a block format, by its entry's key.
    pub(super) fn is_in_blocks(&self, key: &str) -> bool {
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

    /// Returns the algorithm's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the hyperparameters of each group.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = Vec<(&str, Value)>> {
        self.groups
            .iter()
            .map(|group| group.iter().map(|(name, value)| (name.as_str(), from_json(value))).collect())
    }

    /// Returns the parameters, sorted by name.
    pub fn params(&self) -> impl ExactSizeIterator<Item = (&str, &ParamManifest)> {
        self.params.iter().map(|(name, param)| (name.as_str(), param))
    }

    /// Adds a parameter.
    pub fn insert_param(&mut self, name: &str, shape: &Shape, group: usize, compute: Compute) {
        self.params.insert(name.to_owned(), ParamManifest::new(shape.dims(), group, compute));
    }

    /// Says how a state of a parameter is stored. Those of which nothing is said are stored in the compute type.
    pub fn insert_format(&mut self, name: &str, state: &str, format: Format) {
        if let Some(param) = self.params.get_mut(name) {
            param.insert_format(state, format);
        }
    }

    /// Adds a shared scalar of the algorithm.
    pub fn insert_shared(&mut self, name: &str, value: f64) {
        self.shared.insert(name.to_owned(), to_json(&Value::Float(value)));
    }

    /// Returns a shared scalar of the algorithm.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when there is none.
    pub fn shared(&self, name: &str) -> Result<f64> {
        let value = self.shared.get(name).and_then(|value| from_json(value).as_f64());
        value.ok_or_else(|| Error::Mismatch(format!("the manifest has no number {name:?} under \"shared\"")))
    }

    /// Adds a group with an algorithm's hyperparameters.
    pub fn push_group(&mut self, algorithm: &dyn AnyAlgorithm) {
        self.push_values(algorithm.name(), algorithm.table(), |name| algorithm.get(name));
    }

    /// Adds a group with the hyperparameters of a table, of what has this name.
    pub fn push_values(&mut self, name: &str, table: &[Hyper], get: impl Fn(&str) -> Option<Value>) {
        let values =
            table.iter().filter_map(|hyper| Some((hyper.name.to_owned(), to_json(&get(hyper.name)?))));
        let other = (name != self.name).then(|| (TYPE.to_owned(), name.into()));
        self.groups.push(map_of(values.chain(other)));
    }

    /// Refuses the state of another algorithm.
    pub(crate) fn refuse_other_than(&self, expected: &str) -> Result<()> {
        match self.name == expected {
            true => Ok(()),
            false => Err(Error::Mismatch(format!("it is of {}, expected {expected}", self.name))),
        }
    }

    /// Refuses another number of groups.
    pub(crate) fn check_groups(&self, expected: usize) -> Result<()> {
        match self.groups.len() {
            got if got != expected => {
                let hint = "LoadOptions::state_only() keeps the optimizer's own";
                Err(Error::Mismatch(format!("it has {got} parameter groups, expected {expected} ({hint})")))
            }
            _ => Ok(()),
        }
    }

    /// Returns the saved hyperparameters of a group, which must be of this algorithm and all that it has. A load that
    /// may ignore mismatches lists them, and leaves out what the algorithm does not have.
    pub(crate) fn values_of(
        &self,
        group: usize,
        (expected, table): (&str, &[Hyper]),
        known: impl Fn(&str) -> bool,
        (options, report): (&LoadOptions, &mut LoadReport),
    ) -> Result<Vec<(&str, Value)>> {
        let saved = &self.groups[group];
        let name = saved.get(TYPE).and_then(|name| name.as_str()).unwrap_or(&self.name);
        if name != expected || saved.get(TYPE).is_some_and(|name| !name.is_string()) {
            return Err(Error::Mismatch(format!("it is of {name}, expected {expected}")));
        }
        let named = |name: &str| format!("the manifest's hyperparameter {name:?} of group {group}");
        let absent = table.iter().map(|hyper| hyper.name).filter(|name| !saved.contains_key(*name));
        let absent = absent.filter(|name| known(name) && !LATER.contains(name));
        let (others, values): (Vec<_>, Vec<_>) = saved
            .iter()
            .filter(|(name, _)| *name != TYPE)
            .partition(|(name, _)| !table.iter().any(|hyper| hyper.name == name.as_str()));
        for name in absent {
            options.refuse(|| format!("{} is missing", named(name)))?;
            report.missing.push(named(name));
        }
        for (name, _) in others {
            options.refuse(|| format!("{} is none of {expected}", named(name)))?;
            report.unexpected.push(named(name));
        }
        Ok(values.into_iter().map(|(name, value)| (name.as_str(), from_json(value))).collect())
    }

    /// Returns the groups' algorithms with their hyperparameters, and the scalars that the groups of a checkpoint
    /// keep from step to step. Groups that it has not take the first one's.
    pub(crate) fn restore_kept<'a>(
        &self,
        current: impl Iterator<Item = &'a dyn AnyAlgorithm>,
        (options, report): (&LoadOptions, &mut LoadReport),
    ) -> Result<Vec<Box<dyn AnyAlgorithm>>> {
        let restored = current.enumerate().map(|(group, algorithm)| {
            let mut algorithm = algorithm.boxed();
            let Some((group, saved)) =
                self.groups.get(group).map(|saved| (group, saved)).or(self.first_group())
            else {
                return Ok(algorithm);
            };
            let mut values = Vec::new();
            for hyper in algorithm.table().iter().filter(|hyper| hyper.kept) {
                match saved.get(hyper.name) {
                    Some(value) => values.push((hyper.name, from_json(value))),
                    None => {
                        let name = hyper.name;
                        let named = format!("the manifest's hyperparameter {name:?} of group {group}");
                        options.refuse(|| format!("{named} is missing"))?;
                        report.missing.push(named);
                    }
                }
            }
            algorithm.set(&values).map_err(|error| Error::Mismatch(error.to_string()))?;
            Ok(algorithm)
        });
        restored.collect()
    }

    fn first_group(&self) -> Option<(usize, &BTreeMap<String, serde_json::Value>)> {
        self.groups.first().map(|saved| (0, saved))
    }

    /// Returns the groups' algorithms with the saved hyperparameters.
    pub(crate) fn restore_groups<'a>(
        &self,
        current: impl ExactSizeIterator<Item = &'a dyn AnyAlgorithm>,
        (options, report): (&LoadOptions, &mut LoadReport),
    ) -> Result<Vec<Box<dyn AnyAlgorithm>>> {
        self.check_groups(current.len())?;
        let restored = current.enumerate().map(|(group, algorithm)| {
            let mut algorithm = algorithm.boxed();
            let kind = (algorithm.name(), algorithm.table());
            let known = |name: &str| algorithm.get(name).is_some();
            let values = self.values_of(group, kind, known, (options, report))?;
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
