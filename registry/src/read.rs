//! Reading nodes of a configuration: dicts, their types, names and plain values.

use crate::config::{Dict, Node, Value as Setting};
use crate::error::{Error, Result, article};
use crate::near::nearest;
use fallline_optim::hyper::Value;

/// Returns the dict that a node must be.
pub(crate) fn expect_dict<'a>(node: &'a Node, key: &str) -> Result<&'a Dict> {
    node.value.as_dict().ok_or_else(|| Error::Value {
        at: node.at.clone(),
        key: key.to_owned(),
        expected: "a dict".into(),
        got: typed(node),
    })
}

/// Returns the type of a value, for a message.
pub(crate) fn typed(node: &Node) -> String {
    let name = node.value.type_name();
    if node.value.is_none() { name.to_owned() } else { format!("{} {name}", article(name)) }
}

/// Returns the node of the key `type`, which is a string.
pub(crate) fn type_of<'a>(dict: &'a Dict, node: &Node, what: &str) -> Result<&'a Node> {
    let kind = dict.get("type").ok_or_else(|| Error::Missing {
        at: node.at.clone(),
        what: what.to_owned(),
        key: "type",
    })?;
    match kind.value.as_str() {
        Some(_) => Ok(kind),
        None => Err(Error::Value {
            at: kind.at.clone(),
            key: "type".into(),
            expected: "a name".into(),
            got: kind.value.to_string(),
        }),
    }
}

/// Refuses the first key of a dict that is none of the known ones, with the nearest of these.
pub(crate) fn refuse_unknown(dict: &Dict, node: &Node, what: &str, known: &[&str]) -> Result<()> {
    let Some(key) = dict.keys().find(|key| !known.contains(key)) else { return Ok(()) };
    Err(Error::UnknownKey {
        at: dict.key_at(key).unwrap_or(&node.at).clone(),
        what: what.to_owned(),
        key: key.to_owned(),
        nearest: nearest(key, known.iter().copied()).map(str::to_owned),
        hint: None,
    })
}

/// Returns a name without the scope (`mmdet::`) or module (`torch.optim.`) in front of it.
pub(crate) fn bare_name(name: &str) -> &str {
    let name = name.rsplit("::").next().unwrap_or(name);
    name.rsplit('.').next().unwrap_or(name)
}

/// Returns a configuration's value as a hyperparameter's.
pub(crate) fn convert(node: &Node) -> Option<Value> {
    Some(match &node.value {
        Setting::None => Value::None,
        Setting::Bool(x) => Value::Bool(*x),
        Setting::Int(x) => Value::Int(*x),
        Setting::Float(x) => Value::Float(*x),
        Setting::Str(x) => Value::Text(x.clone()),
        Setting::List(items) => Value::List(items.iter().map(convert).collect::<Option<_>>()?),
        _ => return None,
    })
}
