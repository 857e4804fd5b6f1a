//! Tensors of a checkpoint's entries and of numbers.

use crate::tensor::{Dtype, Tensor};
use crate::{Error, Result};
use fallline_core::{Format, Shape, fallible};
use fallline_optim::checkpoint::Entry;

/// Returns a checkpoint's entry as a tensor, of another shape with the same elements.
pub(super) fn tensor(entry: &Entry, shape: Option<Vec<usize>>) -> Result<Tensor<'static>> {
    let coded = || Error::value("the checkpoint", format!("states of {} are not written yet", entry.format));
    let dtype = Dtype::of(entry.format).ok_or_else(coded)?;
    let shape = shape.unwrap_or_else(|| entry.shape.dims().to_vec());
    let bytes = fallible::copied(&entry.bytes, "a tensor of the checkpoint")?;
    Tensor::new(dtype, shape, bytes).map_err(|problem| Error::value("the checkpoint", problem))
}

/// Returns numbers in `f64`, or rounded to `f32`.
pub(super) fn rounded(shape: Shape, numbers: &[f64], format: Format) -> Result<Entry> {
    let entry = match format {
        Format::F64 => Entry::from_slice(shape, numbers.into()),
        _ => {
            let single =
                fallible::collected(numbers.iter().map(|&x| x as f32), "a tensor of the checkpoint")?;
            Entry::from_slice(shape, single.as_slice().into())
        }
    };
    entry.map_err(Error::memory)
}

/// Returns a tensor of one number.
pub(super) fn scalar(x: f32, shape: &[usize]) -> Tensor<'static> {
    match Tensor::new(Dtype::Float32, shape.to_vec(), x.to_le_bytes().to_vec()) {
        Ok(tensor) => tensor,
        Err(problem) => unreachable!("four bytes are one element: {problem}"),
    }
}
