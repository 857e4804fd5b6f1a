//! Files of tensors of any origin, for `inspect` and `diff`: safetensors, and what torch saves.

pub mod exact;

use crate::error::{Error, Result};
use exact::{Integer, Numbers};
use fallline::convert::{Dtype, Key, Limits, Opaque, Tensor, Value, archive};
use fallline::core::fallible;
use fallline::core::host::Blocks;
use fallline::optim::checkpoint::{Manifest, ParamManifest};
use fallline::{Checkpoint, Format, Shape};
use safetensors::SafeTensors;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// The key of the manifest in a file's metadata.
const MANIFEST: &str = "fallline";
/// Tensors of a torch file beyond these are not listed.
const MOST: usize = 1 << 20;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A checkpoint of fallline.
    Checkpoint,
    /// Recorded gradients, for `replay`.
    Trace,
    /// What `replay` writes.
    Replay,
    /// Other safetensors.
    Safetensors,
    /// What torch saves.
    Torch,
}

impl Kind {
    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Checkpoint => "checkpoint",
            Kind::Trace => "trace",
            Kind::Replay => "replay",
            Kind::Safetensors => "safetensors",
            Kind::Torch => "torch",
        }
    }
}

/// A file of tensors.
#[derive(Debug)]
pub struct TensorFile<'b> {
    /// What it is.
    pub kind: Kind,
    /// The manifest of a checkpoint.
    pub manifest: Option<serde_json::Value>,
    /// The metadata, without the manifest.
    pub metadata: BTreeMap<String, String>,
    /// The tensors, in the order of their names; numbers in them count.
    pub tensors: Vec<NamedTensor<'b>>,
    /// What a torch file has that was never built.
    pub opaque: Vec<Opaque>,
    /// Why a checkpoint cannot be loaded, hashes aside.
    pub damage: Option<String>,
}

/// A tensor of a file.
#[derive(Debug)]
pub struct NamedTensor<'b> {
    /// Its name.
    pub name: String,
    /// The element type, in the file's words.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The bytes of its elements.
    pub bytes: usize,
    /// The format of a state that is stored as codes, with the blocks' scales.
    pub codes: Option<(Format, Vec<f32>)>,
    /// The type, where it is one of integers.
    integer: Option<Integer>,
    /// None for types that torch does not have, and for views of torch that repeat what they show.
    tensor: Option<Tensor<'b>>,
    /// The bytes, in a file of safetensors.
    data: Option<&'b [u8]>,
}

impl NamedTensor<'_> {
    /// Returns how many elements it has.
    pub fn elements(&self) -> usize {
        Shape::from(&self.shape[..]).elements()
    }

    /// Returns the float format of its elements, if they are floats and no codes.
    pub fn float(&self) -> Option<Format> {
        self.tensor.as_ref()?.dtype().format().filter(|_| self.codes.is_none())
    }

    /// Returns its elements as numbers, integers rounded to f64; as [`exact`](Self::exact) otherwise.
    pub fn numbers(&self) -> Result<Option<Vec<f64>>> {
        Ok(match self.exact()? {
            None => None,
            Some(Numbers::Floats(floats)) => Some(floats),
            Some(Numbers::Integers(integers)) => {
                Some(fallible::collected(integers.into_iter().map(|x| x as f64), &self.name)?)
            }
        })
    }

    /// Returns its elements without loss; codes are decoded. None for types that have no numbers here, and for views of
    /// torch that repeat what they show.
    pub fn exact(&self) -> Result<Option<Numbers>> {
        if let (Some(integer), None) = (self.integer, &self.codes) {
            let read = self.raw().map(|bytes| integer.read(&bytes, &self.name)).transpose()?;
            return Ok(read.map(Numbers::Integers));
        }
        let Some(tensor) = &self.tensor else { return Ok(None) };
        let Some((format, scales)) = &self.codes else {
            let numbers = tensor.to_numbers().map_err(|error| Error::Other(error.to_string()))?;
            return Ok(Some(Numbers::Floats(numbers)));
        };
        let codes = tensor.bytes();
        let len = self.elements();
        if codes.len() != format.size(len) || scales.len() != format.scales(len) {
            return Ok(None);
        }
        let mut values = fallible::zeroed::<f64>(len, &self.name)?;
        Blocks { format: *format, len, codes: &codes, scales }.decode(values.as_mut_slice().into());
        Ok(Some(Numbers::Floats(values)))
    }

    /// Returns its elements' bytes, to compare types that have no numbers here.
    pub fn raw(&self) -> Option<Cow<'_, [u8]>> {
        self.data.map(Cow::Borrowed).or_else(|| self.tensor.as_ref().map(Tensor::bytes))
    }
}

