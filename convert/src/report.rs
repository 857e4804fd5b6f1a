//! What a conversion did.

use core::fmt;

/// What a conversion did.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// How many parameters have a state.
    pub parameters: usize,
    /// How many tensors of state were imported.
    pub states: usize,
    /// How many of them were codes, and are numbers now.
    pub decoded: usize,
    /// How many parameters' values were imported.
    pub weights: usize,
    /// What else the file has, or what the other side does not keep: paths to it.
    pub left_out: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        write!(f, "{} parameter{} with state", self.parameters, plural(self.parameters))?;
        write!(f, ", {} tensor{} of state", self.states, plural(self.states))?;
        if self.decoded > 0 {
            write!(f, " ({} decoded from codes)", self.decoded)?;
        }
        write!(f, ", {} parameter value{}", self.weights, plural(self.weights))?;
        if !self.left_out.is_empty() {
            write!(f, "; left out: {}", self.left_out.join(", "))?;
        }
        Ok(())
    }
}
