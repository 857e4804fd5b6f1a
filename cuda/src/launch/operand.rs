//! An operand's memory, checked, as a kernel takes it.

use crate::ptx::Stored;
use fallline_core::backend::{Broadcast, View};
use fallline_core::{Device, Error, Format, Kernel, Operand, Result};

/// An operand's memory, as a kernel takes it.
pub(super) struct OperandArgs {
    /// The elements' address, and the scales' or the copy's, or how they are repeated.
    pub(super) addresses: [u64; 2],
    pub(super) stored: Stored,
    pub(super) key: u64,
    /// The fours of elements before the first, where it is rounded stochastically.
    pub(super) fours_before: Option<u64>,
}

/// Returns an operand's memory, if it is what the rule needs.
pub(super) fn check(
    device: Device,
    kernel: &Kernel,
    index: usize,
    operand: &Operand,
    view: Option<&View<'_>>,
    elements: usize,
) -> Result<OperandArgs> {
    let what = || format!("operand {} of tensor {index}", operand.name);
    let view = view.filter(|view| !view.on_host() && (view.writable() || !operand.written));
    let Some(view) = view else {
        return Err(Error::Unreachable { operation: kernel.name, what: what(), device });
    };
    if view.len() != elements {
        return Err(length(kernel, &what(), elements, view.len()));
    }
    let format = view.format();
    let rounding = view.rounding().filter(|_| operand.written && format == Format::Bf16);
    let copy = view.cast_copy().filter(|_| operand.written);
    if let (Some((_, copy)), Some(_)) = (copy, format.block()) {
        // Both would take the second address.
        let expected = Format::ALL.map(Format::name).join(", ");
        return Err(Error::Format { operation: kernel.name, what: what(), expected, got: copy });
    }
    let mut second = copy.map_or(view.scales(), |(address, _)| address) as u64;
    let repeat = view.broadcast_of();
    if let Some(Broadcast { inner: run, repeats: times }) = repeat.filter(|_| elements > 0) {
        if u32::try_from(elements).is_err() {
            let problem =
                format!("{}: {} is repeated in {elements} elements, 2^32 or more", kernel.name, what());
            return Err(Error::Unavailable(problem));
        }
        // No more than there are elements.
        second = ((times * run) as u64) << 32 | run as u64;
    }
    Ok(OperandArgs {
        addresses: [view.address() as u64, second],
        stored: Stored {
            format,
            stochastic: rounding.is_some(),
            copy: copy.map(|(_, format)| format),
            repeated: repeat.is_some(),
        },
        key: rounding.map_or(0, |bits| bits.key),
        fours_before: rounding.map(|bits| bits.first / 4),
    })
}

/// Returns where a tensor's remembered numbers are, if they are `needed` ones in double precision at least.
pub(super) fn remembered(
    device: Device,
    kernel: &Kernel,
    view: Option<&View<'_>>,
    needed: usize,
) -> Result<u64> {
    let what = "what is remembered for a tensor";
    let Some(view) = view.filter(|view| !view.on_host() && view.writable()) else {
        return Err(Error::Unreachable { operation: kernel.name, what: what.into(), device });
    };
    if view.len() < needed || view.format() != Format::F64 {
        return Err(length(kernel, what, needed, view.len()));
    }
    Ok(view.address() as u64)
}

/// Returns the error that something has another length.
pub(super) fn length(kernel: &Kernel, what: &str, expected: usize, got: usize) -> Error {
    Error::Length { operation: kernel.name, what: what.into(), expected, got }
}
