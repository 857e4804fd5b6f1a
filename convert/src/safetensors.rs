//! The same tree as a safetensors file: tensors by the path to them, the rest as JSON in the metadata.

use crate::limits::Limits;
use crate::tensor::{Dtype, Tensor};
use crate::value::{Key, Value};
use crate::{Error, Result};
use fallline_core::fallible;
use safetensors::tensor::{Dtype as SafeDtype, SafeTensors, TensorView};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, HashMap};

/// The key of the tree in the metadata.
const TREE: &str = "torch";

const DTYPES: [(Dtype, SafeDtype); 10] = [
    (Dtype::Float64, SafeDtype::F64),
    (Dtype::Float32, SafeDtype::F32),
    (Dtype::Float16, SafeDtype::F16),
    (Dtype::BFloat16, SafeDtype::BF16),
    (Dtype::Int64, SafeDtype::I64),
    (Dtype::Int32, SafeDtype::I32),
    (Dtype::Int16, SafeDtype::I16),
    (Dtype::Int8, SafeDtype::I8),
    (Dtype::UInt8, SafeDtype::U8),
    (Dtype::Bool, SafeDtype::BOOL),
];

/// Writes a tree as safetensors: `state.0.exp_avg` and so on.
///
/// # Errors
/// When the library refuses.
pub fn write(value: &Value<'_>) -> Result<Vec<u8>> {
    let mut tensors = BTreeMap::new();
    let tree = to_json(value, "", &mut tensors);
    let failed = |error: safetensors::SafeTensorError| Error::value("the file", error.to_string());
    let bytes = tensors.values().map(|tensor| tensor.laid_out()).collect::<Result<Vec<_>>>()?;
    let mut views = Vec::new();
    for ((way, tensor), bytes) in tensors.iter().zip(&bytes) {
        let dtype = DTYPES
            .iter()
            .find(|(ours, _)| *ours == tensor.dtype())
            .map_or(SafeDtype::U8, |(_, dtype)| *dtype);
        views.push((way.as_str(), TensorView::new(dtype, tensor.shape().to_vec(), bytes).map_err(failed)?));
    }
    let metadata = HashMap::from([(TREE.to_owned(), tree.to_string())]);
    fallible::check(bytes.iter().try_fold(0usize, |all, own| all.checked_add(own.len())), "the file")?;
    safetensors::serialize(views, Some(metadata)).map_err(failed)
}

/// Reads such a file.
///
/// # Errors
/// What is wrong with it.
pub fn read<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Value<'a>> {
    let wrong = |problem: String| Error::value("the file", problem);
    let file =
        SafeTensors::deserialize(bytes).map_err(|error| wrong(format!("not a safetensors file: {error}")))?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| wrong(error.to_string()))?;
    let tree = header.metadata().as_ref().and_then(|metadata| metadata.get(TREE));
    let tree = tree.ok_or_else(|| wrong(format!("it has no tree (the key {TREE:?} of its metadata)")))?;
    let tree: Json =
        serde_json::from_str(tree).map_err(|error| wrong(format!("its tree cannot be read: {error}")))?;
    let mut left = limits.values;
    from_json(&tree, &file, &mut left, limits.values)
}

/// Returns how many bytes a safetensors file is to have, where it has fewer: it was cut short. Where that is inside its
/// header, the bytes to the header's end.
pub fn cut_short(bytes: &[u8]) -> Option<usize> {
    let header = usize::try_from(u64::from_le_bytes(*bytes.first_chunk()?)).ok()?;
    // Longer ones are refused by the format.
    if bytes.get(8) != Some(&b'{') || header > 100_000_000 {
        return None;
    }
    let data = header + 8;
    let Some(header) = bytes.get(8..data) else { return Some(data) };
    let header: HashMap<String, Json> = serde_json::from_slice(header).ok()?;
    let ends = header.values().filter_map(|entry| entry.get("data_offsets")?.get(1)?.as_u64());
    let end = data.checked_add(usize::try_from(ends.max()?).ok()?)?;
    (bytes.len() < end).then_some(end)
}

