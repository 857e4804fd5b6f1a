//! Groups: hyperparameters, and shared scalars.

use super::param::ImportOptions;
use crate::layout::{Fixed, Group, Layout};
use crate::report::Report;
use crate::value::{Key, Value};
use crate::{Error, Result};
use fallline_optim::hyper::Value as Hyper;
use fallline_optim::{Method, Mode};

/// Keys that schedulers and training loops add to groups. They are no hyperparameters: what they say is known
/// elsewhere.
const ADDED: [&str; 12] = [
    "params",
    "param_names",
    "name",
    "step",
    "max_lr",
    "min_lr",
    "max_momentum",
    "min_momentum",
    "base_momentum",
    "base_lr",
    "lr_mult",
    "decay_mult",
];

pub(super) struct Groups<'o> {
    pub layout: &'static Layout,
    pub base: &'o Method,
    pub options: &'o ImportOptions,
    pub report: &'o mut Report,
}

impl Groups<'_> {
    /// Returns what a group's parameters are stepped by, and the numbers of its parameters.
    pub fn group(&mut self, at: &str, group: &Value<'_>) -> Result<(Method, Vec<Key>)> {
        let entries = group.as_dict(at)?;
        let mut method = self.base.clone();
        let mut values: Vec<(&str, Hyper)> = Vec::new();
        for (key, value) in entries {
            let key = key.to_string();
            let way = format!("{at}.{key}");
            let known = self.layout.groups.iter().find(|known| known.theirs() == key);
            match known {
                Some(Group::Same(name)) => match hyper(value) {
                    Ok(value) => values.push((name, value)),
                    Err(_) if self.options.lenient => self.report.left_out.push(way),
                    Err(problem) => return Err(Error::value(way, problem)),
                },
                Some(Group::First(_, name)) => {
                    let first = match value {
                        Value::Tuple(pair) | Value::List(pair) if !pair.is_empty() => hyper(&pair[0]),
                        other => Err(format!("expected a pair, got {}", other.kind())),
                    };
                    match first {
                        Ok(value) => values.push((name, value)),
                        Err(_) if self.options.lenient => self.report.left_out.push(way),
                        Err(problem) => return Err(Error::value(way, problem)),
                    }
                }
                Some(Group::Shared(..) | Group::Training(_) | Group::WarmedUp(_)) => {}
                Some(Group::Fixed(_, fixed)) if is(value, *fixed) => {}
                Some(Group::Fixed(..)) if self.options.lenient => self.report.left_out.push(way),
                Some(Group::Fixed(..)) => {
                    let problem =
                        format!("it has a value that {} never has: it is of another class", self.base.name());
                    return Err(Error::value(way, problem));
                }
                // lion-pytorch keeps the first lr where schedulers leave it.
                None if key == "initial_lr" && self.base.get("initial_lr").is_some() => {
                    values.push(("initial_lr", hyper(value).map_err(|p| Error::value(&way, p))?));
                }
                None if key.starts_with("initial_") || ADDED.contains(&key.as_str()) => {}
                None if self.options.lenient => self.report.left_out.push(way),
                None => {
                    let problem = format!("it is no hyperparameter of {}", self.base.name());
                    return Err(Error::value(way, problem));
                }
            }
        }
        match method.set(&values) {
            Err(_) if self.options.lenient => {
                // One by one: those that are refused stay what they are without the file.
                for (name, value) in values {
                    if let Err(error) = method.set(&[(name, value)]) {
                        self.report.left_out.push(format!("{at}.{name}"));
                        self.report.warnings.push(format!("{at}: {error}"));
                    }
                }
            }
            set => set.map_err(|error| Error::value(at, error.to_string()))?,
        }
        let ids = group.get("params").unwrap_or(&Value::None);
        let key = |id: &Value<'_>| match id {
            Value::Int(id) => Ok(Key::Int(*id)),
            Value::Str(name) => Ok(Key::Str(name.clone())),
            other => {
                Err(Error::value(format!("{at}.params"), format!("expected numbers, got {}", other.kind())))
            }
        };
        let ids = ids.as_items(&format!("{at}.params"))?.iter().map(key).collect::<Result<Vec<Key>>>()?;
        Ok((method, ids))
    }

    /// Returns which weights the parameters hold.
    pub fn mode(&self, first: &Value<'_>) -> Mode {
        let key = self.layout.groups.iter().find_map(|group| match group {
            Group::Training(key) => Some(*key),
            _ => None,
        });
        match key.and_then(|key| first.get(key)) {
            Some(Value::Bool(false)) => Mode::Evaluation,
            _ => Mode::Training,
        }
    }

    /// Reads a number that is remembered for all parameters. Those that follow from others in the next step start
    /// anew.
    pub fn shared(&mut self, at: &str, first: &Value<'_>, name: &str) -> Result<f64> {
        let kept =
            self.layout.groups.iter().any(|group| matches!(group, Group::Shared(key, _) if *key == name));
        match (kept, first.get(name)) {
            (false, _) => Ok(0.0),
            (true, Some(value)) => match value.as_f64() {
                Some(number) => Ok(number),
                None if self.options.lenient => {
                    self.report.left_out.push(format!("{at}.{name}"));
                    Ok(0.0)
                }
                None => {
                    let problem = format!("expected a number, got {}", value.kind());
                    Err(Error::value(format!("{at}.{name}"), problem))
                }
            },
            // Before the first step dadaptation has none of some.
            (true, None) => Ok(0.0),
        }
    }
}

/// Reads a hyperparameter.
fn hyper(value: &Value<'_>) -> Result<Hyper, String> {
    Ok(match value {
        Value::None => Hyper::None,
        Value::Bool(x) => Hyper::Bool(*x),
        Value::Int(x) => Hyper::Int(*x),
        Value::Float(x) => Hyper::Float(*x),
        Value::Str(text) => Hyper::Text(text.to_string()),
        Value::List(items) | Value::Tuple(items) => {
            Hyper::List(items.iter().map(hyper).collect::<Result<_, String>>()?)
        }
        // `lr` may be a tensor.
        Value::Tensor(tensor) if tensor.elements() == 1 => Hyper::Float(tensor.item().unwrap_or(f64::NAN)),
        // numpy's arrays are tensors.
        Value::Tensor(tensor) if tensor.shape().len() == 1 && tensor.elements() <= 16 => {
            let numbers = tensor.to_numbers().map_err(|error| error.to_string())?;
            Hyper::List(numbers.into_iter().map(Hyper::Float).collect())
        }
        other => return Err(format!("expected a hyperparameter, got {}", other.kind())),
    })
}

fn is(value: &Value<'_>, fixed: Fixed) -> bool {
    match fixed {
        Fixed::None => *value == Value::None,
        Fixed::True => *value == Value::Bool(true),
        Fixed::Float(x) => value.as_f64() == Some(x),
        Fixed::Pair(a, b) => match value {
            Value::Tuple(items) | Value::List(items) => {
                items.iter().map(Value::as_f64).eq([Some(a), Some(b)])
            }
            _ => false,
        },
    }
}
