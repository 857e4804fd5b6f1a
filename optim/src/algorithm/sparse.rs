//! Row-sparse gradients, as an algorithm takes them.

/// What an algorithm makes of row-sparse gradients ([`rows`](crate::rows)), and whether it takes others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sparse {
    /// It does not take them.
    Refused,
    /// It does not take them, and says why: a clause that follows the algorithm's name.
    RefusedFor(&'static str),
    /// A gradient with zeros in the other rows.
    AsDense,
    /// A step of the rows that it names: the others, of the parameter and of every state, are neither read nor
    /// written. For algorithms all of whose stages are rules, and whose states have the parameter's shape.
    Rows,
    /// The same, and it takes no dense gradients.
    RowsOnly,
}

impl Sparse {
    /// Returns whether a step is one of the named rows alone.
    pub(crate) fn is_row_wise(self) -> bool {
        matches!(self, Sparse::Rows | Sparse::RowsOnly)
    }
}
