//! Variables on a CUDA device: candle's memory, on candle's stream.

use super::{Lent, Target, range};
use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::{CudaStorage, Layout, Storage};
use fallline_core::LentMut;
use fallline_cuda::Cuda;
use fallline_optim::{Binding, GradRef};

/// Makes a binding of a variable's memory and its gradient's for as long as `with` takes.
pub(super) fn with_binding(
    lent: &Lent<'_>,
    i: usize,
    (storage, layout): (&mut CudaStorage, &Layout),
    gradient: Option<(&Storage, &Layout)>,
    with: impl FnOnce(Binding<'_>),
) -> candle_core::Result<()> {
    let Target::Cuda(cuda) = lent.target else {
        return Err(candle_core::Error::msg("a variable on another device than the optimizer"));
    };
    let (elements, dims) = (range(layout)?, layout.dims());
    macro_rules! lend {
        ($slice:expr) => {{
            let mut view = $slice.slice_mut(elements);
            let memory = cuda.lend_mut(&mut view, dims).map_err(candle_core::Error::wrap)?;
            with_gradient(cuda, (lent, i), memory, gradient, with)
        }};
    }
    match &mut storage.slice {
        CudaStorageSlice::F64(slice) => lend!(slice),
        CudaStorageSlice::F32(slice) => lend!(slice),
        CudaStorageSlice::BF16(slice) => lend!(slice),
        CudaStorageSlice::F16(slice) => lend!(slice),
        _ => Err(candle_core::Error::msg("a variable of integers")),
    }
}

fn with_gradient(
    cuda: &Cuda,
    (lent, i): (&Lent<'_>, usize),
    mut memory: LentMut<'_>,
    gradient: Option<(&Storage, &Layout)>,
    with: impl FnOnce(Binding<'_>),
) -> candle_core::Result<()> {
    let (storage, layout) = match gradient {
        None => {
            with(lent.bind(i, &mut memory, GradRef::None));
            return Ok(());
        }
        Some((Storage::Cuda(storage), layout)) => (storage, layout),
        Some(_) => return Err(candle_core::Error::msg("a gradient on another device")),
    };
    let (elements, dims) = (range(layout)?, layout.dims());
    macro_rules! lend {
        ($slice:expr) => {{
            let view = $slice.slice(elements);
            let gradient = cuda.lend(&view, dims).map_err(candle_core::Error::wrap)?;
            with(lent.bind(i, &mut memory, (&gradient).into()));
        }};
    }
    match &storage.slice {
        CudaStorageSlice::F64(slice) => lend!(slice),
        CudaStorageSlice::F32(slice) => lend!(slice),
        CudaStorageSlice::BF16(slice) => lend!(slice),
        CudaStorageSlice::F16(slice) => lend!(slice),
        _ => return Err(candle_core::Error::msg("a gradient of integers")),
    }
    Ok(())
}
