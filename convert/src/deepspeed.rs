//! Shards of DeepSpeed's ZeRO, stages 1 and 2. Each rank keeps a part of the parameters of a group, all of which
//! lie one behind the other in one vector.
//!
//! A rank's `…_optim_states.pt` has its part of each group's vector: of the weights in `f32`, and of each state. It
//! also says where in the vector each parameter lies (`param_slice_mappings`). The parameters' shapes are in
//! `mp_rank_00_model_states.pt` next to it. [`join`] makes one optimizer's state of all of them, with named
//! parameters.

use crate::tensor::{Dtype, Tensor};
use crate::value::{Dict, Key, Value, count};
use crate::{Error, Result};
use fallline_core::fallible;
use std::collections::HashMap;

const OPTIMIZER: &str = "optimizer_state_dict";
const BASE: &str = "base_optimizer_state";
const WEIGHTS: &str = "single_partition_of_fp32_groups";
const PARTS: &str = "partition_count";
const MAPPINGS: &str = "param_slice_mappings";
/// What shards of stage 3 have, in which every parameter is cut.
const STAGE_3: &str = "fp32_flat_groups";

/// Returns whether a file is a shard: what one rank of several has of an optimizer's state.
pub fn is_shard(root: &Value<'_>) -> bool {
    let Some(optimizer) = root.get(OPTIMIZER) else { return false };
    [WEIGHTS, PARTS, STAGE_3].iter().any(|key| optimizer.get(key).is_some())
}

/// Returns how many shards there are, which each of them says.
///
/// # Errors
/// When it says something else.
pub fn shards(root: &Value<'_>) -> Result<usize> {
    let at = format!("{OPTIMIZER}.{PARTS}");
    let parts = root.get(OPTIMIZER).and_then(|optimizer| optimizer.get(PARTS));
    let first = match parts {
        Some(Value::List(items) | Value::Tuple(items)) => items.first(),
        other => other,
    };
    let parts = count(&at, first)?;
    usize::try_from(parts).ok().filter(|&parts| parts > 0).ok_or_else(|| Error::value(at, "there are none"))
}

/// Returns the shapes of the parameters, as a file of the model's states has them, in its order.
///
/// # Errors
/// When the file has none.
pub fn shapes(model: &Value<'_>) -> Result<Vec<(String, Vec<usize>)>> {
    const AT: &str = "param_shapes";
    let groups = model.get(AT).ok_or_else(|| Error::value(AT, "it is missing"))?;
    // One dict for all, in earlier versions.
    let groups = match groups {
        Value::Dict(_) => core::slice::from_ref(groups),
        other => other.as_items(AT)?,
    };
    let mut shapes = Vec::new();
    for group in groups {
        for (name, shape) in group.as_dict(AT)? {
            let extent = |value: &Value<'_>| count(&format!("{AT}.{name}"), Some(value)).map(|x| x as usize);
            let shape = shape.as_items(&format!("{AT}.{name}"))?.iter().map(extent).collect::<Result<_>>()?;
            shapes.push((name.to_string(), shape));
        }
    }
    Ok(shapes)
}

/// A parameter's numbers, as far as they are joined.
struct Joined {
    group: usize,
    weights: Vec<u8>,
    /// By the state's name: its type and bytes.
    states: Vec<(Key, Dtype, Vec<u8>)>,
}

