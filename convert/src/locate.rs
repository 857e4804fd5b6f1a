//! Where in a file the optimizer and the weights are.

use crate::value::{Dict, Value};
use crate::{Error, Result};

/// Keys that training loops give the optimizer's state.
const OPTIMIZERS: [&str; 5] = ["optimizer", "optimizer_state_dict", "optimizer_state", "optim", "opt"];
/// Keys that training loops give the model's.
const WEIGHTS: [&str; 5] = ["state_dict", "model_state_dict", "model", "model_state", "module"];
/// What modules register in addition to parameters, as far as names tell.
const BUFFERS: [&str; 4] = ["running_mean", "running_var", "num_batches_tracked", "relative_position_index"];

fn is_optimizer(value: &Value<'_>) -> bool {
    value.get("state").is_some() && value.get("param_groups").is_some()
}

/// The optimizer's state and its path: the given one, or where training loops put it.
pub(crate) fn optimizer<'v, 'a>(root: &'v Value<'a>, path: Option<&str>) -> Result<(String, &'v Value<'a>)> {
    if let Some(path) = path {
        let found = root.at(path).filter(|found| is_optimizer(found));
        let problem = "there is no optimizer's state (a dict with \"state\" and \"param_groups\")";
        return Ok((path.to_owned(), found.ok_or_else(|| Error::value(path, problem))?));
    }
    if is_optimizer(root) {
        return Ok((String::new(), root));
    }
    let named = OPTIMIZERS.into_iter().filter_map(|key| Some((key, root.get(key)?)));
    let mut inside = Vec::new();
    for (key, value) in named {
        if is_optimizer(value) {
            return Ok((key.to_owned(), value));
        }
        if let Value::Dict(entries) = value {
            inside.extend(entries.iter().filter(|(_, v)| is_optimizer(v)).map(|(k, _)| format!("{key}.{k}")));
        }
    }
    let problem = match inside.is_empty() {
        true => "there is no optimizer's state in it (a dict with \"state\" and \"param_groups\")".to_owned(),
        false => format!("it has several optimizers: say which, {}", inside.join(" or ")),
    };
    Err(Error::value("the file", problem))
}

/// The model's tensors, in the order of the file, without what is known not to be a parameter.
pub(crate) fn weights<'v, 'a>(root: &'v Value<'a>) -> Option<(&'static str, Vec<(String, &'v Value<'a>)>)> {
    let tensors = |entries: &'v Dict<'a>| {
        let is_tensor = |(_, value): &&(crate::Key, Value<'a>)| matches!(value, Value::Tensor(_));
        let named = entries.iter().filter(is_tensor).map(|(key, value)| (key.to_string(), value));
        let buffer = |name: &str| BUFFERS.contains(&name.rsplit('.').next().unwrap_or(name));
        named.filter(|(name, _)| !buffer(name)).collect::<Vec<_>>()
    };
    let named = WEIGHTS.into_iter().find_map(|key| match root.get(key)? {
        Value::Dict(entries) => Some((key, tensors(entries))).filter(|(_, found)| !found.is_empty()),
        _ => None,
    });
    named.or_else(|| match root {
        Value::Dict(entries) if !is_optimizer(root) => {
            Some(("", tensors(entries))).filter(|(_, f)| !f.is_empty())
        }
        _ => None,
    })
}

/// What else is in the file.
pub(crate) fn others(root: &Value<'_>, taken: &[&str]) -> Vec<String> {
    match root {
        Value::Dict(entries) if !is_optimizer(root) => {
            let names = entries.iter().map(|(key, _)| key.to_string());
            names.filter(|name| !taken.contains(&name.as_str())).collect()
        }
        _ => Vec::new(),
    }
}
