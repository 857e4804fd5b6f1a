//! Buffers of the host for a device that cannot reach them: copied there for the step, parameters back after it.

use super::row_sparse::Rows;
use super::slots::Slot;
use crate::{Binding, GradRef, Result};
use fallline_core::backend::View;
use fallline_core::host::Slice;
use fallline_core::{Backend, Format, Storage};

/// A parameter's buffers on the device, kept between steps.
#[derive(Debug, Default)]
pub(crate) struct StagingBuffers {
    pub(crate) param: Option<Storage>,
    pub(crate) grad: Option<Storage>,
}

/// Copies what is on the host to the device. The bindings are checked and have their slots.
pub(crate) fn upload(backend: &dyn Backend, bindings: &mut [Binding<'_>], slots: &mut [Slot]) -> Result<()> {
    let mut missing: Vec<(usize, bool, Format, usize)> = Vec::new();
    for (i, (binding, slot)) in bindings.iter_mut().zip(&mut *slots).enumerate() {
        if binding.grad.is_none() {
            continue;
        }
        let staging = slot.staging.get_or_insert_default();
        let (param, grad) = (binding.param.host(), host_grad(&binding.grad));
        let wanted = [param.map(|slice| (slice.format(), slice.len())), grad.map(|s| (s.format(), s.len()))];
        for (is_grad, (wanted, found)) in
            wanted.into_iter().zip([&mut staging.param, &mut staging.grad]).enumerate()
        {
            if found.as_ref().map(|storage| (storage.format(), storage.len())) != wanted {
                *found = None;
                missing.extend(wanted.map(|(format, len)| (i, is_grad == 1, format, len)));
            }
        }
    }
    if !missing.is_empty() {
        let requests: Vec<_> = missing.iter().map(|&(_, _, format, len)| (format, len)).collect();
        for ((i, is_grad, ..), storage) in missing.into_iter().zip(backend.allocate(&requests)?) {
            let staging = slots[i].staging.get_or_insert_default();
            *(if is_grad { &mut staging.grad } else { &mut staging.param }) = Some(storage);
        }
    }
    for (binding, slot) in bindings.iter_mut().zip(slots).filter(|(binding, _)| !binding.grad.is_none()) {
        let Some(staging) = &mut slot.staging else { continue };
        if let (Some(storage), Some(slice)) = (&mut staging.param, binding.param.host()) {
            backend.write(storage, slice.as_ref())?;
        }
        if let (Some(storage), Some(slice)) = (&mut staging.grad, host_grad(&binding.grad)) {
            backend.write(storage, slice)?;
        }
    }
    Ok(())
}

/// Copies the stepped parameters back to the host.
pub(crate) fn download(backend: &dyn Backend, bindings: &mut [Binding<'_>], slots: &[Slot]) -> Result<()> {
    for (binding, slot) in bindings.iter_mut().zip(slots).filter(|(_, slot)| slot.launch.is_some()) {
        let storage = slot.staging.as_ref().and_then(|staging| staging.param.as_ref());
        if let (Some(storage), Some(slice)) = (storage, binding.param.host()) {
            backend.read(storage, slice)?;
        }
    }
    Ok(())
}

/// The views of a parameter and its gradient where the device reaches them.
pub(crate) fn views<'v>(
    binding: &'v mut Binding<'_>,
    staging: &'v mut Option<Box<StagingBuffers>>,
    rows: Option<&'v Rows>,
) -> (Option<View<'v>>, Option<View<'v>>) {
    let (param, grad) = binding.views();
    let (param, grad) = match staging {
        None => (param, grad),
        Some(staging) => {
            let StagingBuffers { param: own_param, grad: own_grad } = &mut **staging;
            (own_param.as_mut().map(View::write).or(param), own_grad.as_ref().map(View::read).or(grad))
        }
    };
    (
        param,
        match rows {
            Some(rows) => rows.grad(grad),
            None => grad,
        },
    )
}

/// The view of a gradient as it was given, where the device reaches it.
pub(crate) fn given<'v>(
    binding: &'v Binding<'_>,
    staging: &'v Option<Box<StagingBuffers>>,
) -> Option<View<'v>> {
    let own = staging.as_ref().and_then(|staging| staging.grad.as_ref());
    own.map(View::read).or_else(|| binding.grad.view())
}

fn host_grad<'s>(grad: &'s GradRef<'_>) -> Option<Slice<'s>> {
    match grad {
        GradRef::Host(slice, _) => Some(*slice),
        GradRef::None | GradRef::Tensor(_) | GradRef::Window(_) => None,
        #[cfg(feature = "ndarray")]
        GradRef::Strided(view) => Some(view.buffer()),
        GradRef::Rows(rows) => host_grad(&rows.values),
    }
}
