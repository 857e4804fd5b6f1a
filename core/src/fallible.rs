//! Memory of the host whose size a file, a checkpoint or an argument says: it is given, or refused with an error that
//! says how much was asked for and for what. Neither a panic nor an abort ends the program.

use crate::{Error, Result};
use bytemuck::Zeroable;
use core::fmt::Display;

/// Returns so many zeros. Like `vec![0; len]`, it touches no page before it is used.
///
/// ```
/// use fallline_core::fallible;
/// assert_eq!(fallible::zeroed::<f32>(2, "a vector")?, [0.0; 2]);
/// let error = fallible::zeroed::<f32>(1 << 60, "a vector").unwrap_err();
/// assert_eq!(error.to_string(), "no memory for a vector, which takes 4611686018427387904 bytes");
/// # Ok::<(), fallline_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::NoMemory`].
pub fn zeroed<T: Zeroable>(len: usize, what: impl Display) -> Result<Vec<T>> {
    bytemuck::allocation::try_zeroed_vec(len).map_err(|()| refused::<T>(len, &what))
}

/// Returns so many copies of a value.
///
/// # Errors
/// [`Error::NoMemory`].
pub fn filled<T: Copy>(value: T, len: usize, what: impl Display) -> Result<Vec<T>> {
    let mut values = with_room(len, what)?;
    values.resize(len, value);
    Ok(values)
}

/// Returns a copy of a slice.
///
/// # Errors
/// [`Error::NoMemory`].
pub fn copied<T: Copy>(values: &[T], what: impl Display) -> Result<Vec<T>> {
    let mut copy = with_room(values.len(), what)?;
    copy.extend_from_slice(values);
    Ok(copy)
}

/// Returns what an iterator with a known length gives.
///
/// # Errors
/// [`Error::NoMemory`].
pub fn collected<T>(values: impl ExactSizeIterator<Item = T>, what: impl Display) -> Result<Vec<T>> {
    let mut all = with_room(values.len(), what)?;
    all.extend(values);
    Ok(all)
}

/// Returns an empty vector with room for so many values.
///
/// # Errors
/// [`Error::NoMemory`].
pub fn with_room<T>(len: usize, what: impl Display) -> Result<Vec<T>> {
    let mut values = Vec::new();
    reserve(&mut values, len, what)?;
    Ok(values)
}

/// Makes room for so many more values.
///
/// # Errors
/// [`Error::NoMemory`]; the values stay.
pub fn reserve<T>(values: &mut Vec<T>, more: usize, what: impl Display) -> Result<()> {
    values.try_reserve_exact(more).map_err(|_| refused::<T>(more, &what))
}

/// Checks that so many bytes can be had at once, for work that takes them in several pieces. `None` stands for more
/// than can be counted.
///
/// # Errors
/// [`Error::NoMemory`].
pub fn check(bytes: Option<usize>, what: impl Display) -> Result<()> {
    with_room::<u8>(bytes.unwrap_or(usize::MAX), what).map(drop)
}

fn refused<T>(len: usize, what: &dyn Display) -> Error {
    Error::NoMemory { what: what.to_string(), bytes: len.saturating_mul(size_of::<T>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_given() {
        assert_eq!(zeroed::<f64>(3, "it").unwrap(), [0.0; 3]);
        assert_eq!(filled(1.5f32, 2, "it").unwrap(), [1.5; 2]);
        assert_eq!(copied(&[1u8, 2], "it").unwrap(), [1, 2]);
        assert_eq!(collected([1, 2].into_iter(), "it").unwrap(), [1, 2]);
        assert_eq!(with_room::<u64>(5, "it").unwrap().capacity(), 5);
        assert!(check(Some(8), "it").is_ok());
    }

    #[test]
    fn what_does_not_is_refused_with_its_bytes() {
        let told = |error: Error| error.to_string();
        let all = "no memory for it, which takes 18446744073709551615 bytes";
        assert_eq!(told(zeroed::<f64>(usize::MAX / 2, "it").unwrap_err()), all);
        assert_eq!(told(filled(0u8, usize::MAX, "it").unwrap_err()), all);
        assert_eq!(told(check(None, "it").unwrap_err()), all);
        let some = "no memory for it, which takes 9223372036854775808 bytes";
        assert_eq!(told(check(Some(1 << 63), "it").unwrap_err()), some);
    }
}
