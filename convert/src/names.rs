//! Lists of parameters' names, in an order.

use crate::limits::Limits;
use crate::{Error, Result, archive, locate};

/// A name, with its shape where it is known.
pub type Named = (String, Option<Vec<usize>>);

/// Reads a list of names. It is a file of torch (the parameters of its model, in the model's order), JSON, or text
/// with a name a line. The JSON is a list of names, or an object with one key for each: `{"fc.weight": {"shape": [4,
/// 3]}}`.
///
/// # Errors
/// What is wrong with it. A safetensors file is refused: it sorts its tensors.
pub fn names(bytes: &[u8], limits: &Limits) -> Result<Vec<Named>> {
    let wrong = |problem: String| Error::Names(format!("the list of names: {problem}"));
    if archive::is_torch(bytes) {
        let root = archive::read(bytes, limits)?;
        let (_, tensors) = locate::weights(&root).ok_or_else(|| wrong("it has no model's state".into()))?;
        let dims = |value: &crate::Value<'_>| match value {
            crate::Value::Tensor(tensor) => Some(tensor.shape().to_vec()),
            _ => None,
        };
        return Ok(tensors.into_iter().map(|(name, value)| (name, dims(value))).collect());
    }
    if bytes.get(8) == Some(&b'{') && bytes.get(7) == Some(&0) {
        return Err(wrong("a safetensors file does not keep the order of the model; give a list".into()));
    }
    let text = core::str::from_utf8(bytes).map_err(|_| wrong("it is neither JSON nor text".into()))?;
    if !text.trim_start().starts_with(['[', '{']) {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        return Ok(lines.map(|line| (line.to_owned(), None)).collect());
    }
    match serde_json::from_str(text).map_err(|error| wrong(error.to_string()))? {
        serde_json::Value::Array(items) => {
            let name = |item: serde_json::Value| match item {
                serde_json::Value::String(name) => Ok((name, None)),
                other => Err(wrong(format!("expected names, got {other}"))),
            };
            items.into_iter().map(name).collect()
        }
        serde_json::Value::Object(entries) => {
            let named = |(name, about): (String, serde_json::Value)| {
                let Some(shape) = about.get("shape") else { return Ok((name, None)) };
                let extent = |x: &serde_json::Value| x.as_u64().and_then(|x| usize::try_from(x).ok());
                let shape = shape.as_array().and_then(|list| list.iter().map(extent).collect());
                shape
                    .map(|shape| (name.clone(), Some(shape)))
                    .ok_or_else(|| wrong(format!("the shape of {name:?}")))
            };
            entries.into_iter().map(named).collect()
        }
        _ => Err(wrong("expected names".into())),
    }
}
