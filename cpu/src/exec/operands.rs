//! The operands of a pass: addresses of memory that was checked.

use fallline_core::backend::{Broadcast, View};
use fallline_core::codec::stochastic::Counted;
use fallline_core::{Device, Error, Format, Kernel, Operand, Result};

/// An operand's memory, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct OperandPtr {
    pub(super) address: *mut u8,
    /// The first scale of a block format.
    pub(super) scales: *mut f32,
    pub(super) format: Format,
    /// The random bits that round it, and where it is also stored.
    pub(super) rounding: Option<Counted>,
    pub(super) copy: Option<(*mut u8, Format)>,
    pub(super) repeat: Option<Broadcast>,
}

impl OperandPtr {
    pub(super) const NULL: OperandPtr = OperandPtr {
        address: core::ptr::null_mut(),
        scales: core::ptr::null_mut(),
        format: Format::F32,
        rounding: None,
        copy: None,
        repeat: None,
    };

    /// Returns where a view's elements are.
    #[inline]
    pub(super) fn of(view: &View<'_>) -> OperandPtr {
        let format = view.format();
        OperandPtr {
            address: core::ptr::with_exposed_provenance_mut(view.address()),
            scales: core::ptr::with_exposed_provenance_mut(view.scales()),
            format,
            rounding: view.rounding().filter(|_| format == Format::Bf16),
            copy: view
                .cast_copy()
                .map(|(address, format)| (core::ptr::with_exposed_provenance_mut(address), format)),
            repeat: view.broadcast_of(),
        }
    }

    /// Returns whether it is rounded stochastically, also stored elsewhere, or broadcast.
    pub(super) fn is_special(&self) -> bool {
        self.rounding.is_some() || self.copy.is_some() || self.repeat.is_some()
    }

    /// Returns the same for reading alone: nothing is rounded, or also stored.
    pub(super) fn read(self) -> OperandPtr {
        OperandPtr { rounding: None, copy: None, ..self }
    }

    /// Returns whether a view begins where the first `elements` of this end. (It is read in place: to copy what
    /// was just written costs more than all of this.)
    #[inline]
    pub(super) fn goes_on(&self, elements: usize, view: &View<'_>) -> bool {
        let format = self.format;
        let codes = view.address().wrapping_sub(self.address.addr()) == format.size(elements);
        let whole = || match format.block() {
            Some(block) => {
                let scales = view.scales().wrapping_sub(self.scales.addr());
                elements.is_multiple_of(block) && scales == size_of::<f32>() * format.scales(elements)
            }
            None => true,
        };
        // What is counted, copied or broadcast stays a tensor of its own.
        let noise = view.rounding().is_some() && format == Format::Bf16;
        let special = noise || view.cast_copy().is_some() || view.broadcast_of().is_some();
        format == view.format() && codes && whole() && !special && !self.is_special()
    }

    /// Returns the addresses of element `start`, which is the first of a block, and of its scale.
    ///
    /// # Safety
    /// There are so many elements.
    pub(super) unsafe fn at(&self, start: usize) -> (*mut u8, *mut f32) {
        let scales = match self.format.block() {
            // SAFETY: the caller's contract.
            Some(block) => unsafe { self.scales.add(start / block) },
            None => self.scales,
        };
        // SAFETY: the caller's contract.
        (unsafe { self.address.add(self.format.size(start)) }, scales)
    }
}

/// Checks that an operand's memory is what the rule needs.
#[inline]
pub(super) fn check(
    device: Device,
    kernel: &Kernel,
    index: usize,
    operand: &Operand,
    view: Option<&View<'_>>,
    elements: usize,
) -> Result<()> {
    match view {
        Some(view) if view.on_host() && (view.writable() || !operand.written) && view.len() == elements => {
            Ok(())
        }
        view => Err(misfit(device, kernel, index, operand, view, elements)),
    }
}

/// Returns what is wrong with an operand.
#[cold]
fn misfit(
    device: Device,
    kernel: &Kernel,
    index: usize,
    operand: &Operand,
    view: Option<&View<'_>>,
    elements: usize,
) -> Error {
    let what = format!("operand {} of tensor {index}", operand.name);
    match view.filter(|view| view.on_host() && (view.writable() || !operand.written)) {
        None => Error::Unreachable { operation: kernel.name, what, device },
        Some(view) => Error::Length { operation: kernel.name, what, expected: elements, got: view.len() },
    }
}
