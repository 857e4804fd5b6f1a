//! The state of a parameter, as its source keeps it.

use super::tensor::{rounded, scalar, tensor};
use crate::layout::{Follows, Layout, State, Steps};
use crate::report::Report;
use crate::tensor::{Dtype, Tensor};
use crate::value::{Dict, Key, Value};
use crate::{Error, Result};
use fallline_core::codec::codebook;
use fallline_core::host::Blocks;
use fallline_core::math::{powf, single};
use fallline_core::{Compute, Format, Role, fallible};
use fallline_optim::algorithms::NAdam;
use fallline_optim::checkpoint::{Entry, ParamManifest};
use fallline_optim::{AnyAlgorithm, Checkpoint, Start};
use std::cell::Cell;
use std::collections::HashMap;

/// The largest count that a tensor of one `f32` can hold and be added 1 to.
const MOST_STEPS: u64 = 1 << 24;

/// Makes the states of parameters that one algorithm steps.
pub(super) struct Exporter<'c> {
    checkpoint: &'c Checkpoint,
    params: &'c HashMap<&'c str, &'c ParamManifest>,
    layout: &'static Layout,
    algorithm: &'c dyn AnyAlgorithm,
    /// Bytes that states may still have of which the checkpoint has but the shape.
    unstored: &'c Cell<usize>,
}

impl<'c> Exporter<'c> {
    /// Makes one of a checkpoint, for an algorithm and the layout of its source.
    pub(super) fn new(
        (checkpoint, params): (&'c Checkpoint, &'c HashMap<&'c str, &'c ParamManifest>),
        layout: &'static Layout,
        algorithm: &'c dyn AnyAlgorithm,
        unstored: &'c Cell<usize>,
    ) -> Self {
        Exporter { checkpoint, params, layout, algorithm, unstored }
    }

    /// Returns the state of a parameter; none before its first step.
    pub(super) fn state(&self, name: &str, report: &mut Report) -> Result<Option<Value<'static>>> {
        let refused = |error: fallline_optim::Error| Error::value(name, error.to_string());
        let (shape, compute, steps) = match (self.params.get(name), self.checkpoint.param(name)) {
            (Some(param), _) => {
                let compute = param.compute().unwrap_or(Compute::F32);
                (param.shape(), compute, self.checkpoint.steps(name).map_err(refused)?)
            }
            (None, Some(value)) if self.layout.eager => (value.shape.clone(), Compute::F32, 0),
            (None, None) if self.layout.eager => {
                return Err(Error::value(name, "its source needs a state of it, and its shape is not known"));
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
                let bytes = compute.format().bytes().saturating_mul(shape.elements());
                let left = self.unstored.get().checked_sub(bytes);
                let problem = "states that have not begun would have far more bytes than the checkpoint";
                self.unstored.set(left.ok_or_else(|| Error::value(name, problem))?);
                let start = fallible::filled(initial, shape.elements(), ours)?;
                return rounded(shape, &start, compute.format());
            }
            let found = match self.coded(name, ours)? {
                Some(coded) => {
                    decoded.set(decoded.get() + 1);
                    let mut numbers = fallible::zeroed::<f64>(shape.elements(), ours)?;
                    coded.blocks().decode(numbers.as_mut_slice().into());
                    Some(rounded(shape.clone(), &numbers, compute.format())?)
                }
                None => {
                    let found = self.checkpoint.state(name, ours);
                    found.map(Entry::try_clone).transpose().map_err(Error::memory)?
                }
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
                let mut dims = shape.dims().to_vec();
                if let State::Stacked(_, ours) = row {
                    dims.insert(0, ours.len());
                }
                tensors.extend(tensors_of_codes(row, dims, &coded)?);
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
                    let mut stacked = entries[0].try_clone().map_err(Error::memory)?;
                    fallible::reserve(
                        &mut stacked.bytes,
                        (ours.len() - 1) * entries[0].bytes.len(),
                        ours[0],
                    )?;
                    entries[1..].iter().for_each(|other| stacked.bytes.extend(&other.bytes));
                    let dims = [&[ours.len()], stacked.shape.dims()].concat();
                    Value::Tensor(tensor(&stacked, Some(dims))?)
                }
                State::Same(_, ours) => Value::Tensor(tensor(&entry(ours)?, None)?),
                State::Rows(_, ours) | State::Columns(_, ours) => {
                    let found = entry(ours)?;
                    let mut dims = found.shape.dims().to_vec();
                    let place = if matches!(row, State::Rows(..)) { dims.len() } else { dims.len() - 1 };
                    dims.insert(place, 1);
                    Value::Tensor(tensor(&found, Some(dims))?)
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

    /// Returns a state in a block format.
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

    /// Returns the states of a row that its source keeps as codes, which are given back as they are.
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

    /// Returns a state that follows from other things; none where the source has none with these hyperparameters.
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
                let numbers = fallible::collected(pairs.map(|(a, b)| a - b), "a difference of states")?;
                let whole = rounded(a.shape.clone(), &numbers, a.format)?;
                Value::Tensor(tensor(&whole, None)?)
            }
        }))
    }
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

/// Returns codes as bitsandbytes has them: `state1`, what they mean in `qmap1`, the scales of blocks in `absmax1`.
fn tensors_of_codes(
    row: &State,
    dims: Vec<usize>,
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
    let mut codes = fallible::with_room(coded.iter().map(|coded| coded.codes.len()).sum(), theirs)?;
    coded.iter().for_each(|coded| codes.extend(coded.codes));
    let table = bytes(&mut codebook::numbers(coded[0].format).iter());
    let scales = bytes(&mut coded.iter().flat_map(|coded| &coded.scales));
    let tensors = [
        (theirs.to_owned(), Tensor::new(Dtype::UInt8, dims, codes)),
        (format!("qmap{number}"), Tensor::new(Dtype::Float32, vec![256], table)),
        (format!("absmax{number}"), Tensor::new(Dtype::Float32, shape, scales)),
    ];
    let keyed = tensors
        .into_iter()
        .map(|(key, tensor)| Ok((Key::Str(key.into()), Value::Tensor(tensor.map_err(whole)?))));
    keyed.collect()
}
