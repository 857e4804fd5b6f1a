//! From a checkpoint to a source's state.

mod group;
mod state;
mod tensor;

use crate::import::param::check_rule;
use crate::layout;
use crate::report::Report;
use crate::value::{Dict, Key, Value};
use crate::{Error, Result, lbfgs};
use fallline_optim::checkpoint::{OptimizerManifest, ParamManifest};
use fallline_optim::{Checkpoint, Method};
use group::group;
use state::Exporter;
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use tensor::tensor;

/// What states may have together of which a checkpoint says the shape alone: so many times its bytes, and some more.
const UNSTORED: usize = 8;
const LEAST: usize = 1 << 24;

/// The checkpoint format that encloses the optimizer's state.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Container {
    /// Nothing: the file is what `optimizer.state_dict()` gives.
    #[default]
    Bare,
    /// A dict with `model` and `optimizer`.
    Training,
    /// What MMEngine's runner resumes from: `meta`, `state_dict`, `optimizer`, `param_schedulers`, `message_hub`.
    MmEngine,
}

/// What is given in addition to a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// The parameters' names in the order of the model. Known for checkpoints that came from torch.
    pub names: Option<Vec<String>>,
    /// Where the order of the model is not known, take that of the parameters' names: numbers by their value, others as text.
    pub number: bool,
    /// Prefixes of the checkpoint's names, and what replaces them before names are matched: `("module.", "")` leaves
    /// `module.` out.
    pub rename: Vec<(String, String)>,
    /// The format that encloses the state.
    pub container: Container,
}

/// Turns a checkpoint into the state of an optimizer of torch's kind, to be written with
/// [`archive::write`](crate::archive::write). `groups` are what the checkpoint's groups are stepped by.
///
/// # Errors
/// What is missing or cannot be exported, by name.
pub fn to_torch(
    checkpoint: &Checkpoint,
    groups: &[Method],
    options: &ExportOptions,
) -> Result<(Value<'static>, Report)> {
    let renamed = renamed(checkpoint, &options.rename)?;
    let checkpoint = &*renamed;
    let missing = || Error::value("the checkpoint", "it holds no optimizer's state");
    let manifest = checkpoint.manifest.optimizer.as_ref().ok_or_else(missing)?;
    let layout = layout::of(manifest.name())?;
    let mut report = Report::default();
    let order = order(checkpoint, manifest, groups.len(), options, &mut report)?;
    let params: HashMap<&str, &ParamManifest> = manifest.params().collect();
    let mode =
        checkpoint.manifest.mode().map_err(|error| Error::value("the checkpoint", error.to_string()))?;
    let (mut states, mut lists) = (Dict::new(), Vec::new());
    let mut id = 0i64;
    let unstored = Cell::new(checkpoint.bytes().saturating_mul(UNSTORED).saturating_add(LEAST));
    for (place, names) in &order {
        let method = groups.get(*place);
        let method =
            method.ok_or_else(|| Error::value("the checkpoint", format!("there is no group {place}")))?;
        let exporter = method
            .algorithm()
            .map(|algorithm| Exporter::new((checkpoint, &params), layout, algorithm, &unstored));
        let mut ids = Vec::new();
        // A search has one state of all parameters, under the first.
        if exporter.is_none()
            && let Some(state) = lbfgs::export(checkpoint, manifest, names, &mut report)?
        {
            states.push((Key::Int(id), state));
        }
        for name in names {
            if let Some(exporter) = &exporter
                && let Some(state) = exporter.state(name, &mut report)?
            {
                report.parameters += 1;
                states.push((Key::Int(id), state));
            }
            ids.push(Value::Int(id));
            id += 1;
        }
        lists.push(group(layout, (manifest, mode), method, ids)?);
    }
    let optimizer = Value::dict([("state", Value::Dict(states)), ("param_groups", Value::List(lists))]);
    if checkpoint.manifest.schedule.is_some() {
        report.left_out.push("the schedule".into());
    }
    let mut weights = Dict::new();
    if options.container != Container::Bare {
        for name in order.iter().flat_map(|(_, names)| names) {
            if let Some(entry) = checkpoint.param(name) {
                report.weights += 1;
                weights.push((Key::Str(name.as_str().into()), Value::Tensor(tensor(entry, None)?)));
            }
        }
    } else if checkpoint.params().next().is_some() {
        report.left_out.push("the parameters' values".into());
    }
    let value = match options.container {
        Container::Bare => optimizer,
        Container::Training => Value::dict([("model", Value::Dict(weights)), ("optimizer", optimizer)]),
        Container::MmEngine => mmengine(checkpoint, Value::Dict(weights), optimizer),
    };
    Ok((value, report))
}

