//! Where in a file the optimizer and the weights are.

use crate::value::{Dict, Key, Part, Value, way};
use crate::{Error, Result};

/// Keys that training loops give the optimizer's state.
const OPTIMIZERS: [&str; 5] = ["optimizer", "optimizer_state_dict", "optimizer_state", "optim", "opt"];
/// Keys that training loops give the model's.
const WEIGHTS: [&str; 5] = ["state_dict", "model_state_dict", "model", "model_state", "module"];
/// What modules register in addition to parameters, as far as names tell.
const BUFFERS: [&str; 4] = ["running_mean", "running_var", "num_batches_tracked", "relative_position_index"];
/// How many ways a message names.
const NAMED: usize = 12;
/// How many are looked for.
const MOST: usize = 1000;

fn is_optimizer(value: &Value<'_>) -> bool {
    value.get("state").is_some() && value.get("param_groups").is_some()
}

/// An optimizer's state, and what is on the path to it.
pub(crate) struct Found<'v, 'a> {
    /// The dotted path; empty for the file itself.
    pub at: String,
    pub optimizer: &'v Value<'a>,
    /// The file, and each value on the path to the optimizer, from the outside in, with the paths to them.
    pub around: Vec<(String, &'v Value<'a>)>,
}

/// Returns the optimizer's state: at a path, or where trainers put it, or the only one.
pub(crate) fn optimizer<'v, 'a>(root: &'v Value<'a>, path: Option<&str>) -> Result<Found<'v, 'a>> {
    if let Some(path) = path {
        let asked = root.at(path).filter(|found| is_optimizer(found));
        let asked = asked.and_then(|asked| {
            all(root, true).into_iter().find(|found| core::ptr::eq(found.optimizer, asked))
        });
        return asked.ok_or_else(|| {
            let problem = "there is no optimizer's state (a dict with \"state\" and \"param_groups\")";
            let others = ways(&all(root, false));
            let others = if others.is_empty() { others } else { format!("; there is one at {others}") };
            Error::value(path, format!("{problem}{others}"))
        });
    }
    let mut found = all(root, false);
    let usual = |key: &&str| found.iter().position(|found| found.at == **key);
    let usual = [""].iter().chain(&OPTIMIZERS).find_map(usual);
    match (usual, found.len()) {
        (Some(place), _) => Ok(found.swap_remove(place)),
        (None, 1) => Ok(found.swap_remove(0)),
        (None, 0) => Err(Error::value("the file", nothing(root))),
        (None, _) => {
            Err(Error::value("the file", format!("it has several optimizers: say which, {}", ways(&found))))
        }
    }
}

fn ways(found: &[Found<'_, '_>]) -> String {
    let named: Vec<&str> = found.iter().take(NAMED).map(|found| found.at.as_str()).collect();
    let rest = found.len() - named.len();
    let rest = if rest == 0 { String::new() } else { format!(" or one of {rest} more") };
    format!("{}{rest}", named.join(" or "))
}

/// Returns every optimizer's state in the file, in its order; those that others are wrapped around too, if asked for.
fn all<'v, 'a>(root: &'v Value<'a>, wrapped: bool) -> Vec<Found<'v, 'a>> {
    let mut found = Vec::new();
    root.walk(&mut Vec::new(), &mut |parts, value| {
        if is_optimizer(value) {
            found.push((parts.to_vec(), value));
        }
        (wrapped || !is_optimizer(value)) && found.len() < MOST
    });
    let around = |parts: &[Part<'v>]| {
        let step = |value: &'v Value<'a>, part: &Part<'v>| match (value, part) {
            (Value::Dict(entries), Part::Key(key)) => {
                entries.iter().find(|(known, _)| core::ptr::eq(known, *key)).map(|(_, value)| value)
            }
            (Value::List(items) | Value::Tuple(items), Part::Place(place)) => items.get(*place),
            _ => None,
        };
        let mut around = Vec::new();
        let mut value = Some(root);
        for (i, part) in parts.iter().enumerate() {
            let Some(here) = value else { break };
            around.push((way(&parts[..i]), here));
            value = step(here, part);
        }
        around
    };
    found
        .into_iter()
        .map(|(parts, optimizer)| Found { at: way(&parts), optimizer, around: around(&parts) })
        .collect()
}

