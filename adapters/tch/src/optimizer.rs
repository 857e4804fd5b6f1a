//! The optimizer of a store's variables.

#![allow(unsafe_code)] // memory by its address

use crate::memory::Memory;
use crate::store::{Variable, trainable};
use crate::{Error, Result};
use core::ops::Range;
use fallline_optim::hyper::Value;
use fallline_optim::{Binding, Checkpoint, Driver, LoadReport, Optimizer, StepReport, param};
use std::collections::HashSet;
use tch::nn::VarStore;
use tch::{COptimizer, Tensor};

/// fallline's optimizer over libtorch's variables on the CPU.
///
/// Checkpoints, groups and hyperparameters are its [`driver`](TchOptimizer::driver)'s.
pub struct TchOptimizer {
    driver: Driver,
    variables: Vec<Variable>,
    /// Where the variables were in the last step, and the same in the order of the addresses.
    memories: Vec<Memory>,
    places: Vec<(Range<usize>, usize)>,
    /// One of libtorch's optimizers, which never steps: it forgets gradients.
    gradients: COptimizer,
    requires_gradients: bool,
    /// Gradients that the last step had to copy.
    copies: usize,
}

/// A gradient for a step, or a copy of it. It is kept alive, as the step has no more than its address.
type Gradient = Option<(Tensor, Memory)>;

impl TchOptimizer {
    /// Returns an optimizer of all trainable variables of a store, by their names there.
    ///
    /// # Errors
    /// As [`of_variables`](TchOptimizer::of_variables).
    pub fn new(store: &VarStore, driver: Driver) -> Result<Self> {
        Self::of(trainable(store), driver)
    }

    /// Returns an optimizer of these variables, by name. They are on the CPU.
    ///
    /// # Errors
    /// A variable that is on another device, is not dense and contiguous, does not hold floating-point numbers of 16 bits or more,
    /// was computed from others, or whose memory or name is another one's too.
    pub fn of_variables(
        variables: impl IntoIterator<Item = (String, Tensor)>,
        driver: Driver,
    ) -> Result<Self> {
        let variables = variables.into_iter().map(|(name, tensor)| Variable::new(name, tensor, None));
        Self::of(variables.collect(), driver)
    }

    fn of(variables: Vec<Variable>, driver: Driver) -> Result<Self> {
        let refused =
            |name: &str, problem: &str| Err(Error::Variable { name: name.into(), problem: problem.into() });
        let mut names = HashSet::with_capacity(variables.len());
        let mut gradients = COptimizer::sgd(0.0, 0.0, 0.0, 0.0, false)?;
        for Variable { name, tensor, .. } in &variables {
            if !names.insert(name) {
                return refused(name, "is given twice");
            }
            if !tensor.defined() {
                return refused(name, "is undefined");
            }
            if !tensor.f_is_leaf()? {
                return refused(name, "is computed from others, and has no gradient of its own");
            }
            gradients.add_parameters(tensor, 0)?;
        }
        let (memories, places) = Default::default();
        let mut optimizer = TchOptimizer {
            driver,
            variables,
            memories,
            places,
            gradients,
            requires_gradients: false,
            copies: 0,
        };
        optimizer.locate()?;
        Ok(optimizer)
    }

    /// Returns the optimizer, whose steps fail where a variable that requires a gradient has none. Otherwise such a variable stays
    /// as it is, as with torch's own optimizers, and is counted in [`StepReport::without_grad`].
    pub fn requiring_gradients(self) -> Self {
        TchOptimizer { requires_gradients: true, ..self }
    }

    /// Gives the variables that are in a group of the store (`Path::set_group`) hyperparameters of their own, and returns their
    /// group in the [driver](TchOptimizer::driver).
    ///
    /// # Errors
    /// As [`Driver::add_group`]; a group that no variable is in.
    pub fn add_store_group(&mut self, group: usize, overrides: &[(&str, Value)]) -> Result<usize> {
        let members = self.variables.iter().filter(|variable| variable.group == Some(group));
        let names: HashSet<String> = members.map(|variable| variable.name.clone()).collect();
        if names.is_empty() {
            return Err(Error::Group { group });
        }
        Ok(self.driver.add_group(move |name| names.contains(name), overrides)?)
    }

