//! The constants of a pass, packed in the compute type.

use super::table::Table;
use crate::kernels::ComputeType;
use fallline_core::{Error, Kernel, Result};

/// The constants of a pass: sets that tensors share, and a set for each tensor of its own.
pub(super) struct Constants<'a> {
    pub(super) shared: &'a [f64],
    pub(super) own: &'a [f64],
}

impl Constants<'_> {
    /// How many sets tensors share.
    pub(super) fn count(&self, kernel: &Kernel) -> usize {
        self.shared.len() / (1 + kernel.scalars.len())
    }

    /// What a tensor's row is that there is none of.
    #[cold]
    pub(super) fn lacks(&self, kernel: &Kernel, row: usize) -> Error {
        let shared = 1 + kernel.scalars.len();
        wrong(kernel, "the table of scalars", (row + 1) * shared, self.shared.len())
    }
}

fn wrong(kernel: &Kernel, what: &str, expected: usize, got: usize) -> Error {
    Error::Length { operation: kernel.name, what: what.into(), expected, got }
}

/// Packs the constants in the compute type: the pass's own sets, or, where tensors have constants of
/// their own, one set for each tensor.
pub(super) fn pack_constants<T: ComputeType>(
    kernel: &Kernel,
    scalars: &Constants<'_>,
    table: &mut Table,
    rows: &mut Vec<T>,
) -> Result<()> {
    let shared = 1 + kernel.scalars.len();
    let own = kernel.tensor_scalars.len();
    let count = scalars.count(kernel);
    if count * shared != scalars.shared.len() {
        return Err(wrong(kernel, "the table of scalars", (count + 1) * shared, scalars.shared.len()));
    }
    if let Some(&(_, row)) = table.tensors.iter().find(|(_, row)| *row >= count) {
        return Err(scalars.lacks(kernel, row));
    }
    let expected = table.tensors.len() * own;
    if scalars.own.len() != expected {
        return Err(wrong(kernel, "the tensors' own scalars", expected, scalars.own.len()));
    }
    rows.clear();
    if own == 0 {
        rows.extend(scalars.shared.iter().map(|&x| T::from_f64(x)));
        return Ok(());
    }
    for (index, tensor) in table.tensors.iter_mut().enumerate() {
        rows.extend(scalars.shared[tensor.1 * shared..][..shared].iter().map(|&x| T::from_f64(x)));
        rows.extend(scalars.own[index * own..][..own].iter().map(|&x| T::from_f64(x)));
        tensor.1 = index;
    }
    Ok(())
}