/// Returns what a file is that has no optimizer's state.
fn nothing(root: &Value<'_>) -> String {
    let has = |keys: &[&str]| keys.iter().all(|key| root.get(key).is_some());
    let problem = "there is no optimizer's state in it (a dict with \"state\" and \"param_groups\")";
    let it_is = |what: &str, keys: &str| format!("{problem}: it is the state of {what} ({keys})");
    if has(&["scale", "growth_factor", "_growth_tracker"]) {
        return it_is("a gradient scaler", "scale, growth_factor");
    }
    if has(&["last_epoch", "_step_count"]) || has(&["base_lrs", "last_epoch"]) {
        return it_is("a learning-rate scheduler", "last_epoch, _step_count");
    }
    if has(&["python", "numpy", "cpu"]) || has(&["random_state", "numpy_random_seed", "torch_manual_seed"]) {
        return it_is("random number generators", "python, numpy");
    }
    if weights(root).is_some() {
        return format!("{problem}: it has a model's state alone");
    }
    match root.opaque_values().first() {
        Some(opaque) if opaque.at.is_empty() => {
            format!("{problem}: what it is ({}) is not built; save what its state_dict() gives", opaque.class)
        }
        Some(opaque) => format!("{problem}; {} ({}) is not built", opaque.at, opaque.class),
        None => problem.to_owned(),
    }
}

/// A model's tensors with their names, and the key that they are under.
pub(crate) type Weights<'v, 'a> = (&'static str, Vec<(String, &'v Value<'a>)>);

/// Returns the model's tensors, in the order of the file, without what is known not to be a parameter.
pub(crate) fn weights<'v, 'a>(root: &'v Value<'a>) -> Option<Weights<'v, 'a>> {
    named_weights(root).or_else(|| match root {
        Value::Dict(entries) if !is_optimizer(root) => {
            Some(("", tensors(entries))).filter(|(_, f)| !f.is_empty())
        }
        _ => None,
    })
}

/// Returns the model's tensors: those next to an optimizer's state, or next to what it is in.
pub(crate) fn weights_beside<'v, 'a>(
    found: &Found<'v, 'a>,
) -> Option<(String, Vec<(String, &'v Value<'a>)>)> {
    let beside = found.around.iter().rev().find_map(|(at, value)| Some((at, named_weights(value)?)));
    let (at, (key, tensors)) = match (beside, found.around.first()) {
        (Some(beside), _) => beside,
        // Tensors beside the optimizer, under no key of their own.
        (None, root) => root.and_then(|(at, value)| Some((at, weights(value)?)))?,
    };
    Some((if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") }, tensors))
}

fn named_weights<'v, 'a>(root: &'v Value<'a>) -> Option<Weights<'v, 'a>> {
    WEIGHTS.into_iter().find_map(|key| match root.get(key)? {
        Value::Dict(entries) => Some((key, tensors(entries))).filter(|(_, found)| !found.is_empty()),
        _ => None,
    })
}

fn tensors<'v, 'a>(entries: &'v Dict<'a>) -> Vec<(String, &'v Value<'a>)> {
    let is_tensor = |(_, value): &&(Key, Value<'a>)| matches!(value, Value::Tensor(_));
    let named = entries.iter().filter(is_tensor).map(|(key, value)| (key.to_string(), value));
    let buffer = |name: &str| BUFFERS.contains(&name.rsplit('.').next().unwrap_or(name));
    named.filter(|(name, _)| !buffer(name)).collect()
}

/// Returns what is in the file in addition to these.
pub(crate) fn others(found: &Found<'_, '_>, weights: Option<&str>) -> Vec<String> {
    let mut others = Vec::new();
    let ways = found.around.iter().map(|(at, _)| at.as_str()).skip(1).chain([found.at.as_str()]);
    for ((at, value), taken) in found.around.iter().zip(ways) {
        let below = |key: String| if at.is_empty() { key } else { format!("{at}.{key}") };
        let names: Vec<String> = match value {
            Value::Dict(entries) => entries.iter().map(|(key, _)| below(way(&[Part::Key(key)]))).collect(),
            Value::List(items) | Value::Tuple(items) => {
                (0..items.len()).map(|i| below(i.to_string())).collect()
            }
            _ => Vec::new(),
        };
        let known = |name: &String| name == taken || Some(name.as_str()) == weights || name == "meta";
        others.extend(names.into_iter().filter(|name| !known(name)));
    }
    if let Value::Dict(entries) = found.optimizer {
        let own = entries
            .iter()
            .map(|(key, _)| key)
            .filter(|key| !matches!(key, Key::Str(text) if matches!(&**text, "state" | "param_groups")));
        let below = |key: &Key| {
            let key = way(&[Part::Key(key)]);
            if found.at.is_empty() { key } else { format!("{}.{key}", found.at) }
        };
        others.extend(own.map(below));
    }
    others
}