/// Converts to JSON, which has no tuples, and only strings as keys. An object with one key that begins with `$`
/// says what it is.
fn to_json<'v, 'a>(value: &'v Value<'a>, way: &str, tensors: &mut BTreeMap<String, &'v Tensor<'a>>) -> Json {
    let below = |key: &str| if way.is_empty() { key.to_owned() } else { format!("{way}.{key}") };
    let mut items = |items: &'v [Value<'a>]| -> Json {
        items.iter().enumerate().map(|(i, item)| to_json(item, &below(&i.to_string()), tensors)).collect()
    };
    match value {
        Value::None | Value::Opaque(_) => Json::Null,
        Value::Bool(x) => json!(x),
        Value::Int(x) => json!(x),
        Value::Float(x) if x.is_finite() => json!({ "$float": x }),
        Value::Float(x) => json!({ "$float": x.to_string() }),
        Value::Str(text) => json!(**text),
        Value::List(list) => items(list),
        Value::Tuple(list) => json!({ "$tuple": items(list) }),
        Value::Dict(entries) => {
            let pair = |(key, value): &'v (Key, Value<'a>)| {
                let name = match key {
                    Key::Int(x) => json!(x),
                    Key::Str(text) | Key::Other(text) => json!(**text),
                };
                json!([name, to_json(value, &below(&key.to_string()), tensors)])
            };
            json!({ "$dict": entries.iter().map(pair).collect::<Vec<_>>() })
        }
        Value::Tensor(tensor) => {
            // Keys with dots can make two ways one.
            let mut way = way.to_owned();
            while tensors.contains_key(&way) || way == "__metadata__" {
                way.push('_');
            }
            tensors.insert(way.clone(), tensor);
            json!({ "$tensor": way })
        }
    }
}

fn from_json<'a>(tree: &Json, file: &SafeTensors<'a>, left: &mut usize, limit: usize) -> Result<Value<'a>> {
    let wrong = |problem: String| Error::value("its tree", problem);
    *left = left.checked_sub(1).ok_or(Error::Limit { what: "values", limit })?;
    let mut items = |list: &[Json]| {
        list.iter().map(|item| from_json(item, file, left, limit)).collect::<Result<Vec<_>>>()
    };
    Ok(match tree {
        Json::Null => Value::None,
        Json::Bool(x) => Value::Bool(*x),
        Json::Number(x) => {
            Value::Int(x.as_i64().ok_or_else(|| wrong(format!("{x} is no integer of 64 bits")))?)
        }
        Json::String(text) => Value::str(text),
        Json::Array(list) => Value::List(items(list)?),
        Json::Object(entries) => {
            let only = entries.iter().next().filter(|_| entries.len() == 1);
            match only.map(|(key, value)| (key.as_str(), value)) {
                Some(("$float", Json::Number(x))) => Value::Float(x.as_f64().unwrap_or(f64::NAN)),
                Some(("$float", Json::String(x))) => {
                    Value::Float(x.parse().map_err(|_| wrong(format!("{x:?} is no number")))?)
                }
                Some(("$tuple", Json::Array(list))) => Value::Tuple(items(list)?),
                Some(("$dict", Json::Array(pairs))) => {
                    let pair = |pair: &Json| {
                        let key = match pair.get(0) {
                            Some(Json::String(text)) => Key::from(text.as_str()),
                            Some(Json::Number(x)) if x.as_i64().is_some() => {
                                Key::Int(x.as_i64().unwrap_or(0))
                            }
                            _ => return Err(wrong("a dict of other things than pairs".into())),
                        };
                        Ok((key, from_json(pair.get(1).unwrap_or(&Json::Null), file, left, limit)?))
                    };
                    Value::Dict(pairs.iter().map(pair).collect::<Result<_>>()?)
                }
                Some(("$tensor", Json::String(way))) => {
                    let view = file.tensor(way).map_err(|_| wrong(format!("there is no tensor {way:?}")))?;
                    let dtype = DTYPES.iter().find(|(_, theirs)| *theirs == view.dtype());
                    let (dtype, _) =
                        dtype.ok_or_else(|| wrong(format!("{way:?} is of type {:?}", view.dtype())))?;
                    let tensor = Tensor::new(*dtype, view.shape().to_vec(), view.data());
                    Value::Tensor(tensor.map_err(|problem| wrong(format!("{way:?}: {problem}")))?)
                }
                _ => return Err(wrong("an object that is none of ours".into())),
            }
        }
    })
}