    /// Forgets all gradients, as torch's own optimizers do.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn zero_grad(&mut self) -> Result<()> {
        Ok(self.gradients.zero_grad()?)
    }

    /// Steps all variables on their gradients. A gradient that is not contiguous is copied ([`copies`](TchOptimizer::copies));
    /// everything else is used where it is.
    ///
    /// As with tch's own in-place operations, no other thread may use the variables meanwhile.
    ///
    /// # Errors
    /// As [`Optimizer::step`]; a gradient that is sparse, on another device, of integers, or that shares its memory with a variable.
    pub fn step(&mut self) -> Result<StepReport> {
        self.locate()?;
        let gradients = self.take()?;
        let mut bindings: Vec<Binding<'_>> = Vec::with_capacity(gradients.len());
        for ((variable, memory), gradient) in self.variables.iter().zip(&self.memories).zip(&gradients) {
            // SAFETY: variables and gradients live until the step is over. The memory of a variable is in no other tensor of the
            // step: that was checked when it was located and its gradient taken. No other thread uses it, as with tch's own
            // in-place operations.
            let (weight, gradient) = unsafe {
                let gradient = gradient.as_ref().map(|(_, memory)| memory.slice()).transpose()?;
                (memory.slice_mut()?, gradient)
            };
            bindings.push(param(&variable.name, weight, gradient).shaped(&variable.shape));
        }
        Ok(self.driver.step(&mut bindings)?)
    }

    /// Computes the gradients of a loss, which is multiplied by the loss scale if there is one, and steps. Gradients from before are
    /// forgotten.
    ///
    /// # Errors
    /// As [`step`](TchOptimizer::step); when libtorch fails.
    pub fn backward_step(&mut self, loss: &Tensor) -> Result<StepReport> {
        self.zero_grad()?;
        let scale = self.driver.loss_scale();
        if scale == 1.0 {
            loss.f_backward()?
        } else {
            loss.f_mul_scalar(scale)?.f_backward()?
        }
        self.step()
    }

    /// Returns how many gradients the last step had to copy, as they were not contiguous.
    pub fn copies(&self) -> usize {
        self.copies
    }

    /// Returns the optimizer behind it: hyperparameters, states, [`save`](Optimizer::save).
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Returns the optimizer behind it, to change: [groups](Driver::add_group), for instance.
    pub fn driver_mut(&mut self) -> &mut Driver {
        &mut self.driver
    }

    /// Loads what [`save`](Optimizer::save) of the [driver](TchOptimizer::driver) gave. The variables themselves are the
    /// `VarStore`'s to save and load.
    ///
    /// # Errors
    /// As [`Optimizer::load`].
    pub fn load(&mut self, checkpoint: &Checkpoint) -> Result<LoadReport> {
        Ok(self.driver.load(checkpoint)?)
    }

    /// Finds out where the variables are, each in memory of its own. A store that is loaded or cast moves them.
    fn locate(&mut self) -> Result<()> {
        // Taken out, so that after an error the next step looks at all of them.
        let mut memories = core::mem::take(&mut self.memories);
        let mut moved = memories.len() != self.variables.len();
        for (i, Variable { name, tensor, .. }) in self.variables.iter().enumerate() {
            let found =
                Memory::of(tensor).map_err(|problem| Error::Variable { name: name.clone(), problem })?;
            match memories.get_mut(i) {
                Some(memory) => {
                    moved |= *memory != found;
                    *memory = found;
                }
                None => memories.push(found),
            }
        }
        if moved {
            self.place(&memories)?;
        }
        self.memories = memories;
        Ok(())
    }

    /// Sorts the variables by their addresses. Each must have addresses of its own.
    fn place(&mut self, memories: &[Memory]) -> Result<()> {
        self.places.clear();
        let addresses = memories.iter().map(Memory::addresses).zip(0..);
        self.places.extend(addresses.filter(|(addresses, _)| !addresses.is_empty()));
        self.places.sort_unstable_by_key(|(addresses, _)| addresses.start);
        let mut pairs = self.places.array_windows();
        match pairs.find(|[(one, _), (other, _)]| one.end > other.start) {
            None => Ok(()),
            Some(&[(_, first), (_, second)]) => {
                let name = |i: usize| self.variables[i].name.clone();
                Err(Error::Shared { first: name(first.min(second)), second: name(first.max(second)) })
            }
        }
    }

    /// Collects the gradients in the order of the variables, contiguous.
    fn take(&mut self) -> Result<Vec<Gradient>> {
        self.copies = 0;
        let mut gradients = Vec::with_capacity(self.variables.len());
        for Variable { name, tensor, .. } in &self.variables {
            let gradient = tensor.f_grad()?;
            if !gradient.defined() {
                if self.requires_gradients && tensor.requires_grad() {
                    return Err(Error::NoGradient { name: name.clone() });
                }
                gradients.push(None);
                continue;
            }
            let refused = |problem| Error::Gradient { name: name.clone(), problem };
            let (copy, memory) = Memory::of_copy(&gradient).map_err(refused)?;
            self.copies += usize::from(copy.is_some());
            if let Some(owner) = self.owner_of(&memory.addresses()) {
                return Err(refused(format!("shares its memory with the variable {owner:?}")));
            }
            gradients.push(Some((copy.unwrap_or(gradient), memory)));
        }
        Ok(gradients)
    }

    /// Returns the variable that has some of these addresses.
    fn owner_of(&self, addresses: &Range<usize>) -> Option<&str> {
        let after = self.places.partition_point(|(place, _)| place.end <= addresses.start);
        let (place, owner) = self.places.get(after)?;
        let is_inside = !addresses.is_empty() && place.start < addresses.end;
        is_inside.then(|| self.variables[*owner].name.as_str())
    }
}
