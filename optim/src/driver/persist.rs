//! Saving and loading: all sections of a checkpoint are read before one is applied.

use super::Driver;
use super::loaded::Loaded;
use crate::checkpoint::{Checkpoint, LoadOptions, Part};
use crate::gradients::accumulate::Window;
use crate::{LoadReport, Result};

impl Driver {
    /// Refuses to save what does not fit together.
    pub(super) fn check_savable(&self) -> Result<()> {
        self.poison.check()?;
        self.aside.check("saving")
    }

    /// Returns what this rank has.
    pub(super) fn to_checkpoint(&self) -> Result<Checkpoint> {
        let Driver { engine, window, gradients, averaging, .. } = self;
        let setup = &engine.setup;
        let mut checkpoint = Checkpoint::default();
        engine.save(&mut checkpoint)?;
        window.save(&gradients.config, engine, &mut checkpoint)?;
        if let Some(averages) = averaging {
            let kept = engine.slots.iter().filter(|slot| setup.saves_state_of(slot));
            averages.save(&**setup.param_backend(), kept, &mut checkpoint)?;
        }
        if let Some(ranks) = setup.ranks.as_ref().filter(|ranks| ranks.sharded) {
            checkpoint.manifest.part = Some(Part { rank: ranks.comm.rank(), of: ranks.comm.world_size() });
        }
        Ok(checkpoint)
    }

    /// Resumes from a checkpoint.
    pub(super) fn restore(&mut self, checkpoint: &Checkpoint, options: &LoadOptions) -> Result<LoadReport> {
        let Driver { engine, window, gradients, averaging, group, poison, loaded: brought, aside, .. } = self;
        let checkpoint = &*checkpoint.renamed(&options.rename, options.lenient)?;
        let was_new = !engine.slots.any_bound();
        let (mut section, mut report) = engine.read(checkpoint, options)?;
        let near = engine.setup.param_backend();
        let config = &gradients.config;
        let (loaded, scaler) =
            Window::load(config, near, checkpoint, &section.slots, (options, &mut report))?;
        let averages = averaging
            .as_ref()
            .map(|averages| averages.loaded(near, checkpoint, &mut section.slots, (options, &mut report)));
        let averages = averages.transpose()?;
        // From here on nothing can fail.
        *window = loaded;
        gradients.config.scaler = scaler;
        *averaging = averages;
        engine.take_over(section);
        group.loaded(engine);
        *brought = Loaded::new(report.clone(), options, (&checkpoint.manifest, &engine.slots), was_new);
        poison.heal();
        aside.forget();
        Ok(report)
    }
}
