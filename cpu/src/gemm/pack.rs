//! Packs factors in panels: a few lanes side by side, one k-group of each after another along the product. So a
//! kernel reads them contiguously.

use super::args::GemmOperand;
use super::microkernel::{MAX_NR, Microkernel};
#[cfg(target_arch = "x86_64")]
use crate::isa::{Isa, multiversion};
use crate::prefetch::prefetch_l2;
use core::mem::MaybeUninit;
use core::ops::Range;

/// Units that a strip packs.
pub(super) const STRIP: usize = 64;

/// Bytes of a lane that are prefetched.
const PREFETCH_BYTES: usize = 512;

/// Units of a panel that are packed in one go.
const RUN: usize = 8;

/// Units of a lane that are packed in one go, where they are packed one by one.
const LINE: usize = 16;

/// A factor and where its panels go.
pub(super) struct Packing<K: Microkernel> {
    pub(super) side: GemmOperand<K::Element>,
    /// Whether it is the left one: its panels may be narrower.
    pub(super) is_left: bool,
    /// The dimension along the product, in elements.
    pub(super) k: usize,
    /// `panels × units × lanes of a panel`, for a multiple of NR lanes.
    pub(super) panels: *mut K::Unit,
}

// SAFETY: every part packs units of its own.
unsafe impl<K: Microkernel> Sync for Packing<K> {}

impl<K: Microkernel> Packing<K> {
    /// Returns the number of units along the product.
    pub(super) fn units(k: usize) -> usize {
        k.div_ceil(K::ELEMENTS)
    }

    /// Returns how many parts it is packed in.
    pub(super) fn parts(&self) -> usize {
        match self.side.lane_stride {
            1 => Self::units(self.k).div_ceil(STRIP),
            _ => self.side.lanes.div_ceil(K::NR),
        }
    }

    /// Packs one part.
    ///
    /// # Safety
    /// The factor and the panels are there, the latter borrowed by nobody else; the machine has what the kernel needs.
    pub(super) unsafe fn pack(&self, part: usize) {
        // SAFETY: the caller's.
        unsafe {
            match K::ISA {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => avx512(self, part),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2(self, part),
                _ => self.pack_part(part),
            }
        }
    }

    /// # Safety
    /// As for [`pack`](Self::pack).
    #[inline(always)]
    unsafe fn pack_part(&self, part: usize) {
        // SAFETY: the caller's.
        unsafe {
            match self.side.lane_stride {
                1 => {
                    let end = Self::units(self.k).min((part + 1) * STRIP);
                    let units = part * STRIP..end;
                    if self.is_left {
                        self.pack_contiguous::<true>(units)
                    } else {
                        self.pack_contiguous::<false>(units)
                    }
                }
                _ if self.is_left => self.pack_strided::<true>(part),
                _ => self.pack_strided::<false>(part),
            }
        }
    }

    /// Returns element `step` of a lane; zero beyond the factor's end.
    ///
    /// # Safety
    /// As for [`pack`](Self::pack).
    #[inline(always)]
    unsafe fn element(&self, lane: usize, step: usize) -> K::Element {
        if lane >= self.side.lanes || step >= self.k {
            return K::Element::default();
        }
        // SAFETY: within the factor.
        unsafe { *self.side.base.add(lane * self.side.lane_stride + step * self.side.step_stride) }
    }

    /// # Safety
    /// As for [`pack`](Self::pack).
    #[inline(always)]
    unsafe fn unit(&self, lane: usize, unit: usize) -> K::Unit {
        let step = unit * K::ELEMENTS;
        // SAFETY: the caller's.
        unsafe { K::join(self.element(lane, step), self.element(lane, step + K::ELEMENTS - 1)) }
    }

    /// Packs some units of all lanes, where lanes are side by side: pages and cache lines of the factor are met once.
    ///
    /// # Safety
    /// As for [`pack`](Self::pack).
    #[inline(always)]
    unsafe fn pack_contiguous<const LEFT: bool>(&self, units: Range<usize>) {
        let (total, panel) = (Self::units(self.k), if LEFT { K::LEFT } else { K::NR });
        let lanes = if LEFT { self.side.lanes.next_multiple_of(K::NR) } else { self.side.lanes };
        for start in units.clone().step_by(RUN) {
            for first in (0..lanes).step_by(panel) {
                for unit in start..units.end.min(start + RUN) {
                    let step = unit * K::ELEMENTS;
                    // SAFETY: within the panels; the elements that are read by address are within the factor.
                    unsafe {
                        let line = self.panels.add(first * total + unit * panel);
                        if first + panel > self.side.lanes || step + K::ELEMENTS > self.k {
                            (0..panel).for_each(|w| *line.add(w) = self.unit(first + w, unit));
                            continue;
                        }
                        let low = self.side.base.add(first + step * self.side.step_stride);
                        let high = low.add((K::ELEMENTS - 1) * self.side.step_stride);
                        // By way of registers: the compiler cannot know that the factor is not written to.
                        let mut joined = [const { MaybeUninit::uninit() }; MAX_NR];
                        for (w, unit) in joined[..panel].iter_mut().enumerate() {
                            unit.write(K::join(*low.add(w), *high.add(w)));
                        }
                        core::ptr::copy_nonoverlapping(joined.as_ptr().cast(), line, panel);
                    }
                }
            }
        }
    }

    /// Packs all units of NR lanes, where what follows each other in memory is along the product.
    ///
    /// # Safety
    /// As for [`pack`](Self::pack).
    #[inline(always)]
    unsafe fn pack_strided<const LEFT: bool>(&self, panel: usize) {
        let (total, lanes) = (Self::units(self.k), if LEFT { K::LEFT } else { K::NR });
        let first = panel * K::NR;
        // Squares of lanes and units in registers, or some lanes one by one. Of a lane a whole cache line, before the next
        // lanes' lines may take its place.
        let width = if K::SQUARE > 0 { K::SQUARE } else { K::MR };
        for start in (0..total).step_by(LINE) {
            let end = total.min(start + LINE);
            for lane in (first..first + K::NR).step_by(width) {
                let whole = lane + width <= self.side.lanes && (start + LINE) * K::ELEMENTS <= self.k;
                // SAFETY: within the panels; whole squares are within the factor.
                unsafe {
                    let to = self.panels.add(lane / lanes * lanes * total + start * lanes + lane % lanes);
                    if K::SQUARE > 0 && whole {
                        let stride = self.side.lane_stride;
                        let from = self.side.base.add(lane * stride + start * K::ELEMENTS).cast::<u8>();
                        let stride = stride * size_of::<K::Element>();
                        // Rows lie far apart, which the CPU does not prefetch across.
                        for row in 0..width {
                            prefetch_l2(from.wrapping_add(row * stride + PREFETCH_BYTES));
                        }
                        for unit in (0..LINE).step_by(K::SQUARE.max(1)) {
                            let from = from.add(unit * size_of::<K::Unit>());
                            K::transpose(from, stride, to.add(unit * lanes), lanes);
                        }
                        continue;
                    }
                    for (u, w) in (start..end).flat_map(|u| (0..width).map(move |w| (u, w))) {
                        *to.add((u - start) * lanes + w) = self.unit(lane + w, u);
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
multiversion! { Packing::pack_part[K: Microkernel](packing: &Packing<K>, part: usize) }