/// Reads a file's bytes.
pub fn read<'b>(path: &Path, bytes: &'b [u8]) -> Result<TensorFile<'b>> {
    let malformed = |problem: String| Error::Malformed { path: path.to_owned(), problem };
    let mut file = match archive::is_torch(bytes) {
        true => {
            let tree =
                archive::read(bytes, &Limits::default()).map_err(|error| malformed(error.to_string()))?;
            of_torch(tree, bytes.len())
        }
        false => of_safetensors(bytes).map_err(malformed)?,
    };
    file.tensors.sort_by(|a, b| natural(&a.name).cmp(&natural(&b.name)));
    Ok(file)
}

/// Parts of a name, so that 10 comes after 9.
fn natural(name: &str) -> Vec<(&str, u64)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let text = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let digits = rest[text..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - text);
        parts.push((&rest[..text], rest[text..text + digits].parse().unwrap_or(u64::MAX)));
        rest = &rest[text + digits..];
    }
    parts
}

fn of_safetensors(bytes: &[u8]) -> Result<TensorFile<'_>, String> {
    let unread =
        |error: safetensors::SafeTensorError| format!("neither safetensors nor a torch file: {error}");
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(unread)?;
    let file = SafeTensors::deserialize(bytes).map_err(unread)?;
    let mut metadata: BTreeMap<String, String> =
        header.metadata().clone().unwrap_or_default().into_iter().collect();
    let manifest = metadata.remove(MANIFEST);
    let damage = manifest.as_ref().and_then(|_| Checkpoint::from_bytes_unverified(bytes).err());
    let known: Option<Manifest> = manifest.as_ref().and_then(|text| serde_json::from_str(text).ok());
    let manifest = manifest.and_then(|text| serde_json::from_str(&text).ok());
    let mut tensors = Vec::new();
    for (name, view) in file.tensors() {
        let dtype = match view.dtype() {
            safetensors::Dtype::F64 => Some(Dtype::Float64),
            safetensors::Dtype::F32 => Some(Dtype::Float32),
            safetensors::Dtype::F16 => Some(Dtype::Float16),
            safetensors::Dtype::BF16 => Some(Dtype::BFloat16),
            safetensors::Dtype::I64 => Some(Dtype::Int64),
            safetensors::Dtype::I32 => Some(Dtype::Int32),
            safetensors::Dtype::I16 => Some(Dtype::Int16),
            safetensors::Dtype::I8 => Some(Dtype::Int8),
            safetensors::Dtype::U8 => Some(Dtype::UInt8),
            safetensors::Dtype::BOOL => Some(Dtype::Bool),
            _ => None,
        };
        let tensor = dtype.and_then(|dtype| Tensor::new(dtype, view.shape().to_vec(), view.data()).ok());
        let mut found = NamedTensor {
            dtype: format!("{:?}", view.dtype()),
            shape: view.shape().to_vec(),
            bytes: view.data().len(),
            codes: None,
            integer: Integer::of_safetensors(view.dtype()),
            tensor,
            data: Some(view.data()),
            name,
        };
        if let Some((format, param)) = known.as_ref().and_then(|known| blocks(known, &found.name)) {
            let scales = file.tensor(&format!("{}.scale", found.name)).ok();
            let scales = scales.map(|view| f32s(view.data())).unwrap_or_default();
            found.shape = param.shape().dims().to_vec();
            found.codes = Some((format, scales));
        }
        tensors.push(found);
    }
    let kind = kind_of(manifest.is_some(), tensors.iter().map(|tensor| &*tensor.name));
    Ok(TensorFile { kind, manifest, metadata, tensors, opaque: Vec::new(), damage })
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Returns the format of a state that is stored as codes, and its parameter.
fn blocks<'m>(manifest: &'m Manifest, key: &str) -> Option<(Format, &'m ParamManifest)> {
    let (param, state) = key.strip_prefix("state/")?.rsplit_once('/')?;
    let (_, param) = manifest.optimizer.as_ref()?.params().find(|(name, _)| *name == param)?;
    let format = param.format(state, param.compute()?)?;
    format.block().map(|_| (format, param))
}

