//! The passes of a step over all launch groups.

use super::Engine;
use super::fusion::Fusion;
use super::launch::{StepContext, Transfers};
use super::launches::Launches;
use super::upload;
use crate::{Binding, Result};

impl Engine {
    /// Copies what is on the host to a device that does not reach it, and adds up the rows of gradients that name some.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn upload(&mut self, bindings: &mut [Binding<'_>], has_rows: bool) -> Result<()> {
        let (backend, slots) = (&*self.setup.backend, self.slots.range(0..bindings.len()));
        if !backend.is_host_accessible() {
            upload::upload(backend, bindings, slots)?;
        }
        if has_rows { upload::coalesce(backend, bindings, slots) } else { Ok(()) }
    }

    /// Copies the stepped parameters back to the host.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn download(&mut self, bindings: &mut [Binding<'_>]) -> Result<()> {
        let (backend, slots) = (&*self.setup.backend, self.slots.range(0..bindings.len()));
        if backend.is_host_accessible() {
            return Ok(());
        }
        upload::download(backend, bindings, slots)
    }

    /// Multiplies the gradients of the step being taken by a factor.
    pub(crate) fn scale_gradients(&mut self, factor: f64) {
        if factor != 1.0 {
            self.launches.scale(factor);
        }
    }

    /// Runs the stages of the step over all parameters that are prepared. `begun` is set as soon as something may have been
    /// written.
    ///
    /// # Errors
    /// When a device or another rank fails.
    pub(crate) fn execute(
        &mut self,
        bindings: &mut [Binding<'_>],
        fusion: &Fusion<'_>,
        begun: &mut bool,
    ) -> Result<()> {
        self.launch(bindings, fusion, false, begun)
    }

    /// Takes gradients that are drawn for the Hessian into the states that estimate it.
    ///
    /// # Errors
    /// As [`execute`](Engine::execute).
    pub(crate) fn execute_hessian(&mut self, bindings: &mut [Binding<'_>], begun: &mut bool) -> Result<()> {
        self.launch(bindings, &Fusion::default(), true, begun)
    }

    fn launch(
        &mut self,
        bindings: &mut [Binding<'_>],
        fusion: &Fusion<'_>,
        hessian: bool,
        begun: &mut bool,
    ) -> Result<()> {
        let syncs = !hessian && self.syncs();
        let Engine { setup, shared, slots, launches, .. } = self;
        let Launches { list, free, .. } = launches;
        for (index, launch) in list.iter_mut().enumerate().filter(|(_, launch)| !launch.is_empty()) {
            let slots = slots.range(0..bindings.len());
            let context = StepContext {
                index: index as u32,
                optimizer: launch.optimizer,
                tensors: launch.tensors,
                backend: &*setup.backend,
                groups: &setup.groups,
                shared: &mut shared[launch.optimizer],
                ranks: setup.ranks.as_ref().map(|ranks| &*ranks.comm),
                bindings: &mut *bindings,
                slots,
                fusion: *fusion,
                syncs,
            };
            let offload = setup.offload.as_ref().filter(|offload| offload.resolved);
            let transfers = offload.map(|offload| Transfers { device: &offload.device, free: &mut *free });
            match (hessian, transfers) {
                (true, transfers) => {
                    let Some(kernel) = context.first().hessian() else { continue };
                    launch.run_auxiliary(context, kernel, transfers, begun)?;
                }
                (false, Some(transfers)) => launch.step_offloaded(context, transfers, begun)?,
                (false, None) => launch.step(context, begun)?,
            }
        }
        Ok(())
    }
}
