//! A group of a source's optimizer: its hyperparameters, and what is kept for all parameters.

use crate::layout::{Fixed, Group, Layout};
use crate::value::{Dict, Value};
use crate::{Error, Result};
use fallline_optim::checkpoint::OptimizerManifest;
use fallline_optim::hyper::Value as Hyper;
use fallline_optim::{Method, Mode};

/// Returns a group, complete: torch replaces an optimizer's groups by those that it loads.
pub(super) fn group(
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

/// Returns a hyperparameter, or the default of an argument that changes no number.
fn hyper(method: &Method, name: &str) -> Hyper {
    let row = || method.table().iter().find(|hyper| hyper.name == name).map(|hyper| (hyper.default)());
    method.get(name).or_else(row).unwrap_or(Hyper::None)
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
