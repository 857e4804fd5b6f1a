//! The optimizer of a module.

use crate::Result;
use crate::take::{Names, Put, Take, Taken};
use burn::module::Module;
use burn::optim::GradientsParams;
use fallline_optim::{Binding, Driver, StepReport};

/// fallline's optimizer over the parameters of burn's modules.
///
/// Checkpoints, groups and hyperparameters are its [`driver`](BurnOptimizer::driver)'s.
pub struct BurnOptimizer {
    driver: Driver,
    requires_gradients: bool,
    names: Names,
    taken: Taken,
    /// Empty between steps. It keeps its memory, as `taken` does.
    bindings: Vec<Binding<'static>>,
}

impl BurnOptimizer {
    /// Returns the optimizer of a driver. The same one steps the same module each time.
    pub fn new(driver: Driver) -> Self {
        let (names, taken, bindings) = Default::default();
        BurnOptimizer { driver, requires_gradients: false, names, taken, bindings }
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
        let mut take = Take::new(&mut self.names, &mut self.taken, gradients, self.requires_gradients);
        let module = module.map(&mut take);
        let stepped = take.finish().and_then(|without_gradient| {
            let mut report = self.step_taken()?;
            report.without_grad += without_gradient;
            Ok(report)
        });
        // At once: parameters that are put back allocate, and find this memory in one piece.
        self.taken.gradients.clear();
        let held = &mut self.taken.held;
        let module = if held.is_empty() { module } else { module.map(&mut Put::new(held)) };
        (module, stepped)
    }

    /// Returns the optimizer behind it: hyperparameters, states, [`save`](fallline_optim::Optimizer::save).
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Returns the optimizer behind it, to change: [groups](Driver::add_group), [`load`](fallline_optim::Optimizer::load).
    pub fn driver_mut(&mut self) -> &mut Driver {
        &mut self.driver
    }

    fn step_taken(&mut self) -> Result<StepReport> {
        let mut bindings: Vec<Binding<'_>> = core::mem::take(&mut self.bindings);
        for (held, gradient) in self.taken.held.iter_mut().zip(&self.taken.gradients) {
            bindings.push(held.bind(gradient, &self.names)?);
        }
        let report = self.driver.step(&mut bindings)?;
        self.bindings = recycled(bindings);
        Ok(report)
    }
}

/// Returns an empty list in the memory of another one, whose elements differ in their lifetime only.
fn recycled<A, B>(mut list: Vec<A>) -> Vec<B> {
    list.clear();
    list.into_iter().filter_map(|_| None).collect()
}
