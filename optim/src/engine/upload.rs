//! What a device that does not reach the host needs copied, and rows of gradients that must be added up.

use crate::params::slots::Slot;
use crate::params::staging;
use crate::{Binding, GradRef, Result};
use fallline_core::host::Slice;
use fallline_core::{Backend, Format};

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

/// Adds up the rows that are named more than once, and lays out whole gradients where the algorithm takes those.
pub(crate) fn coalesce(backend: &dyn Backend, bindings: &[Binding<'_>], slots: &mut [Slot]) -> Result<()> {
    for (binding, slot) in bindings.iter().zip(slots).filter(|(binding, _)| binding.grad.as_rows().is_some())
    {
        let Slot { rows: Some(rows), staging, shape, compute, .. } = slot else { continue };
        rows.coalesce(backend, || staging::given(binding, staging), shape, *compute)?;
    }
    Ok(())
}

fn host_grad<'s>(grad: &'s GradRef<'_>) -> Option<Slice<'s>> {
    match grad {
        GradRef::Host(slice, _) => Some(*slice),
        GradRef::None
        | GradRef::Tensor(_)
        | GradRef::Lent(_)
        | GradRef::Window(_)
        | GradRef::Misshaped(_) => None,
        #[cfg(feature = "ndarray")]
        GradRef::Strided(view) => Some(view.buffer()),
        GradRef::Rows(rows) => host_grad(&rows.values),
    }
}
