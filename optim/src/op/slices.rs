//! Slices: the first of every so many elements.

use fallline_core::backend::{GatherSum, View};
use fallline_core::{Backend, Result, Storage};

/// Where the elements of slices are, kept between steps: a table for each distance, as long as the longest slice needs.
#[derive(Debug, Default)]
pub(crate) struct Slices(Vec<Table>);

#[derive(Debug)]
struct Table {
    every: usize,
    /// 0, every, 2 every, …
    places: Vec<u64>,
    /// 1, 2, 3, …
    ends: Vec<u64>,
}

impl Slices {
    /// Takes the first of every so many elements, as many as there are.
    pub(crate) fn take(
        &mut self,
        backend: &dyn Backend,
        from: View<'_>,
        every: usize,
        to: &mut Storage,
    ) -> Result<()> {
        let count = from.len().div_ceil(every);
        let Table { places, ends, .. } = self.table(every, count);
        backend.indexing().gather_sum(GatherSum {
            from,
            width: 1,
            order: &places[..count],
            ends: &ends[..count],
            to,
        })
    }

    fn table(&mut self, every: usize, count: usize) -> &Table {
        let place = self.0.iter().position(|table| table.every == every).unwrap_or_else(|| {
            self.0.push(Table { every, places: Vec::new(), ends: Vec::new() });
            self.0.len() - 1
        });
        let table = &mut self.0[place];
        let known = table.ends.len();
        table.places.extend((known..count).map(|i| (i * every) as u64));
        table.ends.extend((known..count).map(|i| (i + 1) as u64));
        table
    }
}
