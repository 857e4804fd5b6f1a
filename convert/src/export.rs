//! From a checkpoint to a source's state.

use crate::import::layout_of;
use crate::layout::{Fixed, Follows, Group, Layout, State, Steps};
use crate::report::Report;
use crate::tensor::{Dtype, Tensor};
use crate::value::{Dict, Key, Value};
use crate::{Error, Result, lbfgs};
use fallline_core::codec::codebook;
use fallline_core::host::Blocks;
use fallline_core::math::{powf, single};
use fallline_core::{Compute, Format, Role, Shape};
use fallline_optim::algorithms::NAdam;
use fallline_optim::checkpoint::{Entry, OptimizerManifest, ParamManifest};
use fallline_optim::hyper::Value as Hyper;
use fallline_optim::{AnyAlgorithm, Checkpoint, Method, Mode, Start};
use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};

/// What goes around the optimizer's state.
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

/// What is said beside a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// The parameters' names in the order of the model. Known for checkpoints that came from torch.
    pub names: Option<Vec<String>>,
    /// What goes around the state.
    pub container: Container,
}

/// The largest count that a tensor of one `f32` can hold and be added 1 to.
const MOST_STEPS: u64 = 1 << 24;

/// Turns a checkpoint into the state of an optimizer of torch's kind, to be written with
/// [`archive::write`](crate::archive::write). `groups` are what the checkpoint's groups are stepped by.
///
/// # Errors
/// What is missing or cannot be taken over, by name.
pub fn to_torch(
    checkpoint: &Checkpoint,
    groups: &[Method],
    options: &ExportOptions,
) -> Result<(Value<'static>, Report)> {
    let missing = || Error::value("the checkpoint", "it holds no optimizer's state");
    let manifest = checkpoint.manifest.optimizer.as_ref().ok_or_else(missing)?;
    let layout = layout_of(manifest.name())?;
    let order = order(checkpoint, manifest, groups.len(), options)?;
    let params: HashMap<&str, &ParamManifest> = manifest.params().collect();
    let mut report = Report::default();
    let mode =
        checkpoint.manifest.mode().map_err(|error| Error::value("the checkpoint", error.to_string()))?;
    let (mut states, mut lists) = (Dict::new(), Vec::new());
    let mut id = 0i64;
    for (place, names) in &order {
        let method = groups.get(*place);
        let method =
            method.ok_or_else(|| Error::value("the checkpoint", format!("there is no group {place}")))?;
        let exporter =
            method.algorithm().map(|algorithm| Exporter { checkpoint, params: &params, layout, algorithm });
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

/// What MMEngine's runner looks for when it resumes.
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

/// The parameters of each group of the file, with the checkpoint's group that they are in.
fn order(
    checkpoint: &Checkpoint,
    manifest: &OptimizerManifest,
    groups: usize,
    options: &ExportOptions,
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

/// A checkpoint's entry as a tensor, of other extents with the same elements.
fn tensor(entry: &Entry, shape: Option<Vec<usize>>) -> Result<Tensor<'static>> {
    let coded = || Error::value("the checkpoint", format!("states of {} are not written yet", entry.format));
    let dtype = Dtype::of(entry.format).ok_or_else(coded)?;
    let shape = shape.unwrap_or_else(|| entry.shape.extents().to_vec());
    Tensor::new(dtype, shape, entry.bytes.clone()).map_err(|problem| Error::value("the checkpoint", problem))
}

struct Exporter<'c> {
    checkpoint: &'c Checkpoint,
    params: &'c HashMap<&'c str, &'c ParamManifest>,
    layout: &'static Layout,
    algorithm: &'c dyn AnyAlgorithm,
}

impl Exporter<'_> {
    /// The state of a parameter; none before its first step.
    fn state(&self, name: &str, report: &mut Report) -> Result<Option<Value<'static>>> {
        let refused = |error: fallline_optim::Error| Error::value(name, error.to_string());
        let (shape, compute, steps) = match (self.params.get(name), self.checkpoint.param(name)) {
            (Some(param), _) => {
                let compute = param.compute().unwrap_or(Compute::F32);
                (param.shape(), compute, self.checkpoint.steps(name).map_err(refused)?)
            }
            (None, Some(value)) if self.layout.eager => (value.shape.clone(), Compute::F32, 0),
            (None, None) if self.layout.eager => {
                return Err(Error::value(
                    name,
                    "its source needs a state of it, and its extents are not known",
                ));
            }
            (None, _) => return Ok(None),
        };
        let program = self.algorithm.program_of(name, &shape);
        let expected = program.map_err(|problem| Error::value(name, problem))?.operands(Role::State);
        if (steps == 0 && !self.layout.eager) || (expected.is_empty() && self.layout.steps == Steps::Nowhere)
        {
            return Ok(None);
        }
        let mut state = Dict::new();
        if self.layout.steps == Steps::Tensor {
            if steps > MOST_STEPS {
                return Err(Error::value(
                    name,
                    format!("it has {steps} steps, and torch counts in f32, to {MOST_STEPS}"),
                ));
            }
            state.push(("step".into(), Value::Tensor(scalar(steps as f32, &[]))));
        } else if self.layout.steps == Steps::Whole {
            state.push(("step".into(), Value::Int(steps.min(i64::MAX as u64) as i64)));
        }
        let decoded = Cell::new(0);
        let entry = |ours: &str| {
            let spec = self.algorithm.state(ours);
            let shape = spec.shape(&shape);
            if steps == 0 {
                let initial = match spec.start {
                    Start::Value(initial) => initial,
                    Start::Param => 0.0,
                };
                let start = vec![initial; shape.elements()];
                return Ok(rounded(shape, &start, compute.format()));
            }
            let found = match self.coded(name, ours)? {
                Some(coded) => {
                    decoded.set(decoded.get() + 1);
                    let mut numbers = vec![0.0f32; shape.elements()];
                    coded.blocks().decode(numbers.as_mut_slice().into());
                    Some(rounded(
                        shape.clone(),
                        &numbers.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(),
                        compute.format(),
                    ))
                }
                None => self.checkpoint.state(name, ours).cloned(),
            };
            let found = found.ok_or_else(|| Error::value(format!("state/{name}/{ours}"), "it is missing"))?;
            match found.shape == shape {
                true => Ok(found),
                false => Err(Error::value(
                    format!("state/{name}/{ours}"),
                    format!("it has shape {}, expected {shape}", found.shape),
                )),
            }
        };
        let mut tensors = Dict::new();
        for row in self.layout.states {
            if row.ours().iter().any(|ours| !expected.contains(ours)) {
                continue;
            }
            if let Some(coded) = self.codes(name, row.ours())? {
                let mut extents = shape.extents().to_vec();
                if let State::Stacked(_, ours) = row {
                    extents.insert(0, ours.len());
                }
                tensors.extend(tensors_of_codes(row, extents, &coded)?);
                report.states += row.ours().len();
                continue;
            }
            let value = match row {
                State::Follows(_, follows) => match self.follows(*follows, steps, &entry)? {
                    Some(value) => value,
                    None => continue,
                },
                State::Stacked(_, ours) => {
                    let entries = ours.iter().map(|ours| entry(ours)).collect::<Result<Vec<_>>>()?;
                    let mut stacked = entries[0].clone();
                    entries[1..].iter().for_each(|other| stacked.bytes.extend(&other.bytes));
                    let extents = [&[ours.len()], stacked.shape.extents()].concat();
                    Value::Tensor(tensor(&stacked, Some(extents))?)
                }
                State::Same(_, ours) => Value::Tensor(tensor(&entry(ours)?, None)?),
                State::Rows(_, ours) | State::Columns(_, ours) => {
                    let found = entry(ours)?;
                    let mut extents = found.shape.extents().to_vec();
                    let place =
                        if matches!(row, State::Rows(..)) { extents.len() } else { extents.len() - 1 };
                    extents.insert(place, 1);
                    Value::Tensor(tensor(&found, Some(extents))?)
                }
            };
            report.states += row.ours().len();
            tensors.push((row.theirs().into(), value));
        }
        report.decoded += decoded.get();
        match self.layout.nested {
            Some(key) => state.push((key.into(), Value::Dict(tensors))),
            None => state.extend(tensors),
        }
        Ok(Some(Value::Dict(state)))
    }

    /// A state in a block format.
    fn coded(&self, name: &str, ours: &str) -> Result<Option<Coded<'_>>> {
        let Some(param) = self.params.get(name) else { return Ok(None) };
        let way = || format!("state/{name}/{ours}");
        let unknown = || Error::value(way(), "it is in an unknown format");
        let format = param.format(ours, param.compute().unwrap_or(Compute::F32)).ok_or_else(unknown)?;
        if format.block().is_none() {
            return Ok(None);
        }
        let found = self.checkpoint.codes(name, ours).zip(self.checkpoint.scales(name, ours));
        let ((_, codes), scales) = found.ok_or_else(|| Error::value(way(), "its codes are missing"))?;
        let len = self.algorithm.state(ours).shape(&param.shape()).elements();
        if codes.len() != format.size(len) || scales.len() != format.scales(len) {
            return Err(Error::value(way(), "it has more or fewer codes or scales than elements"));
        }
        Ok(Some(Coded { format, len, codes, scales }))
    }

    /// The states of a row that its source keeps as codes, which are given back as they are.
    fn codes(&self, name: &str, ours: &[&str]) -> Result<Option<Vec<Coded<'_>>>> {
        if self.layout.nested.is_none() || ours.is_empty() {
            return Ok(None);
        }
        let coded = ours.iter().map(|ours| self.coded(name, ours)).collect::<Result<Option<Vec<_>>>>()?;
        let theirs = |coded: &Coded<'_>| matches!(coded.format, Format::Q8(_) | Format::Q8Grid(_));
        Ok(coded.filter(|coded| coded.iter().all(theirs)))
    }

    fn number(&self, name: &str) -> f64 {
        self.algorithm.get(name).and_then(|value| value.as_f64()).unwrap_or(0.0)
    }

    /// A state that follows from other things; none where the source has none with these hyperparameters.
    fn follows(
        &self,
        follows: Follows,
        steps: u64,
        entry: &impl Fn(&str) -> Result<Entry>,
    ) -> Result<Option<Value<'static>>> {
        Ok(Some(match follows {
            Follows::MuProduct => {
                let product =
                    self.algorithm.hyper().downcast_ref::<NAdam>().map_or(0.0, |nadam| nadam.product(steps));
                Value::Tensor(scalar(product as f32, &[]))
            }
            Follows::Eta => {
                let (lr, lambd) = (self.number("lr"), self.number("lambd"));
                let eta = lr / powf(1.0 + lambd * lr * steps as f64, self.number("alpha"));
                Value::Tensor(scalar(single(eta) as f32, &[]))
            }
            Follows::Mu => {
                let mu = 1.0 / (steps as f64 - self.number("t0")).max(1.0);
                Value::Tensor(scalar(single(mu) as f32, &[]))
            }
            Follows::Number => Value::Int(0),
            Follows::Scratch if self.number("max_unorm") == 0.0 => return Ok(None),
            Follows::Scratch => Value::Tensor(scalar(0.0, &[1])),
            Follows::Difference(a, b) => {
                let (a, b) = (entry(a)?, entry(b)?);
                let pairs = a.values::<f64>().into_iter().zip(b.values::<f64>());
                let numbers: Vec<f64> = pairs.map(|(a, b)| a - b).collect();
                let whole = rounded(a.shape.clone(), &numbers, a.format);
                Value::Tensor(tensor(&whole, None)?)
            }
        }))
    }
}

