//! Accumulation in incremental steps, whose gradients come one after another.

use super::{To, Window};
use crate::engine::Engine;
use crate::gradient_config::GradientConfig;
use crate::{Binding, Result, StepReport};
use fallline_core::Compute;

impl Window {
    /// Adds the only gradient that is bound to the window's. `begun` is set as [`accumulate`](Window::accumulate) sets it.
    ///
    /// # Errors
    /// When a device fails.
    pub(crate) fn add_one(
        &mut self,
        engine: &Engine,
        config: &GradientConfig,
        bindings: &[Binding<'_>],
        begun: &mut bool,
    ) -> Result<()> {
        self.allocate(engine, bindings)?;
        let weight = 1.0 / config.accumulate.window(self.done) as f64;
        let rules = engine.setup.builtins;
        for binding in bindings.iter().filter(|binding| !binding.grad.is_none()) {
            let Some(sum) = self.sums.get(binding.name) else { continue };
            let kernel = if sum.has_value { rules.add_to_sum() } else { rules.start_sum() };
            let compute =
                if sum.tensor.format() == Compute::F64.format() { Compute::F64 } else { Compute::F32 };
            let sums = (sum.has_value, compute);
            self.add(engine, bindings, sums, (kernel, &[weight]), To::Host(&mut []), begun)?;
            if let Some(sum) = self.sums.get_mut(binding.name) {
                sum.has_value = true;
            }
        }
        Ok(())
    }

    /// Ends the iteration of an incremental step. Returns the report, unless the window is full.
    ///
    /// # Errors
    /// A parameter with a gradient in a window that closes without it.
    pub(crate) fn end_iteration(
        &mut self,
        engine: &mut Engine,
        config: &GradientConfig,
    ) -> Result<Option<StepReport>> {
        if self.is_last_micro_step(config) {
            self.check_bound(|name| engine.slots.get(name).is_some_and(|slot| slot.progress.inspected))?;
        }
        if let Some(accumulated) = self.count(config) {
            return Ok(Some(StepReport { accumulated: Some(accumulated), ..StepReport::default() }));
        }
        engine.slots.iter_mut().flat_map(|slot| &mut slot.staging).for_each(|staging| staging.grad = None);
        Ok(None)
    }
}
