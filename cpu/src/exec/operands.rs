//! The operands of a pass: addresses of memory that was checked.

use fallline_core::backend::{Repeat, View};
use fallline_core::{Device, Error, Format, Kernel, Operand, Result};

/// An operand's memory, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct OperandPtr {
    pub(super) address: *mut u8,
    /// The first scale of a block format.
    pub(super) scales: *mut f32,
    pub(super) format: Format,
    /// The key of the random bits that round it, and where it is also stored.
    pub(super) rounding_key: Option<u64>,
    pub(super) copy: Option<(*mut u8, Format)>,
    pub(super) repeat: Option<Repeat>,
}

impl OperandPtr {
    pub(super) const NULL: OperandPtr = OperandPtr {
        address: core::ptr::null_mut(),
        scales: core::ptr::null_mut(),
        format: Format::F32,
        rounding_key: None,
        copy: None,
        repeat: None,
    };

    /// Returns where a view's elements are.
    pub(super) fn of(view: &View<'_>) -> OperandPtr {
        let format = view.format();
        let rounding_key = view.noise().filter(|_| format == Format::Bf16);
        let (address, scales) = (view.address(), view.scales());
        let (address, scales) =
            (core::ptr::with_exposed_provenance_mut(address), core::ptr::with_exposed_provenance_mut(scales));
        let copy =
            view.copy().map(|(address, format)| (core::ptr::with_exposed_provenance_mut(address), format));
        OperandPtr { address, scales, format, rounding_key, copy, repeat: view.repeat() }
    }

    /// Whether it is rounded stochastically, also stored elsewhere, or broadcast.
    pub(super) fn is_special(&self) -> bool {
        self.rounding_key.is_some() || self.copy.is_some() || self.repeat.is_some()
    }

    /// Returns the same for reading alone: nothing is rounded, or also stored.
    pub(super) fn read(self) -> OperandPtr {
        OperandPtr { rounding_key: None, copy: None, ..self }
    }

    /// Returns whether `next` begins where the first `elements` of this end.
    pub(super) fn ends_at(&self, elements: usize, next: &OperandPtr) -> bool {
        let format = self.format;
        let codes = next.address.addr().wrapping_sub(self.address.addr()) == format.size(elements);
        let whole = || match format.block() {
            Some(block) => {
                let scales = next.scales.addr().wrapping_sub(self.scales.addr());
                elements.is_multiple_of(block) && scales == size_of::<f32>() * format.scales(elements)
            }
            None => true,
        };
        // What is counted, copied or broadcast stays a separate tensor.
        format == next.format && codes && whole() && !self.is_special() && !next.is_special()
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

/// Returns an operand's address, if its memory is what the rule needs.
pub(super) fn check(
    device: Device,
    kernel: &Kernel,
    index: usize,
    operand: &Operand,
    view: Option<&View<'_>>,
    elements: usize,
) -> Result<OperandPtr> {
    let what = || format!("operand {} of tensor {index}", operand.name);
    let view = view.filter(|view| view.on_host() && (view.writable() || !operand.written));
    let Some(view) = view else {
        return Err(Error::Unreachable { operation: kernel.name, what: what(), device });
    };
    if view.len() != elements {
        let got = view.len();
        return Err(Error::Length { operation: kernel.name, what: what(), expected: elements, got });
    }
    Ok(OperandPtr::of(view))
}
