//! What a conversion did.

use crate::value::Opaque;
use core::fmt;
use std::collections::BTreeMap;

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
    /// How many of them have a wider type now, by the types: `bf16 to f32`.
    pub widened: BTreeMap<String, usize>,
    /// How many parameters' values were imported.
    pub weights: usize,
    /// How many tensors a file has that was copied as it is, without a look for an optimizer's state.
    pub copied: Option<usize>,
    /// What else the file has, or what the other side does not keep: paths to it.
    pub left_out: Vec<String>,
    /// What in the file was never built.
    pub opaque: Vec<Opaque>,
    /// What is likely not meant, in separate sentences.
    pub warnings: Vec<String>,
}

impl Report {
    /// Adds what was done for a part.
    pub(crate) fn add(&mut self, part: Report) {
        self.parameters += part.parameters;
        self.states += part.states;
        self.decoded += part.decoded;
        self.weights += part.weights;
        for (types, count) in part.widened {
            *self.widened.entry(types).or_default() += count;
        }
        self.left_out.extend(part.left_out);
        self.opaque.extend(part.opaque);
        self.warnings.extend(part.warnings);
    }

    fn write_counts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} parameter{} with state", self.parameters, plural(self.parameters))?;
        write!(f, ", {} tensor{} of state", self.states, plural(self.states))?;
        if self.decoded > 0 {
            write!(f, " ({} decoded from codes)", self.decoded)?;
        }
        for (types, count) in &self.widened {
            write!(f, " ({count} widened, {types})")?;
        }
        write!(f, ", {} parameter value{}", self.weights, plural(self.weights))
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// How many ways are told of those that were never built: a message hub has many.
        const TOLD: usize = 6;
        if let Some(copied) = self.copied {
            write!(f, "{copied} tensor{}, copied without being read as a checkpoint", plural(copied))?;
        } else {
            self.write_counts(f)?;
        }
        if !self.left_out.is_empty() {
            write!(f, "; left out: {}", self.left_out.join(", "))?;
        }
        if !self.opaque.is_empty() {
            let told =
                self.opaque.iter().take(TOLD).map(|opaque| format!("{} ({})", opaque.at, opaque.class));
            write!(f, "; not built: {}", told.collect::<Vec<_>>().join(", "))?;
            if self.opaque.len() > TOLD {
                write!(f, " and {} more", self.opaque.len() - TOLD)?;
            }
        }
        Ok(())
    }
}
