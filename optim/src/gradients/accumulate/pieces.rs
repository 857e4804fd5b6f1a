//! A window's gradients of a step in pieces, which come one after another.

use super::{To, Window};
use crate::engine::Engine;
use crate::wrapper::Wrapper;
use crate::{Binding, Error, Result, StepReport};
use fallline_core::Compute;

impl Window {
    /// Whether the iteration that is under way closes a window.
    pub(crate) fn closes(&self, config: &Wrapper) -> bool {
        config.accumulate.closes(self.done + 1)
    }

    /// Adds the only gradient that is bound to the window's.
    ///
    /// # Errors
    /// When a device fails.
    pub(crate) fn add_piece(
        &mut self,
        engine: &Engine,
        config: &Wrapper,
        bindings: &[Binding<'_>],
    ) -> Result<()> {
        self.allocate(engine, bindings)?;
        let share = 1.0 / config.accumulate.window(self.done) as f64;
        let rules = engine.setup.builtins;
        for binding in bindings.iter().filter(|binding| !binding.grad.is_none()) {
            let Some(sum) = self.sums.get(binding.name) else { continue };
            let kernel = if sum.begun { rules.add_to_sum() } else { rules.start_sum() };
            let compute =
                if sum.tensor.format() == Compute::F64.format() { Compute::F64 } else { Compute::F32 };
            self.add(engine, bindings, (sum.begun, compute), (kernel, &[share]), To::Host(&mut []))?;
            if let Some(sum) = self.sums.get_mut(binding.name) {
                sum.begun = true;
            }
        }
        Ok(())
    }

    /// Ends an iteration in pieces: what is reported where the window goes on, or none where it is full.
    ///
    /// # Errors
    /// A parameter with a gradient in a window that closes without it.
    pub(crate) fn end_iteration(
        &mut self,
        engine: &mut Engine,
        config: &Wrapper,
    ) -> Result<Option<StepReport>> {
        let accumulate = config.accumulate;
        let (window, closes) = (accumulate.window(self.done), self.closes(config));
        let bound = |name: &str| engine.slots.get(name).is_some_and(|slot| slot.piece.inspected);
        if closes && let Some((name, _)) = self.sums.iter().find(|(name, sum)| sum.begun && !bound(name)) {
            return Err(Error::Unbound { param: name.clone() });
        }
        self.done += 1;
        if !closes {
            let done = match self.done % accumulate.counts {
                0 => accumulate.counts,
                done => done,
            };
            return Ok(Some(StepReport { accumulated: Some((done, window)), ..StepReport::default() }));
        }
        engine.slots.iter_mut().flat_map(|slot| &mut slot.staging).for_each(|staging| staging.grad = None);
        Ok(None)
    }
}
