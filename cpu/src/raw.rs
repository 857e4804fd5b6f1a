//! The host's memory by its address, as frameworks hand it over: pointer, length, and a format that is known at run time.

use fallline_core::host::{Slice, SliceMut, check_raw};
use fallline_core::{Format, Result, bf16, f16};

/// Calls a macro with the type of a format that memory has.
macro_rules! by_type {
    ($format:expr, $slice:ident) => {
        match $format {
            Format::F64 => $slice!(f64),
            Format::F32 => $slice!(f32),
            Format::Bf16 => $slice!(bf16),
            Format::F16 => $slice!(f16),
            other => unreachable!("no memory is stored as {other}"),
        }
    };
}

/// Returns `len` elements of a format at an address, to bind as a parameter.
///
/// ```
/// use fallline_cpu::slice_from_raw_parts_mut;
/// use fallline_core::Format;
/// let mut weight = vec![1.0f32; 8];
/// // SAFETY: the vector is borrowed nowhere else while the slice is used.
/// let slice = unsafe { slice_from_raw_parts_mut(weight.as_mut_ptr().cast(), 8, Format::F32) }?;
/// assert_eq!(slice.len(), 8); // a step binds `param("fc.weight", slice, &gradient)`
/// # Ok::<(), fallline_core::Error>(())
/// ```
///
/// # Safety
/// As [`core::slice::from_raw_parts_mut`], but for the alignment, which is checked:
/// - for `'a` the memory is allocated, in one allocation, and all elements are initialized;
/// - for `'a` nothing else reads or writes it.
///
/// # Errors
/// [`Error::Format`](fallline_core::Error::Format) of a block format; [`Error::Unaligned`](fallline_core::Error::Unaligned)
/// where the pointer is null or no multiple of an element's bytes.
pub unsafe fn slice_from_raw_parts_mut<'a>(
    address: *mut u8,
    len: usize,
    format: Format,
) -> Result<SliceMut<'a>> {
    check_raw("a raw slice", address.addr(), len, format)?;
    macro_rules! slice {
        ($t:ty) => {
            SliceMut::from(match len {
                0 => &mut [][..],
                // SAFETY: aligned and not too long, as checked above; the rest is what the caller promises.
                _ => unsafe { core::slice::from_raw_parts_mut(address.cast::<$t>(), len) },
            })
        };
    }
    Ok(by_type!(format, slice))
}

/// Returns `len` elements of a format at an address, to bind as a gradient.
///
/// # Safety
/// As [`core::slice::from_raw_parts`], but for the alignment, which is checked:
/// - for `'a` the memory is allocated, in one allocation, and all elements are initialized;
/// - for `'a` nothing writes it.
///
/// # Errors
/// As [`slice_from_raw_parts_mut`].
pub unsafe fn slice_from_raw_parts<'a>(address: *const u8, len: usize, format: Format) -> Result<Slice<'a>> {
    check_raw("a raw slice", address.addr(), len, format)?;
    macro_rules! slice {
        ($t:ty) => {
            Slice::from(match len {
                0 => &[][..],
                // SAFETY: aligned and not too long, as checked above; the rest is what the caller promises.
                _ => unsafe { core::slice::from_raw_parts(address.cast::<$t>(), len) },
            })
        };
    }
    Ok(by_type!(format, slice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_of_run_time_are_slices_of_their_type() {
        let mut numbers = [bf16::from_f32(1.5); 4];
        let at = numbers.as_mut_ptr().cast();
        // SAFETY: the array is used nowhere else meanwhile.
        let mut slice = unsafe { slice_from_raw_parts_mut(at, 4, Format::Bf16) }.unwrap();
        slice.set(3, -2.0);
        assert_eq!(slice.into_slice::<bf16>().unwrap()[0], bf16::from_f32(1.5));
        // SAFETY: as above.
        let slice = unsafe { slice_from_raw_parts(at, 4, Format::Bf16) }.unwrap();
        assert_eq!((slice.get(0), slice.get(3)), (1.5, -2.0));
        // SAFETY: nothing is read.
        assert!(unsafe { slice_from_raw_parts(core::ptr::null(), 0, Format::F64) }.unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_memory_is_refused() {
        let refused = |address: usize, len, format| {
            let at = core::ptr::without_provenance_mut(address);
            // SAFETY: it is refused before anything is made of it.
            unsafe { slice_from_raw_parts_mut(at, len, format) }.unwrap_err().to_string()
        };
        assert_eq!(
            refused(0x1002, 3, Format::F32),
            "a raw slice: 3 elements of f32 cannot be at address 0x1002"
        );
        assert_eq!(refused(0, 1, Format::F16), "a raw slice: 1 elements of f16 cannot be at address 0x0");
        assert!(refused(8, usize::MAX / 2, Format::F64).contains("cannot be at address 0x8"));
        assert!(refused(8, 8, Format::Fp8).contains("stored as fp8"));
    }
}
