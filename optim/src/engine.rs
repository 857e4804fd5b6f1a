//! The engine: groups, parameters, programs and passes.
//!
//! It knows no policy. What is to be done to gradients before a step and to weights behind it comes as a [`Fusion`], and goes
//! into the passes of the algorithm itself.

mod allocate;
mod auxiliary;
mod execute;
pub(crate) mod fusion;
pub(crate) mod group;
mod launch;
mod launches;
mod load;
mod lookahead;
mod masks;
mod modes;
pub(crate) mod offload;
mod persist;
pub(crate) mod prepare;
pub(crate) mod setup;
pub(crate) mod shared;
mod upload;

use crate::hyper::Value;
use crate::params::slots::Slots;
use crate::program::{MAX_KEPT, Mode, Variant};
use crate::{AnyAlgorithm, Result};
use fallline_core::Backend;
use launches::Launches;
use setup::Setup;
use shared::Shared;
use std::sync::Arc;

/// Groups of parameters with their algorithms, the parameters' slots, and the passes over them.
pub(crate) struct Engine {
    /// What a step depends on and does not change.
    pub(crate) setup: Setup,
    /// As [`Algorithm::SHARED`](crate::Algorithm::SHARED), for each family of groups.
    pub(crate) shared: Vec<Shared>,
    pub(crate) slots: Slots,
    launches: Launches,
    /// Which weights the parameters hold.
    pub(crate) mode: Mode,
    /// Steps since parameters and slow weights were synchronised ([`Lookahead`](crate::Lookahead)).
    pub(crate) lookahead_steps: u64,
}

impl Engine {
    /// An engine with one group of all parameters.
    pub(crate) fn new(backend: Arc<dyn Backend>, algorithm: Box<dyn AnyAlgorithm>) -> Engine {
        Engine {
            shared: vec![Shared::of(&*algorithm)],
            setup: Setup::new(backend, algorithm),
            slots: Slots::default(),
            launches: Launches::default(),
            mode: Mode::Training,
            lookahead_steps: 0,
        }
    }

    /// Whether the next step of a family takes gradients that are averaged over the ranks.
    pub(crate) fn family_averages(&self, family: usize) -> bool {
        let replicas = &self.setup.family(family).spec().replicas;
        (replicas.gradients_averaged)(self.shared[family].on_host())
    }

    /// Whether the next step takes gradients that are averaged over the ranks.
    pub(crate) fn averages_gradients(&self) -> bool {
        self.setup.ranks.is_none() || (0..self.shared.len()).all(|family| self.family_averages(family))
    }

    /// Whether ranks may find different things in the gradients that they are given.
    pub(crate) fn inspects_alone(&self) -> bool {
        self.setup.ranks.is_some() && !self.averages_gradients()
    }

    /// What a group remembers from step to step ([`Advances`](crate::Advances)) changes: a step has been taken.
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