/// A group, complete: torch replaces an optimizer's groups by those that it loads.
fn group(
    layout: &Layout,
    (manifest, mode): (&OptimizerManifest, Mode),
    method: &Method,
    ids: Vec<Value<'static>>,
) -> Result<Value<'static>> {
    let mut group = Dict::new();
    for key in layout.groups {
        let value = match *key {
            Group::Same(name) => plain(&hyper(method, name)),
            Group::First(_, name) => Value::Tuple(vec![plain(&hyper(method, name)), Value::Int(0)]),
            Group::Shared(name, is_whole) => {
                let shared = manifest.shared(name);
                let mut x = shared.map_err(|error| Error::value("the checkpoint", error.to_string()))?;
                // Before the first step d is what it starts from.
                if name == "d" && x == 0.0 {
                    x = method.get("d0").and_then(|value| value.as_f64()).unwrap_or(0.0);
                }
                if is_whole { Value::Int(x as i64) } else { Value::Float(x) }
            }
            Group::Training(_) => Value::Bool(mode == Mode::Training),
            Group::WarmedUp(_) => {
                let number = |name| hyper(method, name).as_f64().unwrap_or(0.0);
                let (lr, k, rising) = (number("lr"), number("k"), number("warmup_steps"));
                let risen = if k <= rising { k / rising } else { 1.0 };
                Value::Float(if k == 0.0 { 0.0 } else { lr * risen })
            }
            Group::Fixed(_, fixed) => match fixed {
                Fixed::None => Value::None,
                Fixed::True => Value::Bool(true),
                Fixed::Float(x) => Value::Float(x),
                Fixed::Pair(a, b) => Value::Tuple(vec![Value::Float(a), Value::Float(b)]),
            },
        };
        group.push((key.theirs().into(), value));
    }
    group.push(("params".into(), Value::List(ids)));
    Ok(Value::Dict(group))
}

