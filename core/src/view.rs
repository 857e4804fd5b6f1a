//! Operands of a pass: memory, borrowed for as long as one takes.

use crate::codec::stochastic::Counted;
use crate::host::{Slice, SliceMut};
use crate::{Format, Storage};
use core::marker::PhantomData;

/// How the elements of a [`View`] are broadcast: each run of `inner` stored elements is repeated `repeats` times. Element
/// `e` is the stored element `e / (repeats · inner) · inner + e mod inner`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Broadcast {
    /// Elements of a run, at least one.
    pub inner: usize,
    /// How often it is repeated.
    pub repeats: usize,
}

impl Broadcast {
    /// Returns which stored element an element is.
    pub fn stored(&self, element: usize) -> usize {
        element / (self.repeats * self.inner) * self.inner + element % self.inner
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
    rounding: Option<Counted>,
    cast_copy: Option<(usize, Format)>,
    broadcast: Option<Broadcast>,
    borrow: PhantomData<&'a mut [u8]>,
}

impl<'a> View<'a> {
    /// Returns a backend's memory to read.
    #[inline]
    pub fn read(storage: &'a Storage) -> Self {
        View::of(storage, false)
    }

    /// Returns a backend's memory to write.
    #[inline]
    pub fn write(storage: &'a mut Storage) -> Self {
        View::of(storage, true)
    }

    /// Returns lent memory to write, which its [`LentMut`](crate::LentMut) lends to nobody else meanwhile.
    #[inline]
    pub(crate) fn write_lent(storage: &'a Storage) -> Self {
        View::of(storage, true)
    }

    #[inline]
    fn of(storage: &Storage, writable: bool) -> Self {
        let host = View::of_host(storage.address(), storage.len(), storage.format(), writable);
        View { scales: storage.scales(), on_host: storage.on_host(), ..host }
    }

    /// Makes a view of elements in the host's memory, each once.
    #[inline]
    fn of_host(address: usize, len: usize, format: Format, writable: bool) -> Self {
        View {
            address,
            scales: 0,
            len,
            format,
            on_host: true,
            writable,
            rounding: None,
            cast_copy: None,
            broadcast: None,
            borrow: PhantomData,
        }
    }

    /// Returns the view with stochastic rounding of what is stored as bfloat16, by random bits of this key
    /// ([`codec::stochastic`](crate::codec::stochastic)). A slice of it counts its elements as the whole does.
    pub fn with_stochastic_rounding(self, key: u64) -> Self {
        View { rounding: Some(Counted { key, first: 0 }), ..self }
    }

    /// Returns the view with a cast copy: what is stored is also stored in `copy`, in its format, in the same pass.
    ///
    /// # Panics
    /// When it is not as long, is in a block format, or cannot be written where this can.
    pub fn with_cast_copy(self, copy: View<'a>) -> Self {
        let fits = copy.len == self.len && copy.on_host == self.on_host && copy.writable;
        assert!(fits && copy.format.block().is_none(), "a copy that does not fit");
        View { cast_copy: Some((copy.address, copy.format)), ..self }
    }

    /// Returns the same elements, borrowed for reading.
    pub fn reborrow(&self) -> View<'_> {
        View { writable: false, rounding: None, cast_copy: None, ..*self }
    }

    /// Returns a view to read that broadcasts: each run of `inner` elements is repeated `repeats` times. With the rows'
    /// factors of an m × n matrix, a run of 1 and n times, each element has its row's. With the columns' factors, a
    /// run of n and m times, it has its column's.
    ///
    /// # Panics When there is a part of a run, a run of none, or more than the elements to it: a block format,
    /// stochastic rounding, a copy, another broadcast.
    pub fn broadcast(self, inner: usize, repeats: usize) -> Self {
        let plain = self.rounding.is_none() && self.cast_copy.is_none() && self.broadcast.is_none();
        assert!(plain && self.format.block().is_none(), "a view that cannot be repeated");
        assert!(inner > 0 && self.len.is_multiple_of(inner), "a part of a run");
        let len = self.len.checked_mul(repeats).expect("more elements than can be counted");
        let repeat = (repeats != 1).then_some(Broadcast { inner, repeats });
        View { len, writable: false, broadcast: repeat, ..self }
    }

    /// Returns the slice of `len` elements from `start` on.
    ///
    /// # Panics
    /// When there are not as many, or `start` is not that of a block.
    pub fn slice(self, start: usize, len: usize) -> Self {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "a part beyond the end of a view");
        let block = self.format.block();
        assert!(block.is_none_or(|block| start.is_multiple_of(block)), "a part that begins within a block");
        let scales = self.scales + size_of::<f32>() * self.format.scales(start);
        assert!(self.broadcast.is_none(), "a part of a view whose elements are repeated");
        let copy = self.cast_copy.map(|(address, format)| (address + format.size(start), format));
        let rounding = self.rounding.map(|whole| Counted { first: whole.first + start as u64, ..whole });
        View {
            address: self.address + self.format.size(start),
            scales,
            len,
            cast_copy: copy,
            rounding,
            ..self
        }
    }

    /// Takes `len` elements after the first `skip` out of the view, which from now on begins behind them. So slices
    /// of one view do not overlap.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn take(&mut self, skip: usize, len: usize) -> Self {
        let end = skip.checked_add(len).filter(|&end| end <= self.len);
        let end = end.expect("a part beyond the end of a view");
        let part = View { ..*self }.slice(skip, len);
        *self = View { ..*self }.slice(end, self.len - end);
        part
    }

    /// Splits the view into the elements before `at`, and the others.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn split_at(self, at: usize) -> (Self, Self) {
        let len = self.len;
        (View { ..self }.slice(0, at), self.slice(at, len - at))
    }

    /// Returns the address of the first element: the host's, with exposed provenance, or the device's own.
    #[inline]
    pub fn address(&self) -> usize {
        self.address
    }

    /// Returns the address of the first scale of a block format; of other formats nothing's.
    #[inline]
    pub fn scales(&self) -> usize {
        self.scales
    }

    /// Returns the number of elements.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns how the elements are stored.
    #[inline]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns whose random bits its elements take, where what is stored as bfloat16 is rounded stochastically. The
    /// first one's place is a multiple of four.
    #[inline]
    pub fn rounding(&self) -> Option<Counted> {
        self.rounding.map(Counted::aligned)
    }

    /// Returns the cast copy: where what is stored is also stored, and in which format.
    #[inline]
    pub fn cast_copy(&self) -> Option<(usize, Format)> {
        self.cast_copy
    }

    /// Returns how its elements are broadcast, if they are.
    #[inline]
    pub fn broadcast_of(&self) -> Option<Broadcast> {
        self.broadcast
    }

    /// Returns whether the host can reach it.
    #[inline]
    pub fn on_host(&self) -> bool {
        self.on_host
    }

    /// Returns whether it may be written.
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
