//! Rules of a configuration that must match a parameter.

use crate::engine::Engine;
use crate::{Error, Result};

/// Rules that must match a parameter of the first step.
#[derive(Default)]
pub(crate) struct Expectations(Vec<Expected>);

struct Expected {
    rule: String,
    matches: Box<dyn Fn(&str) -> bool + Send>,
}

impl Expectations {
    /// Adds a rule.
    pub(crate) fn push(&mut self, rule: &str, matches: Box<dyn Fn(&str) -> bool + Send>) {
        self.0.push(Expected { rule: rule.to_owned(), matches });
    }

    /// Fails where no parameter that is known is matched by a rule that must match one.
    ///
    /// # Errors
    /// [`Error::Unmatched`].
    pub(crate) fn check(&self, engine: &Engine) -> Result<()> {
        let unmatched =
            |expected: &&Expected| !engine.slots.iter().any(|slot| (expected.matches)(&slot.name));
        match self.0.iter().find(unmatched) {
            None => Ok(()),
            Some(Expected { rule, .. }) => Err(Error::Unmatched { rule: rule.clone() }),
        }
    }

    /// They have been met.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}
