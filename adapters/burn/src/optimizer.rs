//! The optimizer of a module.

use crate::Result;
use crate::take::{Held, Put, Take};
use burn::module::Module;
use burn::optim::GradientsParams;
use fallline_optim::{Binding, Driver, StepReport};

/// fallline's optimizer over the parameters of burn's modules.
///
/// Checkpoints, groups and hyperparameters are its [`driver`](BurnOptimizer::driver)'s.
pub struct BurnOptimizer {
    driver: Driver,
    requires_gradients: bool,
}

impl BurnOptimizer {
    /// Returns the optimizer of a driver. The same one steps the same module each time.
    pub fn new(driver: Driver) -> Self {
        BurnOptimizer { driver, requires_gradients: false }
    }

    /// Returns the optimizer, whose steps fail where a parameter that requires a gradient has none. Otherwise such a parameter stays
    /// as it is, as with burn's own optimizers, and is counted in [`StepReport::without_grad`].
    pub fn requiring_gradients(self) -> Self {
        BurnOptimizer { requires_gradients: true, ..self }
    }

    /// Steps all parameters of a module that have gradients. The module comes back whatever happens; after an error its
    /// parameters are what they were, unless the driver says that it failed half-way.
    ///
    /// # Errors
    /// As [`Driver::step`]; a parameter that does not hold floating-point numbers of 16 bits or more, or that is twice in the
    /// module.
    pub fn step<M: Module>(&mut self, module: M, gradients: GradientsParams) -> (M, Result<StepReport>) {
        let mut take = Take::new(gradients, self.requires_gradients);
        let module = module.map(&mut take);
        let Take { mut held, without_gradient, problem, .. } = take;
        let stepped = match problem {
            Some(problem) => Err(problem),
            None => self.step_held(&mut held),
        };
        let module = if held.is_empty() { module } else { module.map(&mut Put::new(held)) };
        let report = stepped.map(|mut report| {
            report.without_grad += without_gradient;
            report
        });
        (module, report)
    }

    /// Returns the optimizer behind it: hyperparameters, states, [`save`](fallline_optim::Optimizer::save).
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Returns the optimizer behind it, to change: [groups](Driver::add_group), [`load`](fallline_optim::Optimizer::load).
    pub fn driver_mut(&mut self) -> &mut Driver {
        &mut self.driver
    }

    fn step_held(&mut self, held: &mut [Held]) -> Result<StepReport> {
        let mut bindings: Vec<Binding<'_>> = Vec::with_capacity(held.len());
        for held in held {
            bindings.push(held.bind()?);
        }
        Ok(self.driver.step(&mut bindings)?)
    }
}