/// A hyperparameter, or the default of an argument that changes no number.
fn hyper(method: &Method, name: &str) -> Hyper {
    let row = || method.table().iter().find(|hyper| hyper.name == name).map(|hyper| (hyper.default)());
    method.get(name).or_else(row).unwrap_or(Hyper::None)
}

/// A state's codes and scales.
struct Coded<'c> {
    format: Format,
    len: usize,
    codes: &'c [u8],
    scales: Vec<f32>,
}

impl Coded<'_> {
    fn blocks(&self) -> Blocks<'_> {
        Blocks { format: self.format, len: self.len, codes: self.codes, scales: &self.scales }
    }
}

/// Codes as bitsandbytes has them: `state1`, what they mean in `qmap1`, the scales of blocks in `absmax1`.
fn tensors_of_codes(
    row: &State,
    extents: Vec<usize>,
    coded: &[Coded<'_>],
) -> Result<Vec<(Key, Value<'static>)>> {
    let theirs = row.theirs();
    let number = theirs.trim_start_matches("state");
    let whole = |problem| Error::value("the checkpoint", problem);
    let bytes = |numbers: &mut dyn Iterator<Item = &f32>| -> Vec<u8> {
        numbers.flat_map(|x| x.to_le_bytes()).collect()
    };
    let blocks = coded[0].scales.len();
    let mut shape = if coded.len() > 1 { vec![coded.len()] } else { Vec::new() };
    shape.push(blocks);
    let codes: Vec<u8> = coded.iter().flat_map(|coded| coded.codes).copied().collect();
    let table = bytes(&mut codebook::numbers(coded[0].format).iter());
    let scales = bytes(&mut coded.iter().flat_map(|coded| &coded.scales));
    let tensors = [
        (theirs.to_owned(), Tensor::new(Dtype::UInt8, extents, codes)),
        (format!("qmap{number}"), Tensor::new(Dtype::Float32, vec![256], table)),
        (format!("absmax{number}"), Tensor::new(Dtype::Float32, shape, scales)),
    ];
    let keyed = tensors
        .into_iter()
        .map(|(key, tensor)| Ok((Key::Str(key.into()), Value::Tensor(tensor.map_err(whole)?))));
    keyed.collect()
}

fn plain(value: &Hyper) -> Value<'static> {
    match value {
        Hyper::Bool(x) => Value::Bool(*x),
        Hyper::Int(x) => Value::Int(*x),
        Hyper::Float(x) => Value::Float(*x),
        Hyper::Text(text) => Value::str(text),
        Hyper::List(items) => Value::Tuple(items.iter().map(plain).collect()),
        _ => Value::None,
    }
}

/// Numbers in `f64`, or rounded to `f32`.
fn rounded(shape: Shape, numbers: &[f64], format: Format) -> Entry {
    match format {
        Format::F64 => Entry::new(shape, numbers.into()),
        _ => {
            let single: Vec<f32> = numbers.iter().map(|&x| x as f32).collect();
            Entry::new(shape, single.as_slice().into())
        }
    }
}

/// A tensor of one number.
fn scalar(x: f32, shape: &[usize]) -> Tensor<'static> {
    match Tensor::new(Dtype::Float32, shape.to_vec(), x.to_le_bytes().to_vec()) {
        Ok(tensor) => tensor,
        Err(problem) => unreachable!("four bytes are one element: {problem}"),
    }
}
