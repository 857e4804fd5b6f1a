//! A driver in Rust, one setting after another.

use super::Driver;
use crate::engine::group::ParamInfo;
use crate::gradient_config::{GradientConfig, LossScaler};
use crate::{AnyAlgorithm, Result};

impl Driver {
    /// Clips by the norm of all gradients together: [`GradientConfig::clip_norm`].
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) where the norm is negative or NaN.
    pub fn clip_norm(self, max_norm: f64) -> Result<Driver> {
        self.configured(|config| config.clip_norm(max_norm))
    }

    /// Clips each element of the gradients: [`GradientConfig::clip_value`].
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) where the value is negative or NaN.
    pub fn clip_value(self, clip_value: f64) -> Result<Driver> {
        self.configured(|config| config.clip_value(clip_value))
    }

    /// Accumulates the gradients of so many calls of [`step`](Driver::step): [`GradientConfig::accumulate`].
    /// [`set_iterations`](Driver::set_iterations) closes the last window in time.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) for 0.
    pub fn accumulate(self, steps: u64) -> Result<Driver> {
        self.configured(|config| config.accumulate(steps))
    }

    /// Unscales gradients of a loss that the training loop multiplies by [`loss_scale`](Driver::loss_scale).
    pub fn with_loss_scale(mut self, scaler: LossScaler) -> Driver {
        self.gradients.config.scaler = Some(scaler);
        self
    }

    fn configured(mut self, set: impl FnOnce(GradientConfig) -> Result<GradientConfig>) -> Result<Driver> {
        self.gradients.config = set(core::mem::take(&mut self.gradients.config))?;
        Ok(self)
    }

    /// Adds a group of an algorithm for the parameters that `matches` accepts, as
    /// [`add_group_of`](Driver::add_group_of). It joins the first group of the same algorithm, so that both are one
    /// optimizer; of another algorithm it is a separate one.
    ///
    /// # Errors
    /// As [`add_group_of`](Driver::add_group_of).
    pub fn with_group(
        mut self,
        algorithm: Box<dyn AnyAlgorithm>,
        matches: impl Fn(&ParamInfo<'_>) -> bool + Send + Sync + 'static,
    ) -> Result<Driver> {
        let groups = &self.engine.setup.groups;
        let beside = groups.iter().position(|group| group.algorithm.name() == algorithm.name());
        self.add_group_of(algorithm, matches, beside)?;
        Ok(self)
    }
}
