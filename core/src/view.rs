//! Operands of a pass: memory, borrowed for as long as one takes.

use crate::host::{Slice, SliceMut};
use crate::{Format, Storage};
use core::marker::PhantomData;

/// How the elements of a [`View`] are broadcast: each run of `run` stored elements is repeated `times` times. Element
/// `e` is the stored element `e / (times · run) · run + e mod run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Repeat {
    /// Elements of a run, at least one.
    pub run: usize,
    /// How often it is repeated.
    pub times: usize,
}

impl Repeat {
    /// Returns which stored element an element is.
    pub fn stored(&self, element: usize) -> usize {
        element / (self.times * self.run) * self.run + element % self.run
    }
}

/// An operand's memory, borrowed for the length of a pass: where its elements are, how many, and how they are
/// stored. Small, since a step hands over some for each of its tensors.
#[derive(Debug)]
pub struct View<'a> {
    address: usize,
    scales: usize,
    len: usize,
    format: Format,
    on_host: bool,
    writable: bool,
    noise: Option<u64>,
    copy: Option<(usize, Format)>,
    repeat: Option<Repeat>,
    borrow: PhantomData<&'a mut [u8]>,
}

impl<'a> View<'a> {
    /// A backend's memory to read.
    #[inline]
    pub fn read(storage: &'a Storage) -> Self {
        View::of(storage, false)
    }

    /// A backend's memory to write.
    #[inline]
    pub fn write(storage: &'a mut Storage) -> Self {
        View::of(storage, true)
    }

    #[inline]
    fn of(storage: &Storage, writable: bool) -> Self {
        let host = View::of_host(storage.address(), storage.len(), storage.format(), writable);
        View { scales: storage.scales(), on_host: storage.on_host(), ..host }
    }

    /// Elements of the host's memory, each once.
    #[inline]
    fn of_host(address: usize, len: usize, format: Format, writable: bool) -> Self {
        View {
            address,
            scales: 0,
            len,
            format,
            on_host: true,
            writable,
            noise: None,
            copy: None,
            repeat: None,
            borrow: PhantomData,
        }
    }

    /// Returns the view with stochastic rounding of what is stored as bfloat16, by random bits of this key
    /// ([`codec::stochastic`](crate::codec::stochastic)).
    pub fn with_noise(self, key: u64) -> Self {
        View { noise: Some(key), ..self }
    }

    /// Returns the view with a cast copy: what is stored is also stored in `copy`, in its format, in the same pass.
    ///
    /// # Panics
    /// When it is not as long, is in a block format, or cannot be written where this can.
    pub fn with_copy(self, copy: View<'a>) -> Self {
        let fits = copy.len == self.len && copy.on_host == self.on_host && copy.writable;
        assert!(fits && copy.format.block().is_none(), "a copy that does not fit");
        View { copy: Some((copy.address, copy.format)), ..self }
    }

    /// Returns the same elements, borrowed for reading.
    pub fn again(&self) -> View<'_> {
        View { writable: false, noise: None, copy: None, ..*self }
    }

    /// Returns a view to read that broadcasts: each run of `run` elements is repeated `times` times. With the rows'
    /// factors of an m × n matrix, a run of 1 and n times, each element has its row's. With the columns' factors, a
    /// run of n and m times, it has its column's.
    ///
    /// # Panics When there is a part of a run, a run of none, or more than the elements to it: a block format,
    /// stochastic rounding, a copy, another broadcast.
    pub fn repeated(self, run: usize, times: usize) -> Self {
        let plain = self.noise.is_none() && self.copy.is_none() && self.repeat.is_none();
        assert!(plain && self.format.block().is_none(), "a view that cannot be repeated");
        assert!(run > 0 && self.len.is_multiple_of(run), "a part of a run");
        let len = self.len.checked_mul(times).expect("more elements than can be counted");
        let repeat = (times != 1).then_some(Repeat { run, times });
        View { len, writable: false, repeat, ..self }
    }

    /// Returns the slice of `len` elements from `start` on.
    ///
    /// # Panics
    /// When there are not as many, or `start` is not that of a block.
    pub fn part(self, start: usize, len: usize) -> Self {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "a part beyond the end of a view");
        let block = self.format.block();
        assert!(block.is_none_or(|block| start.is_multiple_of(block)), "a part that begins within a block");
        let scales = self.scales + size_of::<f32>() * self.format.scales(start);
        assert!(self.noise.is_none(), "a part of a view whose elements are counted");
        assert!(self.repeat.is_none(), "a part of a view whose elements are repeated");
        let copy = self.copy.map(|(address, format)| (address + format.size(start), format));
        View { address: self.address + self.format.size(start), scales, len, copy, ..self }
    }

    /// Takes `len` elements after the first `skip` out of the view, which from now on begins behind them. So slices
    /// of one view do not overlap.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn take(&mut self, skip: usize, len: usize) -> Self {
        let end = skip.checked_add(len).filter(|&end| end <= self.len);
        let end = end.expect("a part beyond the end of a view");
        let part = View { ..*self }.part(skip, len);
        *self = View { ..*self }.part(end, self.len - end);
        part
    }

    /// Splits the view into the elements before `at`, and the others.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn split(self, at: usize) -> (Self, Self) {
        let len = self.len;
        (View { ..self }.part(0, at), self.part(at, len - at))
    }

    /// The address of the first element: the host's, with exposed provenance, or the device's own.
    #[inline]
    pub fn address(&self) -> usize {
        self.address
    }

    /// The address of the first scale of a block format; of other formats nothing's.
    #[inline]
    pub fn scales(&self) -> usize {
        self.scales
    }

    /// The number of elements.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How the elements are stored.
    #[inline]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns the key of the random bits, where what is stored as bfloat16 is rounded stochastically.
    #[inline]
    pub fn noise(&self) -> Option<u64> {
        self.noise
    }

    /// Returns the cast copy: where what is stored is also stored, and in which format.
    #[inline]
    pub fn copy(&self) -> Option<(usize, Format)> {
        self.copy
    }

    /// Returns how its elements are broadcast, if they are.
    #[inline]
    pub fn repeat(&self) -> Option<Repeat> {
        self.repeat
    }

    /// Whether the host can reach it.
    #[inline]
    pub fn on_host(&self) -> bool {
        self.on_host
    }

    /// Whether it may be written.
    #[inline]
    pub fn writable(&self) -> bool {
        self.writable
    }
}

impl<'a> From<Slice<'a>> for View<'a> {
    #[inline]
    fn from(slice: Slice<'a>) -> Self {
        View::of_host(slice.address().expose_provenance(), slice.len(), slice.format(), false)
    }
}

impl<'a> From<SliceMut<'a>> for View<'a> {
    #[inline]
    fn from(mut slice: SliceMut<'a>) -> Self {
        View::of_host(slice.address().expose_provenance(), slice.len(), slice.format(), true)
    }
}
