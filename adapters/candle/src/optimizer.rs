//! The optimizer of a model's variables.

use crate::nest::{Buffers, Lent, Target};
use crate::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{DType, Storage, Tensor, Var};
use candle_nn::VarMap;
use fallline_optim::hyper::Value;
use fallline_optim::{Checkpoint, Driver, LoadReport, Optimizer, StepReport};

/// fallline's optimizer over candle's variables.
///
/// Checkpoints, groups and hyperparameters are its [`driver`](CandleOptimizer::driver)'s.
pub struct CandleOptimizer {
    driver: Driver,
    variables: Vec<(String, Var)>,
    /// Where the variables' memory is, sorted, and whose it is.
    places: Vec<(usize, usize)>,
    target: Target,
    requires_gradients: bool,
    /// Whether the driver knows all variables with their shapes.
    is_known: bool,
    /// Gradients that the last step had to copy.
    copies: usize,
    /// Kept from step to step, so that none allocates.
    buffers: Buffers,
}

impl CandleOptimizer {
    /// Returns an optimizer of all variables of a map that hold floating-point numbers, by their names there.
    ///
    /// # Errors
    /// As [`of_variables`](CandleOptimizer::of_variables).
    pub fn new(variables: &VarMap, driver: Driver) -> Result<Self> {
        Self::of_variables(named(variables), driver)
    }

    /// Returns an optimizer of these variables, by name. They are on the CPU.
    ///
    /// # Errors
    /// A variable that is on another device, is not contiguous, does not hold floating-point numbers of 16 bits or more, or
    /// whose memory or name is another one's too.
    pub fn of_variables(variables: impl IntoIterator<Item = (String, Var)>, driver: Driver) -> Result<Self> {
        Self::on(Target::Host, variables, driver)
    }

    /// Returns an optimizer of all variables of a map that are on a CUDA device. The driver runs on
    /// [`cuda`](crate::cuda)`(&device)`, which is given here, too.
    ///
    /// # Errors
    /// As [`of_variables`](CandleOptimizer::of_variables); a driver that runs on another device than `cuda`.
    #[cfg(feature = "cuda")]
    pub fn on_cuda(
        variables: &VarMap,
        cuda: std::sync::Arc<fallline_cuda::Cuda>,
        driver: Driver,
    ) -> Result<Self> {
        let own = std::sync::Arc::as_ptr(driver.backend()).cast::<()>();
        if own != std::sync::Arc::as_ptr(&cuda).cast::<()>() {
            return Err(
                candle_core::Error::msg("the driver runs on another device than the one given").into()
            );
        }
        Self::on(Target::Cuda(cuda), named(variables), driver)
    }

    fn on(
        target: Target,
        variables: impl IntoIterator<Item = (String, Var)>,
        driver: Driver,
    ) -> Result<Self> {
        let variables: Vec<(String, Var)> = variables.into_iter().collect();
        let mut names: Vec<&str> = variables.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if let Some([name, _]) = names.array_windows().find(|[one, other]| one == other) {
            return Err(Error::Variable { name: (*name).into(), problem: "is given twice".into() });
        }
        for (name, variable) in &variables {
            let problem = match () {
                _ if !is_float(variable.dtype()) => format!("holds {:?}", variable.dtype()),
                _ if !target.reaches(variable.device()) => {
                    format!(
                        "is on {:?}, and the optimizer on {}",
                        variable.device().location(),
                        driver.backend().device()
                    )
                }
                _ if !variable.is_contiguous() => "is not contiguous".to_owned(),
                () => continue,
            };
            return Err(Error::Variable { name: name.clone(), problem });
        }
        let place = |(i, (_, variable)): (usize, &(String, Var))| (place_of(variable), i);
        let mut places: Vec<_> = variables.iter().enumerate().map(place).collect();
        places.sort_unstable();
        if let Some([(_, first), (_, second)]) =
            places.array_windows().find(|[(one, _), (other, _)]| one == other)
        {
            let name = |i: &usize| variables[*i].0.clone();
            return Err(Error::Shared { first: name(first), second: name(second) });
        }
        Ok(CandleOptimizer {
            driver,
            variables,
            places,
            target,
            requires_gradients: false,
            is_known: false,
            copies: 0,
            buffers: Buffers::default(),
        })
    }

    /// Returns the optimizer, whose steps fail where a variable has no gradient. Otherwise such a variable stays as it is,
    /// as with candle's own optimizers, and is counted in [`StepReport::without_grad`].
    pub fn requiring_gradients(self) -> Self {
        CandleOptimizer { requires_gradients: true, ..self }
    }

    /// Steps all variables. A gradient that is not contiguous is copied ([`copies`](CandleOptimizer::copies)); everything else is
    /// used where it is.
    ///
    /// # Errors
    /// As [`Optimizer::step`]; a gradient on another device, of integers, or that shares its memory with a variable.
    pub fn step(&mut self, gradients: &GradStore) -> Result<StepReport> {
        let mut taken = core::mem::take(&mut self.buffers.gradients);
        let stepped = self.take(gradients, &mut taken).and_then(|()| self.step_taken(&taken));
        taken.clear();
        self.buffers.gradients = taken;
        let report = stepped?;
        self.is_known |= !report.skipped();
        Ok(report)
    }

