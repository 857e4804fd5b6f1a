//! Checkpoints that have the parameters in them.

use super::Driver;
use crate::checkpoint::{Checkpoint, LoadOptions};
use crate::{Binding, Error, LoadReport, Optimizer, Result};
use std::collections::HashSet;

impl Driver {
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
