//! libtorch's memory as slices.

#![allow(unsafe_code)] // memory by its address

use core::ops::Range;
use fallline_core::Format;
use fallline_core::host::{Slice, SliceMut, check_raw};
use fallline_cpu::{slice_from_raw_parts, slice_from_raw_parts_mut};
use fallline_optim::Result;
use tch::{Device, Kind, TchError, Tensor};

/// Why a step cannot reach a tensor's elements, to be said after its name.
pub(crate) type Problem = String;

/// Where the elements of a tensor are, one after the other.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Memory {
    address: *mut u8,
    len: usize,
    format: Format,
}

// SAFETY: it is only where something is. Whoever goes there says why nobody else does.
unsafe impl Send for Memory {}

/// Returns whether a tensor has memory and strides. libtorch's functions about them panic on another one.
pub(crate) fn is_dense(tensor: &Tensor) -> bool {
    // Of compressed layouts tch does not tell. They have no contiguous form.
    tensor.defined() && !tensor.is_sparse() && !tensor.is_mkldnn() && tensor.f_contiguous().is_ok()
}

impl Memory {
    /// Returns where a tensor's elements are, without a copy.
    pub(crate) fn of(tensor: &Tensor) -> Result<Memory, Problem> {
        let (plain, memory) = Self::of_copy(tensor)?;
        match plain {
            None => Ok(memory),
            Some(_) if tensor.is_contiguous() => Err("is a view that negates".into()),
            Some(_) => Err("is not contiguous".into()),
        }
    }

    /// Returns where a tensor's elements are, and a contiguous copy that they are in where the tensor itself is not contiguous.
    pub(crate) fn of_copy(tensor: &Tensor) -> Result<(Option<Tensor>, Memory), Problem> {
        if !tensor.defined() {
            return Err("is undefined".into());
        }
        if tensor.is_sparse() || tensor.is_mkldnn() {
            return Err("is not dense".into());
        }
        if tensor.device() != Device::Cpu {
            return Err(format!("is on {:?}, not on the CPU", tensor.device()));
        }
        // What follows the first line is a trace of libtorch's calls.
        let told = |error: TchError| {
            format!("cannot be read: {}", error.to_string().lines().next().unwrap_or_default())
        };
        let format = match tensor.f_kind().map_err(told)? {
            Kind::Double => Format::F64,
            Kind::Float => Format::F32,
            Kind::BFloat16 => Format::Bf16,
            Kind::Half => Format::F16,
            other => return Err(format!("holds {other:?}")),
        };
        let plain = tensor.f_contiguous().map_err(|_| "is not dense")?;
        // A view may negate what is in its memory.
        let plain =
            if plain.f_is_neg().map_err(told)? { plain.f_resolve_neg().map_err(told)? } else { plain };
        let memory = Memory { address: plain.data_ptr().cast(), len: plain.numel(), format };
        check_raw("a tensor", memory.address.addr(), memory.len, format)
            .map_err(|error| format!("cannot be read: {error}"))?;
        Ok(((plain.data_ptr() != tensor.data_ptr()).then_some(plain), memory))
    }

    /// Returns its addresses.
    pub(crate) fn addresses(&self) -> Range<usize> {
        let start = self.address.addr();
        start..start + self.format.size(self.len)
    }

    /// Returns the elements to write.
    ///
    /// # Safety
    /// For `'a` the tensor lives, and nothing else reads or writes its memory.
    pub(crate) unsafe fn slice_mut<'a>(self) -> Result<SliceMut<'a>> {
        // SAFETY: libtorch has allocated and initialized as many elements; the rest is what the caller promises.
        Ok(unsafe { slice_from_raw_parts_mut(self.address, self.len, self.format) }?)
    }

    /// Returns the elements.
    ///
    /// # Safety
    /// For `'a` the tensor lives, and nothing writes its memory.
    pub(crate) unsafe fn slice<'a>(self) -> Result<Slice<'a>> {
        // SAFETY: libtorch has allocated and initialized as many elements; the rest is what the caller promises.
        Ok(unsafe { slice_from_raw_parts(self.address, self.len, self.format) }?)
    }
}
