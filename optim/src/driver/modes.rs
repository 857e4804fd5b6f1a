//! Weights of training and of evaluation: an algorithm's own, and averages.

use super::Driver;
use crate::weight_averaging::WeightAveraging;
use crate::{Binding, Error, Mode, Result};

impl Driver {
    /// Returns which weights the parameters hold.
    pub fn mode(&self) -> Mode {
        self.engine.mode
    }

    /// Switches the bound parameters to the weights of another mode, where the algorithm evaluates others than it
    /// trains (`AdamWScheduleFree`). Otherwise, and where they hold them already, nothing is changed. All parameters
    /// that have been stepped must be bound, with or without gradients. A step in evaluation mode is an error. A
    /// checkpoint says in which mode it was saved, and the optimizer that loads it resumes in that one. A round trip
    /// is not bitwise exact: [`weights_of`](Driver::weights_of) leaves the weights that are trained alone.
    ///
    /// # Errors
    /// [`Error::Groups`] where a parameter is not bound, and for an offloaded optimizer. Another error when a
    /// binding has another shape or type, or the device or another rank fails.
    pub fn set_mode(&mut self, mode: Mode, params: &mut [Binding<'_>]) -> Result<()> {
        self.switch(mode, params, true)?;
        if self.has_modes() {
            self.engine.mode = mode;
        }
        Ok(())
    }

    /// Switches copies of the parameters, bound under their names, to the weights of another mode. It works as
    /// [`set_mode`](Driver::set_mode), but the optimizer stays as it is, and the parameters in their mode.
    ///
    /// # Errors
    /// As [`set_mode`](Driver::set_mode).
    pub fn weights_of(&mut self, mode: Mode, copies: &mut [Binding<'_>]) -> Result<()> {
        self.switch(mode, copies, false)
    }

    /// Returns whether some parameters have other weights in one mode than in the other.
    pub fn has_modes(&self) -> bool {
        self.engine.with_modes().is_some()
    }

    /// Puts the averages of the weights into the bound parameters, and the next time the weights that are trained back.
    /// After both the parameters have the same bits as before. An average is rounded to the parameter's type.
    ///
    /// Every parameter that has an average must be bound, with or without a gradient. Until the weights are back a copy
    /// of them takes memory, and steps and saving are errors. Loading forgets the copy.
    ///
    /// ```
    /// # use fallline_optim::{Driver, Result, frozen};
    /// # fn evaluate(_: &[f32]) {}
    /// # fn with(mut optimizer: Driver, mut weight: Vec<f32>) -> Result<()> {
    /// optimizer.swap_average(&mut [frozen("weight", &mut weight)])?;
    /// evaluate(&weight);
    /// optimizer.swap_average(&mut [frozen("weight", &mut weight)])?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Groups`] where no average is kept, none has begun, or a parameter that has one is not bound. Another
    /// error where a binding has another shape or type; when a device fails.
    pub fn swap_average(&mut self, params: &mut [Binding<'_>]) -> Result<()> {
        self.poison.check()?;
        if !self.holds_average() {
            self.check_ready()?;
            self.engine.check_training()?;
        }
        let Driver { engine, averaging, poison, .. } = self;
        let Some(averages) = averaging else {
            let problem = "it keeps no average of the weights (Driver::averaged)".into();
            return Err(Error::Groups { algorithm: engine.setup.name(), problem });
        };
        let swap = averages.check_swap(engine, params)?;
        poison.guard_written(|| averages.swap(engine, params, swap))
    }

    /// Returns whether the parameters hold averages: [`swap_average`](Driver::swap_average) was called once.
    pub fn holds_average(&self) -> bool {
        self.averaging.as_ref().is_some_and(WeightAveraging::is_swapped)
    }

    /// Refuses what needs the weights that are trained.
    ///
    /// # Errors
    /// [`Error::Averaged`].
    pub(super) fn check_not_averaged(&self, operation: &'static str) -> Result<()> {
        if self.holds_average() { Err(Error::Averaged { operation }) } else { Ok(()) }
    }

    fn switch(&mut self, mode: Mode, params: &mut [Binding<'_>], lasting: bool) -> Result<()> {
        self.check_ready()?;
        let Driver { engine, group, poison, .. } = self;
        if engine.mode == mode || engine.with_modes().is_none() {
            return Ok(());
        }
        let algorithm = engine.name_with_modes();
        let refused = |problem: String| Err(Error::Groups { algorithm, problem });
        if engine.setup.is_offloaded() {
            return refused("the weights of an offloaded optimizer cannot be switched".into());
        }
        if let Some(slot) = engine.unbound_in(mode, params) {
            return refused(format!("{:?} is to be switched, but is not bound", slot.name));
        }
        // Where it fails half-way some parameters hold other weights than the others.
        let switched = poison.guard(|begun| {
            let mut wrote = false;
            let switched = engine.switch(mode, params, lasting, &mut wrote);
            let switched = switched.and_then(|()| group.broadcast_params(engine, params));
            *begun = wrote && lasting;
            switched
        });
        params.iter_mut().for_each(|binding| binding.param.scatter());
        switched
    }
}
