//! Rules of a configuration that must match a parameter.

use crate::engine::Engine;
use crate::{Error, Result};

/// Rules that must match a parameter of the first step.
#[derive(Default)]
pub(crate) struct Expectations(Vec<ExpectedMatch>);

struct ExpectedMatch {
    rule: String,
    matches: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

impl Expectations {
    /// Adds a rule.
    pub(crate) fn push(&mut self, rule: &str, matches: Box<dyn Fn(&str) -> bool + Send + Sync>) {
        self.0.push(ExpectedMatch { rule: rule.to_owned(), matches });
    }

    /// Fails where no parameter that is known is matched by a rule that must match one.
    ///
    /// # Errors
    /// [`Error::Unmatched`].
    pub(crate) fn check(&self, engine: &Engine) -> Result<()> {
        let unmatched =
            |expected: &&ExpectedMatch| !engine.slots.iter().any(|slot| (expected.matches)(&slot.name));
        match self.0.iter().find(unmatched) {
            None => Ok(()),
            Some(ExpectedMatch { rule, .. }) => Err(Error::Unmatched { rule: rule.clone() }),
        }
    }

    /// They have been met.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}
