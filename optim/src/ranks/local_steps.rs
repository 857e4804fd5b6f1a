//! Ranks that hold parameters of their own for a while, between two exchanges.

use super::{Driver, Group};
use crate::checkpoint::{Checkpoint, Entry};
use crate::slots::Slot;
use crate::{Binding, Error, ParamFormat, Result};
use fallline_core::ranks::Buffer;
use fallline_core::{Format, Role};

impl Driver {
    /// Whether each rank has a value of its own of this parameter at this time, as with ZeroOneAdam between two exchanges.
    ///
    /// A trainer that tests its network then, or keeps it, takes the mean of the ranks' values
    /// ([`Communicator::all_reduce`](crate::ranks::Communicator::all_reduce)); training goes on from its own.
    pub fn is_parted(&self, param: &str) -> bool {
        self.world.is_some() && self.slots.get(param).is_some_and(|slot| self.parts(slot))
    }

    /// Gives the bound parameters the values that go with the checkpoint just loaded, where it was saved when the ranks
    /// had [values of their own](Driver::is_parted): this rank's, or, where another number of ranks goes on, the mean
    /// of theirs, which a checkpoint has as its states. Elsewhere nothing is changed. All of them must be bound, with or
    /// without gradients; a step before is an error.
    ///
    /// # Errors
    /// A parameter that is not bound, or in another way than it was saved; when the device fails.
    pub fn restore_params(&mut self, params: &mut [Binding<'_>]) -> Result<()> {
        if !self.unrestored {
            return Ok(());
        }
        let mut slots = core::mem::take(&mut self.slots);
        let mut restored = Ok(());
        for slot in slots.iter_mut().filter(|slot| self.parts(slot)) {
            let bound = params.iter_mut().find(|binding| binding.name == slot.name);
            restored = match bound {
                Some(binding) => self.restore_param(binding, slot),
                None => {
                    let (algorithm, name) = (self.groups[slot.group].algorithm.name(), &slot.name);
                    let problem = format!("{name:?} is to be restored, but is not bound");
                    Err(Error::Groups { algorithm, problem })
                }
            };
            if restored.is_err() {
                break;
            }
        }
        self.slots = slots;
        self.unrestored = restored.is_err();
        restored
    }

    /// Whether some parameters have to be restored after a load.
    pub(super) fn any_parted(&self) -> bool {
        self.world.is_some() && self.slots.iter().any(|slot| self.parts(slot))
    }

    pub(super) fn parts(&self, slot: &Slot) -> bool {
        self.groups[slot.group].algorithm.spec().replicas.have_diverged(&slot.memory)
    }

    fn restore_param(&self, binding: &mut Binding<'_>, slot: &mut Slot) -> Result<()> {
        self.check_binding(binding, slot)?;
        let algorithm = &self.groups[slot.group].algorithm;
        let Some(kernel) = algorithm.program(slot.variant).restore() else { return Ok(()) };
        let (backend, elements) = (&*self.backend, slot.shape.elements());
        let states = kernel.operands.iter().filter(|operand| operand.role == Role::State);
        let missing = states.map(|operand| operand.name);
        let missing: Vec<_> =
            missing.filter(|name| slot.states.iter().all(|(known, _)| known != name)).collect();
        let known = missing.is_empty();
        let requests = vec![(slot.compute.format(), elements); missing.len()];
        slot.states.extend(missing.into_iter().zip(backend.allocate(&requests)?));
        binding.param.gather();
        self.run_on(kernel, binding, slot, (&[1.0], &[f64::from(u8::from(known))]), true)?;
        binding.param.scatter();
        Ok(())
    }

    /// What several ranks cannot have where they hold parameters of their own.
    pub(super) fn refuse_parted(&self, group: &Group) -> Result<(), &'static str> {
        let Group { algorithm, formats, params, .. } = group;
        if algorithm.spec().replicas.diverged.is_none() {
            return Ok(());
        }
        let in_blocks =
            |state: &&str| formats.choose(&**algorithm, state, usize::MAX, Format::F32).block().is_some();
        match params {
            _ if self.averages.is_some() => {
                Err("between two exchanges each rank would average weights of its own")
            }
            ParamFormat::Stochastic { .. } => {
                Err("parameters of a rank's own cannot be rounded by chance: they would not be restored")
            }
            _ if algorithm.rank_local_states().iter().any(in_blocks) => {
                Err("states of a rank's own cannot be stored in blocks")
            }
            _ => Ok(()),
        }
    }

    /// Puts the mean of what the ranks have of their own into a checkpoint, for other numbers of ranks.
    pub(super) fn unite(&self, checkpoint: &mut Checkpoint, world: usize) {
        for slot in self.slots.iter().filter(|slot| self.parts(slot)) {
            let algorithm = &self.groups[slot.group].algorithm;
            let states = slot.states.iter().map(|(state, _)| *state);
            for state in states.filter(|state| algorithm.state(state).rank_local) {
                let own = (0..world).filter_map(|rank| checkpoint.of_rank(rank, &slot.name, state));
                let Some(format) = own.clone().next().map(|entry| entry.format) else { continue };
                let mut sum = vec![0.0; slot.shape.elements()];
                for entry in own {
                    sum.iter_mut().zip(entry.values::<f64>()).for_each(|(sum, value)| *sum += value);
                }
                let mut mean = Buffer::default();
                mean.resize(format, sum.len());
                let mut values = mean.slice_mut();
                sum.iter().enumerate().for_each(|(i, sum)| values.set(i, sum / world as f64));
                checkpoint.insert_state_entry(
                    &slot.name,
                    state,
                    Entry::new(slot.shape.clone(), mean.slice()),
                );
            }
        }
    }
}
