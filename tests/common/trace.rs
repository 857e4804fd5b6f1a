//! Traces in the format of `fallline replay`: start values, and gradients of each step.

use super::Buffer;
use fallline::optim::{Binding, frozen, param, rows};
use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Parameters by name, with their extents.
pub type Params = BTreeMap<String, (Vec<usize>, Buffer)>;

/// A gradient: the rows' numbers, if it is row-sparse, and the values.
pub type Given = (Option<Vec<i64>>, Buffer);

pub fn buffer(view: &TensorView<'_>) -> Buffer {
    let data = view.data();
    let (bytes2, bytes4, bytes8) =
        (data.as_chunks::<2>().0, data.as_chunks::<4>().0, data.as_chunks::<8>().0);
    match view.dtype() {
        Dtype::F64 => Buffer::F64(bytes8.iter().map(|b| f64::from_le_bytes(*b)).collect()),
        Dtype::F32 => Buffer::F32(bytes4.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        Dtype::BF16 => Buffer::Bf16(bytes2.iter().map(|b| bf16::from_le_bytes(*b)).collect()),
        Dtype::F16 => Buffer::F16(bytes2.iter().map(|b| f16::from_le_bytes(*b)).collect()),
        other => panic!("numbers of type {other:?}"),
    }
}

/// Returns the parameters of a file before its first step, or of a checkpoint.
pub fn starts(trace: &SafeTensors<'_>) -> Params {
    let tensors = trace.tensors().into_iter();
    let params = tensors.filter_map(|(key, view)| {
        let name = key.strip_prefix("param/")?;
        Some((name.to_owned(), (view.shape().to_vec(), buffer(&view))))
    });
    params.collect()
}

/// Returns the gradients of a step.
pub fn grads<'p>(trace: &SafeTensors<'_>, t: usize, params: &'p Params) -> BTreeMap<&'p String, Given> {
    params.keys().filter_map(|name| Some((name, given(trace, t, name)?))).collect()
}

fn given(trace: &SafeTensors<'_>, t: usize, name: &str) -> Option<Given> {
    let key = format!("grad/{t}/{name}");
    if let Ok(dense) = trace.tensor(&key) {
        return Some((None, buffer(&dense)));
    }
    let indices = trace.tensor(&format!("{key}.indices")).ok()?;
    let indices = indices.data().as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
    Some((Some(indices), buffer(&trace.tensor(&format!("{key}.values")).unwrap())))
}

/// Bindings of a step.
pub fn bind<'b>(params: &'b mut Params, grads: &'b BTreeMap<&String, Given>) -> Vec<Binding<'b>> {
    let bound = params.iter_mut().map(|(name, (shape, value))| {
        let grad = match grads.get(name) {
            None => return frozen(name, value.param_from(0)).shaped(shape),
            Some((None, values)) => values.grad_from(0),
            Some((Some(indices), values)) => rows(indices, values.grad_from(0)),
        };
        param(name, value.param_from(0), grad).shaped(shape)
    });
    bound.collect()
}

/// Returns the recorded files of a folder, sorted: those that the list there names, `files.txt`. It is written with
/// them, so that none goes missing without notice.
pub fn recorded(folder: &Path) -> Vec<PathBuf> {
    let list = std::fs::read_to_string(folder.join("files.txt")).unwrap();
    let listed: Vec<PathBuf> = list.lines().map(|name| folder.join(name)).collect();
    let there = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut there: Vec<PathBuf> =
        there.filter(|path| path.extension() == Some("safetensors".as_ref())).collect();
    there.sort();
    assert_eq!(there, listed, "{} and the list in it", folder.display());
    there
}