/// Returns the checkpoint with the names that rules give, one after another.
fn renamed<'c>(checkpoint: &'c Checkpoint, rules: &[(String, String)]) -> Result<Cow<'c, Checkpoint>> {
    let mut renamed = Cow::Borrowed(checkpoint);
    for (old, new) in rules {
        let known = renamed.manifest.optimizer.iter().flat_map(|manifest| manifest.params());
        let names: Vec<&str> = known.map(|(name, _)| name).chain(renamed.params()).collect();
        check_rule(old, names.into_iter())?;
        renamed.to_mut().rename(old, new).map_err(|error| Error::Names(error.to_string()))?;
    }
    Ok(renamed)
}

/// Returns what MMEngine's runner looks for when it resumes.
fn mmengine(checkpoint: &Checkpoint, weights: Value<'static>, optimizer: Value<'static>) -> Value<'static> {
    let trainer = checkpoint.manifest.trainer.as_ref();
    let progress =
        |key: &str| Value::Int(trainer.and_then(|trainer| trainer.get(key)?.as_i64()).unwrap_or(0));
    let empty = || Value::Dict(Dict::new());
    Value::dict([
        (
            "meta",
            Value::dict([("epoch", progress("epoch")), ("iter", progress("iter")), ("seed", Value::Int(0))]),
        ),
        ("state_dict", weights),
        (
            "message_hub",
            Value::dict([("log_scalars", empty()), ("runtime_info", empty()), ("resumed_keys", empty())]),
        ),
        ("optimizer", optimizer),
        ("param_schedulers", Value::List(Vec::new())),
    ])
}

/// Returns the parameters of each group of the file, with the checkpoint's group that they are in.
fn order(
    checkpoint: &Checkpoint,
    manifest: &OptimizerManifest,
    groups: usize,
    options: &ExportOptions,
    report: &mut Report,
) -> Result<Vec<(usize, Vec<String>)>> {
    let places: HashMap<&str, usize> = manifest.params().map(|(name, param)| (name, param.group())).collect();
    let origin = checkpoint.manifest.origin.as_ref().and_then(|origin| {
        let lists = origin.get("groups")?.as_array()?.iter();
        let names = |list: &serde_json::Value| {
            let names = list.as_array()?.iter().map(|name| Some(name.as_str()?.to_owned()));
            names.collect::<Option<Vec<String>>>()
        };
        lists.map(names).collect::<Option<Vec<Vec<String>>>>()
    });
    let order: Vec<(usize, Vec<String>)> = match (&options.names, origin) {
        (Some(names), _) => {
            let mut order: Vec<(usize, Vec<String>)> = (0..groups).map(|group| (group, Vec::new())).collect();
            for name in names {
                let place = places.get(name.as_str()).copied().or((groups == 1).then_some(0));
                let list = place.and_then(|place| order.get_mut(place));
                let list = list.ok_or_else(|| {
                    Error::Names(format!("{name:?} is not in the checkpoint, so its group is not known"))
                })?;
                list.1.push(name.clone());
            }
            order
        }
        (None, Some(lists)) => {
            let place =
                |names: &Vec<String>| names.iter().find_map(|name| places.get(name.as_str()).copied());
            let all = lists.into_iter().enumerate();
            all.map(|(i, names)| (place(&names).unwrap_or(i.min(groups.max(1) - 1)), names)).collect()
        }
        (None, None) if options.number => numbered(manifest, groups, report),
        (None, None) => {
            return Err(Error::Names(
                "torch knows parameters by their order in the model, which the checkpoint does not have: give their names \
                 in that order"
                    .into(),
            ));
        }
    };
    let mut seen = BTreeSet::new();
    if let Some(name) = order.iter().flat_map(|(_, names)| names).find(|name| !seen.insert(name.as_str())) {
        return Err(Error::Names(format!("the name {name:?} is given twice")));
    }
    match places.keys().filter(|name| !seen.contains(**name)).min() {
        Some(name) => {
            Err(Error::Names(format!("{name:?} is in the checkpoint, but not among the names in order")))
        }
        None => Ok(order),
    }
}

/// Returns the parameters of each group in the order of their names.
fn numbered(manifest: &OptimizerManifest, groups: usize, report: &mut Report) -> Vec<(usize, Vec<String>)> {
    const TOLD: usize = 8;
    let mut order: Vec<(usize, Vec<String>)> = (0..groups).map(|group| (group, Vec::new())).collect();
    for (name, param) in manifest.params() {
        if let Some((_, names)) = order.get_mut(param.group()) {
            names.push(name.to_owned());
        }
    }
    let number = |name: &str| name.parse::<u64>().ok();
    for (_, names) in &mut order {
        names.sort_by(|a, b| (number(a).is_none(), number(a), a).cmp(&(number(b).is_none(), number(b), b)));
    }
    let all: Vec<&str> = order.iter().flat_map(|(_, names)| names).map(String::as_str).collect();
    if all.iter().any(|name| number(name).is_none()) {
        let told = all.iter().take(TOLD).enumerate().map(|(i, name)| format!("{i} is {name:?}"));
        let rest = if all.len() > TOLD { ", …" } else { "" };
        report.warnings.push(format!(
            "parameters are numbered in the order of their names, which need not be the model's: {}{rest}",
            told.collect::<Vec<_>>().join(", ")
        ));
    }
    order
}
