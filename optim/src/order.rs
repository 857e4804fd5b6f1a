//! Sorts, each compiled once. One that is compiled for each closure and type is some kilobytes of code every time.

use core::cmp::Ordering;

/// Sorts places by an order of what stands there.
pub(crate) fn sort_places(places: &mut [usize], order: &mut dyn FnMut(usize, usize) -> Ordering) {
    places.sort_unstable_by(|&one, &other| order(one, other));
}

/// Sorts names.
pub(crate) fn sort_names(names: &mut [&str]) {
    names.sort_unstable();
}
