//! What a checkpoint keeps of a loss scale and of the gradient pipeline around it.

use super::LossScaler;
use serde::{Deserialize, Serialize};

/// What a checkpoint keeps of the gradient pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedGradientConfig {
    /// Iterations so far.
    pub(crate) done: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scaler: Option<SavedScaler>,
}

/// What a checkpoint keeps of a loss scale.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedScaler {
    scale: f64,
    steps: u64,
}

impl LossScaler {
    pub(crate) fn save(&self) -> SavedScaler {
        SavedScaler { scale: self.scale, steps: self.steps }
    }

    /// Resumes from a saved one; a fixed scale stays as it is.
    pub(crate) fn load(&mut self, saved: &SavedScaler) -> Result<(), String> {
        LossScaler::fixed(saved.scale).map_err(|problem| format!("its loss scale: {problem}"))?;
        if self.dynamic.is_some() {
            (self.scale, self.steps) = (saved.scale, saved.steps);
        }
        Ok(())
    }
}
