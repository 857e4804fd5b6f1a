//! Optimizers of typed hyperparameters, without a configuration.

use crate::{Driver, Native, Result};
use fallline_core::IntoBackend;
use fallline_optim::{AnyAlgorithm, Named, ParamInfo};

/// Builds the optimizer of an algorithm from its hyperparameters, as a struct: of a shipped one, an alias, or your own.
///
/// ```
/// use fallline::algorithms::{AdamW, Muon};
/// use fallline::prelude::*;
///
/// let cpu = Cpu::new()?.shared();
/// let adamw = AdamW { lr: 3e-4, ..Default::default() };
/// let mut optimizer = adamw
///     .clone()
///     .on(&cpu)?
///     .group(|param| param.shape.rank() == 2, Muon { lr: 0.02, ..Default::default() })?
///     .group_named(&["bias"], AdamW { weight_decay: 0.0, ..adamw })?
///     .clip_norm(1.0)?
///     .averaged(Average::ema(0.999)?);
///
/// let (mut weight, grad) = (vec![1.0f32; 12], vec![0.1f32; 12]);
/// let (mut bias, bias_grad) = (vec![0.0f32; 4], vec![0.2f32; 4]);
/// optimizer.step(&mut [
///     param("fc.weight", &mut weight, &grad).shaped(&[4, 3]),
///     param("fc.bias", &mut bias, &bias_grad),
/// ])?;
/// # Ok::<(), fallline::Error>(())
/// ```
pub trait OnBackend: Named {
    /// Returns the optimizer on a backend: a `Cpu`, a `Cuda`, or one that is shared (`&cpu`).
    ///
    /// # Errors
    /// When a hyperparameter is out of range, or some exclude each other.
    fn on(self, backend: impl IntoBackend) -> Result<Driver> {
        Ok(Driver::new(backend.into_backend(), self.linked()?))
    }

    /// Returns the algorithm for APIs that take any algorithm, as [`Modified`](crate::optim::Modified) does.
    ///
    /// # Errors
    /// As [`on`](OnBackend::on).
    fn linked(self) -> Result<Box<dyn AnyAlgorithm>> {
        Ok(self.link::<Native>()?)
    }
}

impl<A: Named> OnBackend for A {}

/// Adds parameter groups to an optimizer. Where several match a parameter, the first added has it.
///
/// A group of the same algorithm is part of the same optimizer, and one of another algorithm is a separate optimizer.
/// They step, save and load as one.
pub trait ParamGroups: Sized {
    /// Adds a group for the parameters that `matches` accepts, by name, shape and kind of module.
    ///
    /// # Errors
    /// When a hyperparameter is out of range, or some exclude each other.
    fn group<A: Named>(
        self,
        matches: impl Fn(&ParamInfo<'_>) -> bool + Send + Sync + 'static,
        algorithm: A,
    ) -> Result<Self>;

    /// Adds a group for the parameters whose names contain one of these texts, as `custom_keys` does. The first step
    /// fails where a text is in no name.
    ///
    /// # Errors
    /// As [`group`](ParamGroups::group).
    fn group_named<A: Named>(self, texts: &[&str], algorithm: A) -> Result<Self>;
}

impl ParamGroups for Driver {
    fn group<A: Named>(
        self,
        matches: impl Fn(&ParamInfo<'_>) -> bool + Send + Sync + 'static,
        algorithm: A,
    ) -> Result<Self> {
        Ok(self.with_group(algorithm.linked()?, matches)?)
    }

    fn group_named<A: Named>(mut self, texts: &[&str], algorithm: A) -> Result<Self> {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        for text in texts.clone() {
            self.expect_match(&format!("the group of names with {text:?}"), move |name| name.contains(&text));
        }
        self.group(move |param| texts.iter().any(|text| param.name.contains(&**text)), algorithm)
    }
}
