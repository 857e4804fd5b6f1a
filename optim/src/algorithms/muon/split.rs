//! Matrices that are several, one below the other.

use crate::hyper::{HyperType, Value};
use fallline_core::{Error, Result};

/// How the rows of a matrix are cut into blocks that are matrices of their own: a fused projection of queries, keys and
/// values, or the heads of one.
///
/// ```
/// use fallline_optim::algorithms::Muon;
/// use fallline_optim::algorithms::muon::Split;
/// let heads = Muon { split: 12.into(), ..Muon::default() };
/// let grouped = Muon { split: vec![768, 256, 256].into(), ..Muon::default() };
/// assert_eq!(grouped.split, Split::Rows(vec![768, 256, 256]));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// The matrix is one.
    #[default]
    Whole,
    /// So many blocks of equally many rows.
    Equal(u64),
    /// Blocks of so many rows each, from the first row on.
    Rows(Vec<u64>),
}

impl From<u64> for Split {
    fn from(blocks: u64) -> Split {
        Split::Equal(blocks)
    }
}

impl From<Vec<u64>> for Split {
    fn from(rows: Vec<u64>) -> Split {
        Split::Rows(rows)
    }
}

impl Split {
    /// Returns whether the matrix is one.
    pub fn is_whole(&self) -> bool {
        *self == Split::Whole
    }

    /// Checks that a matrix of so many rows can be cut so.
    pub(in crate::algorithms) fn check(&self, rows: usize) -> core::result::Result<(), String> {
        let refused = |what: String| Err(format!("cannot be split: it has {rows} rows, {what}"));
        match self {
            Split::Equal(blocks) if !(rows as u64).is_multiple_of((*blocks).max(1)) => {
                refused(format!("which are not {blocks} blocks"))
            }
            Split::Rows(all) if sum(all) != Some(rows as u64) => {
                refused(format!("and split={} is of others", self.to_value()))
            }
            _ => Ok(()),
        }
    }

    /// Returns the first row of each block, and its rows.
    ///
    /// # Errors
    /// When a matrix of so many rows cannot be cut so, as after a change of the setting.
    pub(in crate::algorithms) fn blocks(
        &self,
        rows: usize,
    ) -> Result<impl Iterator<Item = (usize, usize)> + '_> {
        self.check(rows).map_err(|problem| Error::Unavailable(format!("a matrix {problem}")))?;
        let (count, each): (usize, &[u64]) = match self {
            Split::Whole => (1, &[]),
            Split::Equal(blocks) => (usize::try_from(*blocks).unwrap_or(1).max(1), &[]),
            Split::Rows(all) => (all.len(), all),
        };
        let of = move |block: usize| each.get(block).map_or(rows / count, |&rows| rows as usize);
        Ok((0..count).scan(0, move |next, block| {
            let (start, rows) = (*next, of(block));
            *next += rows;
            Some((start, rows))
        }))
    }
}

/// Returns the sum, if it can be counted.
fn sum(rows: &[u64]) -> Option<u64> {
    rows.iter().try_fold(0u64, |sum, rows| sum.checked_add(*rows))
}

impl HyperType for Split {
    const NAME: &'static str = "positive int, list of positive ints or None";

    fn from_value(value: &Value) -> Option<Self> {
        let positive = |value: &Value| u64::from_value(value).filter(|rows| *rows > 0);
        match value {
            Value::None => Some(Split::Whole),
            Value::List(items) if items.is_empty() => None,
            Value::List(items) => items.iter().map(positive).collect::<Option<_>>().map(Split::Rows),
            _ => positive(value).map(Split::Equal),
        }
    }

    fn to_value(&self) -> Value {
        match self {
            Split::Whole => Value::None,
            Split::Equal(blocks) => blocks.to_value(),
            Split::Rows(rows) => Value::List(rows.iter().map(u64::to_value).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_all_rows_in_order() {
        for (split, rows, expected) in [
            (Split::Whole, 5, vec![(0, 5)]),
            (Split::Equal(1), 5, vec![(0, 5)]),
            (Split::Equal(3), 6, vec![(0, 2), (2, 2), (4, 2)]),
            (Split::Rows(vec![4, 1, 1]), 6, vec![(0, 4), (4, 1), (5, 1)]),
            (Split::Equal(3), 0, vec![(0, 0), (0, 0), (0, 0)]),
        ] {
            let blocks: Vec<_> = split.blocks(rows).unwrap().collect();
            assert_eq!(blocks, expected, "{split:?} of {rows}");
        }
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        for split in [Split::Equal(4), Split::Rows(vec![4, 4]), Split::Rows(vec![u64::MAX, 7])] {
            assert!(split.blocks(6).is_err(), "{split:?}");
        }
    }
}
