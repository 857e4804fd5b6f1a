//! The engine: groups, parameters, programs and passes.
//!
//! It knows no policy. What is to be done to gradients before a step and to parameters behind it is a [`Fusion`],
//! which goes into the algorithm's passes.

mod allocate;
mod auxiliary;
mod execute;
pub(crate) mod fusion;
pub(crate) mod group;
mod launch;
mod launches;
#[cfg(feature = "checkpoints")]
mod load;
mod lookahead;
mod masks;
mod modes;
pub(crate) mod offload;
#[cfg(feature = "checkpoints")]
mod persist;
pub(crate) mod prepare;
pub(crate) mod qk_clip;
pub(crate) mod scalar_state;
pub(crate) mod setup;
mod state_views;
mod upload;

pub use state_views::StateView;

use crate::hyper::Value;
use crate::params::slots::Slots;
use crate::program::{MAX_KEPT, Mode, Variant};
use crate::{AnyAlgorithm, Result};
use fallline_core::Backend;
use launches::Launches;
use scalar_state::ScalarState;
use setup::Setup;
use std::sync::Arc;

/// Groups of parameters with their algorithms, the parameters' slots, and the passes over them.
pub(crate) struct Engine {
    /// What a step depends on and does not change.
    pub(crate) setup: Setup,
    /// As [`Algorithm::SHARED`](crate::Algorithm::SHARED), for each optimizer instance.
    pub(crate) shared: Vec<ScalarState>,
    pub(crate) slots: Slots,
    launches: Launches,
    /// Which weights the parameters hold.
    pub(crate) mode: Mode,
    /// Steps since parameters and slow weights were synchronised ([`Lookahead`](crate::Lookahead)).
    pub(crate) lookahead_steps: u64,
}

impl Engine {
    /// Creates an engine with one group of all parameters.
    pub(crate) fn new(backend: Arc<dyn Backend>, algorithm: Box<dyn AnyAlgorithm>) -> Engine {
        Engine {
            shared: vec![ScalarState::shared(&*algorithm)],
            setup: Setup::new(backend, algorithm),
            slots: Slots::default(),
            launches: Launches::default(),
            mode: Mode::Training,
            lookahead_steps: 0,
        }
    }

    /// Lets the next parameters take the slots from this place on. Within an incremental step they go on where the last ones
    /// stopped: `continues`.
    pub(crate) fn begin_at(&mut self, place: usize, continues: bool) {
        self.slots.begin_at(place);
        self.launches.continues = continues;
    }

    /// Returns whether the next step of an optimizer instance takes gradients that are averaged over the ranks.
    pub(crate) fn optimizer_averages(&self, optimizer: usize) -> bool {
        let replicas = &self.setup.optimizer(optimizer).spec().replicas;
        (replicas.gradients_averaged)(self.shared[optimizer].on_host())
    }

    /// Returns whether the next step takes gradients that are averaged over the ranks.
    pub(crate) fn averages_gradients(&self) -> bool {
        self.setup.ranks.is_none()
            || (0..self.shared.len()).all(|optimizer| self.optimizer_averages(optimizer))
    }

    /// Returns whether ranks may find different things in the gradients that they are given.
    pub(crate) fn gradients_are_local(&self) -> bool {
        self.setup.ranks.is_some() && !self.averages_gradients()
    }

    /// Advances the scalars that groups keep from step to step ([`Advances`](crate::Advances)): a step has been
    /// taken.
    pub(crate) fn advance(&mut self) -> Result<()> {
        for group in &mut self.setup.groups {
            let (mut values, mut count) = ([const { ("", Value::None) }; MAX_KEPT], 0);
            let program = group.algorithm.program(Variant::ONLY);
            program.advance(group.algorithm.core().hyper(), &mut |name, value| {
                values[count] = (name, value);
                count += 1;
            });
            if count > 0 {
                group.algorithm.set(&values[..count])?;
            }
        }
        Ok(())
    }
}