/// Joins shards, in the order of their ranks. The result has `model` and `optimizer`, whose states and groups name parameters.
///
/// # Errors
/// When a shard is missing, a parameter has no shape, or parts do not make up a whole parameter; and for stage 3.
pub fn join(shards: &[Value<'_>], shapes: &[(String, Vec<usize>)]) -> Result<Value<'static>> {
    let first = shards.first().ok_or_else(|| Error::value("the shards", "there are none"))?;
    let parts = self::shards(first)?;
    if parts != shards.len() {
        return Err(Error::value("the shards", format!("there are {} of {parts}", shards.len())));
    }
    let mut joined: Vec<(String, Joined)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut whole: Vec<(usize, Key, Value<'static>)> = Vec::new();
    for (rank, shard) in shards.iter().enumerate() {
        let at = format!("shard {rank}: {OPTIMIZER}");
        let optimizer = shard.get(OPTIMIZER).filter(|_| is_shard(shard));
        let optimizer = optimizer.ok_or_else(|| Error::value(&at, "it is no shard of ZeRO, stage 1 or 2"))?;
        if optimizer.get(STAGE_3).is_some() {
            let problem = "it is of ZeRO's stage 3, of which no states are read: only stages 1 and 2";
            return Err(Error::value(&at, problem));
        }
        let get = |key: &str| {
            optimizer.get(key).ok_or_else(|| Error::value(format!("{at}.{key}"), "it is missing"))
        };
        let mappings = get(MAPPINGS)?.as_items(&format!("{at}.{MAPPINGS}"))?;
        let weights = get(WEIGHTS)?.as_items(&format!("{at}.{WEIGHTS}"))?;
        let base = get(BASE)?;
        let states_at = format!("{at}.{BASE}.state");
        let problem = "it is kept for another number of ranks (elastic_checkpoint), which is not read";
        let states =
            base.get("state").ok_or_else(|| Error::value(&states_at, problem))?.as_dict(&states_at)?;
        for (group, mapping) in mappings.iter().enumerate() {
            let state = states.iter().find(|(key, _)| *key == Key::Int(group as i64));
            let state =
                state.map_or(Ok(&[][..]), |(_, state)| state.as_dict(&states_at).map(|dict| &dict[..]))?;
            let weights = weights.get(group).and_then(flat);
            let weights = weights
                .ok_or_else(|| Error::value(format!("{at}.{WEIGHTS}.{group}"), "expected a vector of f32"))?;
            // The parts of parameters lie apart: together they are never more than the vector.
            let mut rest = weights.elements();
            for (key, value) in state {
                if flat(value).is_none() && whole.iter().all(|(g, known, _)| (*g, known) != (group, key)) {
                    whole.push((group, key.clone(), alone(value)));
                }
            }
            for (name, fragment) in mapping.as_dict(&format!("{at}.{MAPPINGS}.{group}"))? {
                let way = format!("{at}.{MAPPINGS}.{group}.{name}");
                let place = |key: &str| count(&format!("{way}.{key}"), fragment.get(key)).map(|x| x as usize);
                let (start, length) = (place("start")?, place("numel")?);
                let outside = || Error::value(&way, format!("{length} numbers from {start} leave the shard"));
                rest = rest.checked_sub(length).ok_or_else(outside)?;
                let name = name.to_string();
                let index = *places.entry(name.clone()).or_insert_with(|| {
                    joined.push((name, Joined { group, weights: Vec::new(), states: Vec::new() }));
                    joined.len() - 1
                });
                let entry = &mut joined[index].1;
                let piece = |vector: &Tensor<'_>| {
                    let width = vector.dtype().bytes();
                    let from = start.checked_mul(width);
                    let to = start.checked_add(length).and_then(|end| end.checked_mul(width));
                    let bytes = vector.laid_out()?;
                    let range = from.zip(to).and_then(|(from, to)| bytes.get(from..to));
                    Ok::<_, Error>(fallible::copied(range.ok_or_else(outside)?, "a part of a parameter")?)
                };
                entry.weights.extend(piece(weights)?);
                for (key, value) in state {
                    let Some(vector) = flat(value) else { continue };
                    let piece = piece(vector)?;
                    match entry.states.iter_mut().find(|(known, _, _)| known == key) {
                        Some((_, dtype, bytes)) if *dtype == vector.dtype() => bytes.extend(piece),
                        Some(_) => return Err(Error::value(&way, "its shards have several types")),
                        None => entry.states.push((key.clone(), vector.dtype(), piece)),
                    }
                }
            }
        }
    }
    finish(first, joined, &whole, shapes)
}

/// Returns the vector, if a value is a state of all parameters of a group.
fn flat<'v, 'a>(value: &'v Value<'a>) -> Option<&'v Tensor<'a>> {
    match value {
        Value::Tensor(tensor) if tensor.shape().len() == 1 => Some(tensor),
        _ => None,
    }
}

/// Returns a copy of a value that is the same for all parameters of a group.
fn alone(value: &Value<'_>) -> Value<'static> {
    match value {
        Value::Bool(x) => Value::Bool(*x),
        Value::Int(x) => Value::Int(*x),
        Value::Float(x) => Value::Float(*x),
        Value::Str(text) => Value::Str(text.clone()),
        Value::Opaque(class) => Value::Opaque(class.clone()),
        Value::List(items) => Value::List(items.iter().map(alone).collect()),
        Value::Tuple(items) => Value::Tuple(items.iter().map(alone).collect()),
        Value::Dict(entries) => {
            Value::Dict(entries.iter().map(|(key, value)| (key.clone(), alone(value))).collect())
        }
        Value::Tensor(tensor) => {
            let own = Tensor::new(tensor.dtype(), tensor.shape().to_vec(), tensor.bytes().into_owned());
            own.map_or(Value::None, Value::Tensor)
        }
        Value::None => Value::None,
    }
}

fn finish(
    first: &Value<'_>,
    joined: Vec<(String, Joined)>,
    whole: &[(usize, Key, Value<'static>)],
    shapes: &[(String, Vec<usize>)],
) -> Result<Value<'static>> {
    // In the order of the model, which is that of the groups as well.
    let order: HashMap<&str, usize> =
        shapes.iter().enumerate().map(|(i, (name, _))| (name.as_str(), i)).collect();
    let (mut model, mut states, mut names): (
        Dict<'static>,
        Dict<'static>,
        HashMap<usize, Vec<Value<'static>>>,
    ) = Default::default();
    let mut all = Vec::new();
    for (name, parts) in joined {
        let place = order.get(name.as_str()).copied().ok_or_else(|| {
            Error::Names(format!(
                "the shape of {name:?} is not known: it is in …_model_states.pt beside the shards"
            ))
        })?;
        all.push((place, name, parts));
    }
    all.sort_by_key(|(place, _, _)| *place);
    for (place, name, parts) in all {
        let shape = &shapes[place].1;
        let tensor = |dtype: Dtype, bytes: Vec<u8>| {
            let tensor = Tensor::new(dtype, shape.clone(), bytes);
            tensor.map(Value::Tensor).map_err(|_| {
                Error::value(&name, format!("its parts do not make up a parameter of shape {shape:?}"))
            })
        };
        let mut state: Dict<'static> = whole
            .iter()
            .filter(|(group, _, _)| *group == parts.group)
            .map(|(_, key, value)| (key.clone(), value.clone()))
            .collect();
        for (key, dtype, bytes) in parts.states {
            state.push((key, tensor(dtype, bytes)?));
        }
        let key = Key::Str(name.as_str().into());
        model.push((key.clone(), tensor(Dtype::Float32, parts.weights)?));
        if !state.is_empty() {
            states.push((key, Value::Dict(state)));
        }
        names.entry(parts.group).or_default().push(Value::str(&name));
    }
    let at = format!("{OPTIMIZER}.{BASE}.param_groups");
    let groups = first.at(&at).ok_or_else(|| Error::value(&at, "it is missing"))?.as_items(&at)?;
    let mut list = Vec::new();
    for (place, group) in groups.iter().enumerate() {
        let mut own: Dict<'static> = group
            .as_dict(&at)?
            .iter()
            .filter(
                |(key, _)| !matches!(key, Key::Str(text) if **text == *"params" || **text == *"param_names"),
            )
            .map(|(key, value)| (key.clone(), alone(value)))
            .collect();
        own.push(("params".into(), Value::List(names.remove(&place).unwrap_or_default())));
        list.push(Value::Dict(own));
    }
    let optimizer = Value::dict([("state", Value::Dict(states)), ("param_groups", Value::List(list))]);
    Ok(Value::dict([("model", Value::Dict(model)), ("optimizer", optimizer)]))
}
