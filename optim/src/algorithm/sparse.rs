//! Row-sparse gradients, as an algorithm takes them.

/// What an algorithm makes of a row-sparse gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sparse {
    /// A gradient with zeros in the other rows.
    Whole,
    /// A step of the rows that it names: the others, of the parameter and of every state, are neither read nor
    /// written. For algorithms all of whose stages are rules, and whose states have the parameter's shape.
    Rows,
}
