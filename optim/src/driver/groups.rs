//! Groups of parameters: which belongs to which, with what hyperparameters, of which optimizer, and how it is stored.

use super::Driver;
use crate::engine::group::{Group, ParamInfo};
use crate::engine::offload::check_offloadable;
use crate::engine::scalar_state::ScalarState;
use crate::engine::setup::Offload;
use crate::hyper::Value;
use crate::mask::MomentumMask;
use crate::modifiers::LOOKAHEAD_STEPS;
use crate::params::mask::GroupMask;
use crate::{AnyAlgorithm, Error, ParamPrecision, Result, StateStorage};
use fallline_core::Backend;
use std::path::PathBuf;
use std::sync::Arc;

const LR: &str = "lr";

impl Driver {
    /// Adds a group for the parameters whose names `matches` accepts, with the hyperparameters of the first
    /// group but for `overrides`. Where several groups match, the first added has it; parameters that match
    /// none stay in group 0. Parameters that were stepped already stay where they are.
    ///
    /// # Errors
    /// When a hyperparameter does not exist, has another type or is out of range.
    pub fn add_group(
        &mut self,
        matches: impl Fn(&str) -> bool + Send + Sync + 'static,
        overrides: &[(&str, Value)],
    ) -> Result<usize> {
        let mut algorithm = self.engine.setup.groups[0].algorithm.boxed();
        algorithm.set(overrides)?;
        let Group { formats, params, mask, optimizer, .. } = &self.engine.setup.groups[0];
        let (stored, optimizer) = ((formats.clone(), *params, mask.clone()), *optimizer);
        Ok(self.push_group(algorithm, stored, move |member| matches(member.name), optimizer))
    }