fn kind_of<'n>(has_manifest: bool, names: impl Iterator<Item = &'n str> + Clone) -> Kind {
    let is_step = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let of_step = |name: &str| {
        name.strip_prefix("param/").and_then(|rest| rest.split_once('/')).is_some_and(|(t, _)| is_step(t))
    };
    let mut all = names.clone();
    match (has_manifest, names.clone().any(|name| name.starts_with("grad/"))) {
        (true, _) => Kind::Checkpoint,
        (_, true) => Kind::Trace,
        _ if names.count() > 0 && all.all(of_step) => Kind::Replay,
        _ => Kind::Safetensors,
    }
}

fn of_torch(tree: Value<'_>, file: usize) -> TensorFile<'_> {
    let opaque = tree.opaque_values();
    let mut tensors = Vec::new();
    collect(String::new(), tree, file, &mut tensors);
    let (manifest, metadata, damage) = Default::default();
    TensorFile { kind: Kind::Torch, manifest, metadata, tensors, opaque, damage }
}

fn collect<'b>(at: String, value: Value<'b>, file: usize, found: &mut Vec<NamedTensor<'b>>) {
    let below = |key: &str| if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
    match value {
        _ if found.len() >= MOST => {}
        Value::Tensor(tensor) => {
            let (dtype, shape) = (format!("{:?}", tensor.dtype()), tensor.shape().to_vec());
            let bytes = tensor.elements().saturating_mul(tensor.dtype().bytes());
            // A view may show elements many times over: more than the file has are not counted.
            let integer = Integer::of_torch(tensor.dtype());
            let tensor = (bytes <= file).then_some(tensor);
            found.push(NamedTensor {
                name: at,
                dtype,
                shape,
                bytes,
                codes: None,
                integer,
                tensor,
                data: None,
            });
        }
        Value::Dict(entries) => {
            for (key, value) in entries {
                let key = match key {
                    Key::Int(number) => number.to_string(),
                    other => other.to_string().escape_debug().to_string(),
                };
                collect(below(&key), value, file, found);
            }
        }
        Value::List(items) | Value::Tuple(items) => {
            for (place, item) in items.into_iter().enumerate() {
                collect(below(&place.to_string()), item, file, found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count() {
        let mut names = ["param/10/w", "param/9/w", "param/9/b", "param/9", "step"];
        names.sort_by(|a, b| natural(a).cmp(&natural(b)));
        assert_eq!(names, ["param/9", "param/9/b", "param/9/w", "param/10/w", "step"]);
    }

    #[test]
    fn files_are_what_their_names_say() {
        let kind = |names: &[&str]| kind_of(false, names.iter().copied());
        assert_eq!(kind(&["param/w", "grad/0/w"]), Kind::Trace);
        assert_eq!(kind(&["param/0/w", "param/1/w"]), Kind::Replay);
        assert_eq!(kind(&["param/0/w", "x/1"]), Kind::Safetensors);
        assert_eq!(kind(&[]), Kind::Safetensors);
        assert_eq!(kind_of(true, [].into_iter()), Kind::Checkpoint);
    }
}