    /// Computes the gradients of a loss, which is multiplied by the loss scale if there is one, and steps.
    ///
    /// # Errors
    /// As [`step`](CandleOptimizer::step); when candle fails.
    pub fn backward_step(&mut self, loss: &Tensor) -> Result<StepReport> {
        let scale = self.driver.loss_scale();
        let gradients = if scale == 1.0 { loss.backward()? } else { (loss * scale)?.backward()? };
        self.step(&gradients)
    }

    /// Returns how many gradients the last step had to copy, as they were not contiguous.
    pub fn copies(&self) -> usize {
        self.copies
    }

    /// Returns the optimizer behind it: hyperparameters, states, [`save`](Optimizer::save).
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Returns the optimizer behind it, to change.
    pub fn driver_mut(&mut self) -> &mut Driver {
        self.is_known = false;
        &mut self.driver
    }

    /// Loads what [`save`](Optimizer::save) of the [driver](CandleOptimizer::driver) gave. The variables themselves are the
    /// `VarMap`'s to save and load.
    ///
    /// # Errors
    /// As [`Optimizer::load`].
    pub fn load(&mut self, checkpoint: &Checkpoint) -> Result<LoadReport> {
        Ok(self.driver_mut().load(checkpoint)?)
    }

    /// Collects the gradients in the order of the variables, contiguous.
    fn take(&mut self, gradients: &GradStore, taken: &mut Vec<Option<Tensor>>) -> Result<()> {
        self.copies = 0;
        for (name, variable) in &self.variables {
            let Some(gradient) = gradients.get(variable) else {
                if self.requires_gradients {
                    return Err(Error::NoGradient { name: name.clone() });
                }
                taken.push(None);
                continue;
            };
            let problem = match () {
                _ if !is_float(gradient.dtype()) => format!("holds {:?}", gradient.dtype()),
                _ if !self.target.reaches(gradient.device()) => {
                    format!(
                        "is on {:?}, and the variable on {:?}",
                        gradient.device().location(),
                        variable.device().location()
                    )
                }
                () => {
                    self.copies += usize::from(!gradient.is_contiguous());
                    taken.push(Some(gradient.contiguous()?));
                    continue;
                }
            };
            return Err(Error::Gradient { name: name.clone(), problem });
        }
        Ok(())
    }

    fn step_taken(&mut self, gradients: &[Option<Tensor>]) -> Result<StepReport> {
        let mut guards = self.buffers.guards();
        for ((name, _), gradient) in self.variables.iter().zip(gradients) {
            let guard = gradient.as_ref().map(Tensor::storage_and_layout);
            if let Some((storage, _)) = &guard {
                let place = address_of(storage);
                if let Ok(found) = self.places.binary_search_by_key(&place, |(place, _)| *place) {
                    let (_, owner) = self.places[found];
                    let problem =
                        format!("shares its memory with the variable {:?}", self.variables[owner].0);
                    return Err(Error::Gradient { name: name.clone(), problem });
                }
            }
            guards.push(guard);
        }
        let lent = Lent {
            variables: &self.variables,
            gradients: &guards,
            #[cfg(feature = "cuda")]
            target: &self.target,
            with_shapes: !self.is_known,
        };
        let stepped = lent.step(&mut self.driver, self.buffers.bindings());
        let (report, bindings) = stepped?;
        self.buffers.keep(guards, bindings);
        Ok(report)
    }
}

/// candle's own trait, for code that is generic over it. Variables have the names "0", "1" and so on.
impl candle_nn::Optimizer for CandleOptimizer {
    type Config = Driver;

    fn new(variables: Vec<Var>, driver: Driver) -> candle_core::Result<Self> {
        let floats = variables.into_iter().filter(|variable| is_float(variable.dtype()));
        let named = floats.enumerate().map(|(i, variable)| (i.to_string(), variable));
        Ok(CandleOptimizer::of_variables(named, driver)?)
    }

    fn step(&mut self, gradients: &GradStore) -> candle_core::Result<()> {
        CandleOptimizer::step(self, gradients)?;
        Ok(())
    }

    fn backward_step(&mut self, loss: &Tensor) -> candle_core::Result<()> {
        CandleOptimizer::backward_step(self, loss)?;
        Ok(())
    }

    /// Returns the first group's `lr`, and NaN of an algorithm that has none.
    fn learning_rate(&self) -> f64 {
        self.driver.get(0, "lr").and_then(|value| value.as_f64()).unwrap_or(f64::NAN)
    }

    /// Sets the `lr` of each group that takes it.
    fn set_learning_rate(&mut self, lr: f64) {
        for group in 0..self.driver.groups() {
            // The trait has no way to tell of one that does not.
            let _ = self.driver.set(group, &[("lr", Value::Float(lr))]);
        }
    }
}

/// Returns the variables of a map that hold floating-point numbers, in the order of their names.
fn named(variables: &VarMap) -> Vec<(String, Var)> {
    let data = variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let floats = data.iter().filter(|(_, variable)| is_float(variable.dtype()));
    let mut named: Vec<_> = floats.map(|(name, variable)| (name.clone(), variable.clone())).collect();
    named.sort_by(|one, other| one.0.cmp(&other.0));
    named
}

fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F64 | DType::F32 | DType::BF16 | DType::F16)
}

/// Returns where candle has a tensor's memory: the same for all that share it.
fn place_of(tensor: &Tensor) -> usize {
    address_of(&tensor.storage_and_layout().0)
}

fn address_of(storage: &Storage) -> usize {
    core::ptr::from_ref(storage).addr()
}