    /// Adds a group of an algorithm with all its hyperparameters, for the parameters that `matches` accepts; as
    /// [`add_group`](Driver::add_group) otherwise. `beside` is the group whose optimizer instance this group joins;
    /// it must be of the same algorithm. Global state (a norm, an estimate) is computed per instance, and states are
    /// stored as there. Without, the group is a separate optimizer.
    ///
    /// # Errors
    /// [`Error::Groups`] where the algorithm is another than that of `beside`.
    pub fn add_group_of(
        &mut self,
        algorithm: Box<dyn AnyAlgorithm>,
        matches: impl Fn(&ParamInfo<'_>) -> bool + Send + Sync + 'static,
        beside: Option<usize>,
    ) -> Result<usize> {
        let refused = |name, problem: String| Err(Error::Groups { algorithm: name, problem });
        self.engine.same_lookahead(algorithm.name(), algorithm.modifiers().lookahead)?;
        let mut storing = (StateStorage::default(), ParamPrecision::default(), None);
        let optimizer = match beside {
            None => self.engine.setup.groups.iter().map(|group| group.optimizer + 1).max().unwrap_or(0),
            Some(group) => {
                let count = self.engine.setup.groups.len();
                let beside = self.engine.setup.groups.get(group).ok_or(Error::NoGroup { group, count })?;
                if beside.algorithm.name() != algorithm.name() {
                    let other = beside.algorithm.name();
                    return refused(algorithm.name(), format!("a group of it cannot be part of {other}"));
                }
                storing = (beside.formats.clone(), beside.params, beside.mask.clone());
                beside.optimizer
            }
        };
        Ok(self.push_group(algorithm, storing, matches, optimizer))
    }

    /// Adds a group of an algorithm for the parameters that `matches` accepts, as
    /// [`add_group_of`](Driver::add_group_of). It joins the first group of the same algorithm, so that both are one
    /// optimizer; of another algorithm it is a separate one.
    ///
    /// # Errors
    /// As [`add_group_of`](Driver::add_group_of).
    pub fn with_group(
        mut self,
        algorithm: Box<dyn AnyAlgorithm>,
        matches: impl Fn(&ParamInfo<'_>) -> bool + Send + Sync + 'static,
    ) -> Result<Driver> {
        let groups = &self.engine.setup.groups;
        let beside = groups.iter().position(|group| group.algorithm.name() == algorithm.name());
        self.add_group_of(algorithm, matches, beside)?;
        Ok(self)
    }

    fn push_group(
        &mut self,
        algorithm: Box<dyn AnyAlgorithm>,
        (formats, params, mask): (StateStorage, ParamPrecision, Option<Arc<GroupMask>>),
        matches: impl Fn(&ParamInfo<'_>) -> bool + Send + Sync + 'static,
        optimizer: usize,
    ) -> usize {
        if optimizer == self.engine.shared.len() {
            self.engine.shared.push(ScalarState::shared(&*algorithm));
        }
        self.engine.setup.groups.push(Group {
            algorithm,
            formats,
            params,
            mask,
            matches: Box::new(matches),
            optimizer,
        });
        self.engine.setup.groups.len() - 1
    }

    /// Makes the first step fail with [`Error::Unmatched`] if none of its parameters' names is accepted. For the
    /// rules of a configuration, in which a mistake would go unnoticed.
    pub fn expect_match(&mut self, rule: &str, matches: impl Fn(&str) -> bool + Send + Sync + 'static) {
        self.expected.push(rule, Box::new(matches));
    }

    /// Returns the group of a parameter not seen before.
    pub fn group_of(&self, member: &ParamInfo<'_>) -> usize {
        self.engine.setup.group_of(member)
    }

    /// Returns the algorithm of a group with its hyperparameters.
    pub fn algorithm_of(&self, group: usize) -> Option<&dyn AnyAlgorithm> {
        self.engine.setup.groups.get(group).map(|group| &*group.algorithm)
    }

    /// Returns the learning rate of a group; none where there is no such group, or its algorithm has no `lr`.
    ///
    /// ```
    /// # fn with(mut optimizer: fallline_optim::Driver) -> fallline_optim::Result<()> {
    /// optimizer.set_lr(1e-4)?;
    /// assert_eq!(optimizer.lr(0), Some(1e-4));
    /// # Ok(())
    /// # }
    /// ```
    pub fn lr(&self, group: usize) -> Option<f64> {
        match self.engine.setup.groups.get(group)?.algorithm.get(LR)? {
            Value::Float(lr) => Some(lr),
            _ => None,
        }
    }

    /// Sets the learning rate of all groups, or of none. For that of one group, use [`Optimizer::set`](crate::Optimizer::set).
    ///
    /// # Errors
    /// Where it is out of range, or an algorithm has no `lr`.
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        let groups = &mut self.engine.setup.groups;
        // Several are tried first, so that a refusal changes none.
        for group in groups.iter().skip(1) {
            group.algorithm.boxed().set(&[(LR, lr.into())])?;
        }
        for group in groups {
            group.algorithm.set(&[(LR, lr.into())])?;
        }
        Ok(())
    }

    /// Stores a group's states in these formats, from its parameters' first step on. Groups added later have those of
    /// the first.
    ///
    /// # Errors
    /// [`Error::StateFormat`] when the algorithm has no such state, or needs its states as they are computed;
    /// [`Error::NoGroup`].
    pub fn set_state_storage(&mut self, group: usize, formats: StateStorage) -> Result<()> {
        let count = self.engine.setup.groups.len();
        let found = self.engine.setup.groups.get_mut(group).ok_or(Error::NoGroup { group, count })?;
        formats.check(&*found.algorithm)?;
        found.formats = formats;
        Ok(())
    }

    /// Stores a group's parameters of 16 bits so, from their first step on. Groups added later have the format of the
    /// first.
    ///
    /// # Errors
    /// [`Error::NoGroup`].
    pub fn set_param_precision(&mut self, group: usize, format: ParamPrecision) -> Result<()> {
        let count = self.engine.setup.groups.len();
        let found = self.engine.setup.groups.get_mut(group).ok_or(Error::NoGroup { group, count })?;
        found.params = format;
        Ok(())
    }

    /// Returns how a group's states are stored, where not as the algorithm has it.
    pub fn state_storage(&self, group: usize) -> Option<&StateStorage> {
        self.engine.setup.groups.get(group).map(|group| &group.formats)
    }

    /// Returns how a group stores parameters of 16 bits.
    pub fn param_precision(&self, group: usize) -> Option<ParamPrecision> {
        self.engine.setup.groups.get(group).map(|group| group.params)
    }

    /// Keeps the states of parameters with at least a hundred thousand elements in memory-mapped files of this
    /// folder, of all groups. With none, those of groups whose algorithm is a paged one are in the system's folder
    /// for temporary files.
    pub fn set_spill_dir(&mut self, folder: Option<PathBuf>) {
        self.engine.setup.spill_dir = folder;
    }

    /// Sets which elements of a group's parameters have a momentum, from the next step on; [`None`] for all. Groups that
    /// are added later have that of the first.
    ///
    /// # Errors
    /// [`Error::Groups`] for an algorithm that takes no mask; [`Error::NoGroup`]. Whether it fits its parameters the next
    /// step says.
    pub fn set_momentum_mask(&mut self, group: usize, mask: Option<MomentumMask>) -> Result<()> {
        let count = self.engine.setup.groups.len();
        let found = self.engine.setup.groups.get_mut(group).ok_or(Error::NoGroup { group, count })?;
        if mask.is_some() {
            MomentumMask::check(&*found.algorithm)?;
        }
        found.mask = mask.map(|mask| Arc::new(GroupMask { text: mask.text(), mask }));
        self.engine.setup.masked |= found.mask.is_some();
        Ok(())
    }

    /// Returns which elements of a group's parameters have a momentum, where not all.
    pub fn momentum_mask(&self, group: usize) -> Option<&MomentumMask> {
        self.engine.setup.groups.get(group)?.mask.as_ref().map(|mask| &mask.mask)
    }

    /// Keeps states on `host` and computes there (CPU offload), for parameters and gradients that are tensors on the device.
    /// The host also keeps the parameters in the compute type (in `f32`, the state `master` where the tensors have 16 bits).
    /// Gradients are copied down and parameters up in chunks, while other chunks are stepped. Norms, clipping, accumulation and
    /// averages stay on the device. The results are bitwise those of [`ParamPrecision::MasterWeights`].
    ///
    /// Where the first step binds memory of the host there is nothing to copy, and everything happens there. What is
    /// written to the tensors between steps is lost.
    ///
    /// # Errors
    /// [`Error::Groups`] for an algorithm that [cannot be offloaded](crate::can_offload), or when the optimizer has
    /// stepped already.
    pub fn offload(&mut self, host: Arc<dyn Backend>) -> Result<()> {
        for group in &self.engine.setup.groups {
            check_offloadable(group)?;
        }
        if self.engine.slots.len() > 0 {
            let problem = "it has stepped already: its states are where they are".into();
            return Err(Error::Groups { algorithm: self.engine.setup.groups[0].algorithm.name(), problem });
        }
        let setup = &mut self.engine.setup;
        if host.device() != setup.backend.device() {
            let device = core::mem::replace(&mut setup.backend, host);
            setup.offload = Some(Offload { device, resolved: false });
        }
        Ok(())
    }

    /// Returns the algorithm's shared scalars ([`Algorithm::SHARED`](crate::Algorithm::SHARED)), by name: the `d` of
    /// D-Adaptation, say. With [`Lookahead`](crate::Lookahead) `lookahead_steps` too. On a device that computes it
    /// this waits for the steps so far; where the device failed there is none.
    pub fn shared(&self, name: &str) -> Option<f64> {
        let engine = &self.engine;
        if name == LOOKAHEAD_STEPS && engine.lookahead().is_some() {
            return Some(engine.lookahead_steps as f64);
        }
        let names = engine.setup.optimizer(0).spec().shared;
        let place = names.iter().position(|(known, _)| *known == name)?;
        engine.shared[0].get(&*engine.setup.backend).ok().map(|values| values[place])
    }
}
