//! Asynchronous copies between a device and the host.

use crate::private::Sealed;
use crate::view::View;
use crate::{Error, Format, Result, Storage};
use core::fmt;

/// Asynchronous copies between a device and the host: a capability that a backend may lack.
pub trait AsyncTransfer: Sealed {
    /// Allocates pinned memory of the host for [`transfer`](AsyncTransfer::transfer), which the device copies at its full
    /// speed.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    fn allocate_pinned(&self, format: Format, len: usize) -> Result<Storage>;

    /// Lets `work` copy to and from the device while the host computes. When this returns the device has all copies in
    /// the order of its other work.
    ///
    /// # Errors
    /// Those of `work` and of the device.
    fn transfer<'s>(&self, work: &mut dyn FnMut(&mut dyn Transfers<'s>) -> Result<()>) -> Result<()>;
}

/// A copy that is under way. It has the memory of the host until it is done; dropping it waits for it.
pub trait AsyncCopy: fmt::Debug + Send {
    /// Waits for the copy and gives the memory back.
    ///
    /// # Errors
    /// When the device fails.
    fn wait(self: Box<Self>) -> Result<Storage>;
}

/// Asynchronous copies in both directions, concurrent as far as the device can, for as long as
/// [`AsyncTransfer::transfer`] takes. Each direction keeps its order. Everything on the device that was queued before
/// comes before them, and everything that is queued afterwards after them.
pub trait Transfers<'s> {
    /// Begins a device-to-host copy: one view after the other to the start of `to`. It has their format and at least
    /// as many elements.
    ///
    /// # Errors
    /// When a view does not fit, is not the device's, or the device fails.
    fn d2h(&mut self, from: Vec<View<'s>>, to: Storage) -> Result<Box<dyn AsyncCopy>>;

    /// Begins to copy to the device: from the start of `from` on, to one view after the other.
    ///
    /// # Errors
    /// As [`fetch`](Transfers::d2h); when a view cannot be written.
    fn h2d(&mut self, from: Storage, to: Vec<View<'s>>) -> Result<Box<dyn AsyncCopy>>;
}

/// Checks that views are stored as memory is that they are to be copied from or to, and that it is large enough. For
/// backends.
///
/// # Errors
/// [`Error::Format`] or [`Error::Length`].
pub fn fit(operation: &'static str, views: &[View<'_>], storage: &Storage, write: bool) -> Result<()> {
    let mut elements = 0;
    for view in views {
        if view.format() != storage.format() || view.format().block().is_some() || (write && !view.writable())
        {
            let (what, expected) = ("a view".to_owned(), format!("{} that fits", storage.format()));
            return Err(Error::Format { operation, what, expected, got: view.format() });
        }
        elements += view.len();
    }
    if elements > storage.len() {
        let (what, got) = ("the memory of the host".to_owned(), storage.len());
        return Err(Error::Length { operation, what, expected: elements, got });
    }
    Ok(())
}
