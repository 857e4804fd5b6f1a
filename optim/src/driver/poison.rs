//! What keeps an optimizer from going on after a step that failed half-way.

use crate::{Error, Result};

/// Why the optimizer cannot continue, if it cannot.
#[derive(Default)]
pub(crate) struct Poison {
    cause: Option<String>,
    /// Whether an incremental step was begun and not finished.
    pub(crate) unfinished: bool,
}

impl Poison {
    /// Checks that it can continue.
    ///
    /// # Errors
    /// [`Error::Poisoned`].
    pub(crate) fn check(&self) -> Result<()> {
        match &self.cause {
            None => Ok(()),
            Some(cause) => Err(Error::Poisoned { cause: cause.clone() }),
        }
    }

    /// Runs what may write. Where it fails after it said that it has begun to, the optimizer cannot continue.
    ///
    /// # Errors
    /// What went wrong.
    pub(crate) fn guard<T>(&mut self, run: impl FnOnce(&mut bool) -> Result<T>) -> Result<T> {
        let mut begun = false;
        let ran = run(&mut begun);
        if let (Err(cause), true) = (&ran, begun) {
            self.cause = Some(cause.to_string());
        }
        ran
    }

    /// Runs what comes behind the first write.
    ///
    /// # Errors
    /// What went wrong.
    pub(crate) fn guard_written<T>(&mut self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        self.guard(|begun| {
            *begun = true;
            run()
        })
    }
}
