//! A parameter's states.

use super::param::ImportOptions;
use crate::layout::{Layout, State, Steps};
use crate::report::Report;
use crate::tensor::{Dtype, Tensor};
use crate::value::{Dict, Value, count};
use crate::{Error, Result};
use fallline_core::codec::codebook;
use fallline_core::{Compute, Format, Role, Shape, fallible};
use fallline_optim::checkpoint::Entry;
use fallline_optim::{AnyAlgorithm, Checkpoint};
use std::borrow::Cow;

/// bitsandbytes' codes: elements that share a scale.
const BLOCK: usize = 256;

pub(super) struct Reader<'o> {
    pub layout: &'static Layout,
    pub algorithm: &'o dyn AnyAlgorithm,
    pub options: &'o ImportOptions,
    /// The path to the parameter's state.
    pub at: &'o str,
    pub name: &'o str,
    /// What the group says of how many steps were taken.
    pub step: Option<&'o Value<'o>>,
    /// The states that are imported as codes.
    pub coded: Vec<(&'static str, Format)>,
}

/// A state as a checkpoint has it.
enum Taken {
    Numbers(Entry),
    Codes(Format, Vec<u8>, Vec<f32>),
}

impl Reader<'_> {
    /// Takes a parameter's states over: its shape, compute type, and step count, if it was stepped. Nothing for one
    /// without a state whose shape is not known either.
    pub fn read(
        &mut self,
        found: Option<&Value<'_>>,
        known: Option<&[usize]>,
        checkpoint: &mut Checkpoint,
        report: &mut Report,
    ) -> Result<Option<(Shape, Compute, Option<u64>)>> {
        let empty = Dict::new();
        let given = found.map_or(Ok(&empty), |found| found.as_dict(self.at))?;
        let states = self.flat(given)?;
        let none = states.iter().all(|(key, value)| *key == "step" || **value == Value::None);
        let Some(shape) = known.map(<[usize]>::to_vec).or_else(|| self.shape(&states)) else {
            return match none {
                true => Ok(None),
                false => {
                    Err(Error::value(self.at, "its shape cannot be derived from it: give it with the names"))
                }
            };
        };
        let shape = Shape::from(&shape[..]);
        let compute = self.compute(&states);
        let own = states.iter().find(|(key, value)| *key == "step" && **value != Value::None);
        let step = own.map(|(_, value)| *value).or(self.step);
        let steps = match self.layout.steps {
            Steps::Tensor | Steps::Whole if !none => count(&format!("{}.step", self.at), step)?,
            _ => 1,
        };
        // States of before the first step are what they start from.
        if none || steps == 0 {
            return Ok(Some((shape, compute, None)));
        }
        let program = self.algorithm.program_of("", &shape);
        let expected = program.map_err(|problem| Error::value(self.at, problem))?.operands(Role::State);
        // Nothing is taken over before all of it is known to fit.
        let mut told = Report::default();
        let mut kept: Vec<(&'static str, Taken)> = Vec::new();
        for (key, value) in &states {
            let way = format!("{}.{key}", self.at);
            let row = self.layout.states.iter().find(|row| row.theirs() == *key);
            let wanted = row.is_some_and(|row| row.ours().iter().all(|ours| expected.contains(ours)));
            match row {
                Some(State::Follows(..)) => {}
                Some(row) if wanted => {
                    if **value == Value::None {
                        continue;
                    }
                    let Value::Tensor(tensor) = value else {
                        return Err(Error::value(way, format!("expected a tensor, got {}", value.kind())));
                    };
                    kept.extend(self.entries(&way, row, tensor, &states, (&shape, compute), &mut told)?);
                }
                _ if *key == "step" || self.belongs_to_codes(key) => {}
                _ if **value == Value::None => {}
                _ if self.options.lenient => told.left_out.push(way),
                _ => {
                    let problem =
                        format!("{} with these hyperparameters has no such state", self.algorithm.name());
                    return Err(Error::value(way, problem));
                }
            }
        }
        if let Some(missing) = expected.iter().find(|state| kept.iter().all(|(ours, _)| ours != *state)) {
            let row = self.layout.states.iter().find(|row| row.ours().contains(missing));
            let theirs = row.map_or("?", State::theirs);
            let problem = format!("it has no {theirs}, which is {}'s state {missing}", self.algorithm.name());
            return Err(Error::value(self.at, problem));
        }
        told.states = kept.len();
        told.parameters = 1;
        report.add(told);
        for (ours, entry) in kept {
            match entry {
                Taken::Numbers(entry) => checkpoint.insert_state_entry(self.name, ours, entry),
                Taken::Codes(format, codes, scales) => {
                    let shape = self.algorithm.state(ours).shape(&shape);
                    checkpoint.insert_codes(self.name, ours, (format, &shape), codes, &scales);
                    self.coded.push((ours, format));
                }
            }
        }
        Ok(Some((shape, compute, Some(steps))))
    }

    /// Returns the states, those of the nested dict among them.
    fn flat<'s, 'a>(&self, given: &'s Dict<'a>) -> Result<Vec<(&'s str, &'s Value<'a>)>> {
        let mut states = Vec::new();
        for (key, value) in given {
            let crate::Key::Str(key) = key else {
                return Err(Error::value(self.at, format!("the key {key} is not a name")));
            };
            match value {
                Value::Dict(inner) if self.layout.nested == Some(&**key) => {
                    for (key, value) in inner {
                        let crate::Key::Str(key) = key else { continue };
                        states.push((&**key, value));
                    }
                }
                _ => states.push((&**key, value)),
            }
        }
        Ok(states)
    }

    /// Returns the compute type: that of the widest state. What a source computes anew is of no account.
    fn compute(&self, states: &[(&str, &Value<'_>)]) -> Compute {
        let kept =
            |key: &str| self.layout.states.iter().any(|row| row.theirs() == key && !row.ours().is_empty());
        let wide = |value: &Value<'_>| matches!(value, Value::Tensor(t) if t.dtype() == Dtype::Float64);
        match states.iter().any(|(key, value)| kept(key) && wide(value)) {
            true => Compute::F64,
            false => Compute::F32,
        }
    }

    /// Returns the parameter's shape, as its states give it.
    fn shape(&self, states: &[(&str, &Value<'_>)]) -> Option<Vec<usize>> {
        let dims = |theirs: &str| {
            let (_, value) = states.iter().find(|(key, _)| *key == theirs)?;
            match value {
                Value::Tensor(tensor) => Some(tensor.shape().to_vec()),
                _ => None,
            }
        };
        let (mut rows, mut columns) = (None, None);
        for row in self.layout.states {
            match *row {
                State::Same(theirs, "row") => rows = dims(theirs),
                State::Same(theirs, "column") => columns = dims(theirs),
                State::Rows(theirs, _) => {
                    rows = dims(theirs).map(|shape| shape[..shape.len().max(1) - 1].to_vec())
                }
                State::Columns(theirs, _) => columns = dims(theirs),
                State::Stacked(theirs, _) => {
                    if let Some([_, rest @ ..]) = dims(theirs).as_deref() {
                        return Some(rest.to_vec());
                    }
                }
                State::Same(theirs, _) => {
                    if let Some(shape) = dims(theirs) {
                        return Some(shape);
                    }
                }
                State::Follows(..) => {}
            }
        }
        let (mut shape, columns) = (rows?, columns?);
        shape.push(*columns.last()?);
        Some(shape)
    }

    /// Returns whether a key belongs to 8-bit codes: it is read with them.
    fn belongs_to_codes(&self, key: &str) -> bool {
        self.layout.nested.is_some() && (key.starts_with("qmap") || key.starts_with("absmax"))
    }

    /// Returns a tensor of the source's as our states.
    fn entries(
        &self,
        way: &str,
        row: &State,
        tensor: &Tensor<'_>,
        states: &[(&str, &Value<'_>)],
        (shape, compute): (&Shape, Compute),
        report: &mut Report,
    ) -> Result<Vec<(&'static str, Taken)>> {
        let ours = row.ours();
        let own = self.algorithm.state(ours[0]).shape(shape);
        let mut expected = own.dims().to_vec();
        match row {
            State::Rows(..) => expected.push(1),
            State::Columns(..) => expected.insert(expected.len().saturating_sub(1), 1),
            State::Stacked(..) => expected.insert(0, ours.len()),
            _ => {}
        }
        if tensor.shape() != expected {
            let problem = format!(
                "it has shape {:?}, expected {expected:?} for the parameter {:?} of shape {:?}",
                tensor.shape(),
                self.name,
                shape.dims()
            );
            return Err(Error::value(way, problem));
        }
        let numbers = if tensor.dtype() == Dtype::UInt8 && self.layout.nested.is_some() {
            let codes = Codes::read(way, row.theirs(), tensor, states)?;
            let format = |&ours: &&'static str| {
                let format = self.algorithm.state_format(ours, shape.elements())?;
                codes.are(format).then_some((ours, format))
            };
            // Where the algorithm keeps these very codes they stay what they are.
            if let Some(formats) = ours.iter().map(format).collect::<Option<Vec<_>>>() {
                let parts = codes.parts().zip(formats);
                let taken = |((codes, scales), (ours, format)): ((&[u8], &[f32]), _)| {
                    (ours, Taken::Codes(format, codes.to_vec(), scales.to_vec()))
                };
                return Ok(parts.map(taken).collect());
            }
            report.decoded += 1;
            codes.numbers()?
        } else {
            let format = tensor.float(way)?;
            if ours.len() == 1 && format == compute.format() {
                let entry = Entry { format, shape: own, bytes: tensor.to_bytes()? };
                return Ok(vec![(ours[0], Taken::Numbers(entry))]);
            }
            if format != compute.format() {
                *report.widened.entry(format!("{format} to {}", compute.format())).or_default() += 1;
            }
            tensor.to_numbers()?
        };
        let elements = own.elements();
        let part = |(i, &name): (usize, &&'static str)| {
            let numbers = &numbers[i * elements..][..elements];
            let entry = match compute {
                Compute::F64 => Entry::from_slice(own.clone(), numbers.into()),
                Compute::F32 => {
                    let single = fallible::collected(numbers.iter().map(|&x| x as f32), name)?;
                    Entry::from_slice(own.clone(), single.as_slice().into())
                }
            };
            Ok((name, Taken::Numbers(entry.map_err(Error::memory)?)))
        };
        ours.iter().enumerate().map(part).collect()
    }
}

/// bitsandbytes' codes: an index into a table for each element, and a scale for each block of a part (the parts of a
/// stacked state).
struct Codes<'t> {
    bytes: Cow<'t, [u8]>,
    table: Vec<f64>,
    scales: Vec<f32>,
    /// Elements of a part.
    each: usize,
}

impl<'t> Codes<'t> {
    /// Returns the codes of a state, with their scales and table.
    fn read(
        way: &str,
        theirs: &str,
        codes: &'t Tensor<'_>,
        states: &[(&str, &Value<'_>)],
    ) -> Result<Codes<'t>> {
        let number = theirs.trim_start_matches("state");
        let beside = |what: &str| {
            let key = format!("{what}{number}");
            let found = states.iter().find(|(known, _)| *known == key);
            match found {
                Some((_, Value::Tensor(tensor))) => Ok((tensor.shape().to_vec(), tensor.to_numbers()?)),
                _ => Err(Error::value(way, format!("it is codes, but there is no {key}"))),
            }
        };
        let (_, table) = beside("qmap")?;
        let (shape, scales) = beside("absmax")?;
        let parts = if shape.len() == 2 { shape[0] } else { 1 };
        let each = codes.elements().checked_div(parts).unwrap_or(0);
        let blocks = each.div_ceil(BLOCK);
        if table.len() != 256 || parts * each != codes.elements() || scales.len() != parts * blocks {
            let problem = format!("its codes do not go with {} scales for blocks of {BLOCK}", scales.len());
            return Err(Error::value(way, problem));
        }
        let scales = scales.into_iter().map(|scale| scale as f32).collect();
        Ok(Codes { bytes: codes.laid_out()?, table, scales, each })
    }

    /// Returns whether they mean what the codes of a format do, except for the last digits. The table of
    /// bitsandbytes is made by torch's `linspace`, which fuses multiply and add on some machines.
    fn are(&self, format: Format) -> bool {
        let near =
            |ours: f64, theirs: f64| (ours - theirs).abs() <= 2.0 * f64::from(f32::EPSILON) * theirs.abs();
        let mut pairs = codebook::numbers(format).iter().zip(&self.table);
        format.block() == Some(BLOCK) && pairs.all(|(ours, theirs)| near(f64::from(*ours), *theirs))
    }

    /// Returns the codes and scales of each part.
    fn parts(&self) -> impl Iterator<Item = (&[u8], &[f32])> {
        let blocks = self.each.div_ceil(BLOCK).max(1);
        self.bytes.chunks(self.each.max(1)).zip(self.scales.chunks(blocks))
    }

    /// Returns what they mean: a table's value times the scale of a block.
    fn numbers(&self) -> Result<Vec<f64>> {
        let blocks = self.each.div_ceil(BLOCK);
        let value = |(i, &code): (usize, &u8)| {
            let scale = self.scales[i / self.each * blocks + i % self.each / BLOCK];
            self.table[usize::from(code)] * f64::from(scale)
        };
        Ok(fallible::collected(self.bytes.iter().enumerate().map(value), "the numbers of codes")?)
    }
}
