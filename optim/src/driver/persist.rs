//! Saving and loading: all sections of a checkpoint are read before one is applied.

use super::Driver;
use super::loaded::Loaded;
use super::poison::Poison;
use crate::checkpoint::{Checkpoint, LoadOptions, Part};
use crate::gradients::accumulate::Window;
use crate::{Binding, Error, LoadReport, Optimizer, Result};
use std::collections::HashSet;

impl Driver {
    /// Refuses to save what does not fit together.
    pub(super) fn check_savable(&self) -> Result<()> {
        self.poison.check()?;
        self.check_not_averaged("saving")
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
        let Driver { engine, window, gradients, averaging, group, poison, loaded: brought, .. } = self;
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
        // Everything is as the checkpoint has it.
        *poison = Poison::default();
        Ok(report)
    }

    /// Saves as [`save`](crate::Optimizer::save) does, but of a sharded optimizer only the part that this rank has.
    /// For checkpoints of a file a rank, which [`Checkpoint::join`] joins. Nothing is exchanged.
    ///
    /// # Errors
    /// As [`save`](crate::Optimizer::save).
    pub fn save_own(&self) -> Result<Checkpoint> {
        self.check_savable()?;
        self.to_checkpoint()
    }

    /// Restores the bound parameters to the values of the checkpoint just loaded, where it was saved when the
    /// replicas had [diverged](Driver::has_diverged). They are this rank's, or, where another number of ranks resumes,
    /// the mean of theirs, which a checkpoint has as its states. Elsewhere nothing is changed. All of them must be
    /// bound, with or without gradients; a step before is an error.
    ///
    /// # Errors
    /// A parameter that is not bound, or in another way than it was saved; when the device fails.
    pub fn restore_params(&mut self, params: &mut [Binding<'_>]) -> Result<()> {
        self.group.restore_params(&mut self.engine, params)
    }

    /// Saves as [`save`](crate::Optimizer::save) does, with the bound parameters in the checkpoint. There may be more of
    /// them than the optimizer steps.
    ///
    /// ```
    /// # use fallline_optim::{Checkpoint, Driver, Result, frozen};
    /// # fn with(mut optimizer: Driver, mut weight: Vec<f32>) -> Result<()> {
    /// optimizer.save_with(&[frozen("weight", &mut weight)])?.write("run.safetensors")?;
    /// let checkpoint = Checkpoint::read("run.safetensors")?;
    /// optimizer.load_into(&checkpoint, &mut [frozen("weight", &mut weight)])?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`save`](crate::Optimizer::save) and [`Checkpoint::insert_params`]; where a parameter that the optimizer knows is
    /// not bound.
    pub fn save_with(&self, params: &[Binding<'_>]) -> Result<Checkpoint> {
        let mut checkpoint = self.save()?;
        let bound: HashSet<&str> = params.iter().map(|binding| binding.name).collect();
        if let Some(slot) = self.engine.slots.iter().find(|slot| !bound.contains(&*slot.name)) {
            let name = &slot.name;
            return Err(Error::Mismatch(format!("parameter {name:?} is to be saved, but is not bound")));
        }
        checkpoint.insert_params(params)?;
        Ok(checkpoint)
    }

    /// Loads as [`load`](crate::Optimizer::load), and the bound parameters too. All is checked before anything is changed.
    ///
    /// # Errors
    /// As [`load`](crate::Optimizer::load) and [`Checkpoint::load_params`].
    pub fn load_into(&mut self, checkpoint: &Checkpoint, params: &mut [Binding<'_>]) -> Result<LoadReport> {
        self.load_into_with(checkpoint, params, &LoadOptions::default())
    }

    /// Loads as [`load_into`](Driver::load_into), with the mismatches that the options allow.
    ///
    /// # Errors
    /// As [`load_into`](Driver::load_into), for what the options do not allow.
    pub fn load_into_with(
        &mut self,
        checkpoint: &Checkpoint,
        params: &mut [Binding<'_>],
        options: &LoadOptions,
    ) -> Result<LoadReport> {
        let renamed = checkpoint.renamed(&options.rename, options.lenient)?;
        let mut found = LoadReport::default();
        let fitting = renamed.check_bound(params, (options, &mut found))?;
        let mut report = self.load_with(checkpoint, options)?;
        self.poison.guard_written(|| renamed.write_params(params, &fitting))?;
        self.restore_params(params)?;
        let new = found.missing.into_iter().filter(|key| !report.missing.contains(key));
        let new: Vec<String> = new.collect();
        report.missing.extend(new);
        report.shape.extend(found.shape);
        report.converted += found.converted;
        Ok(report)
    }
}
