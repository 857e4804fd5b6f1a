//! What a load has brought, compared with the parameters of the next step.

use super::lbfgs::History;
use super::{LineSearch, sorted_bindings};
use crate::params::slots::Slot;
use crate::report::mismatches::Mismatches;
use crate::{Binding, Error, Objective, Result};
use fallline_core::{Compute, Format, Shape};

/// What a lenient load had and the step being taken does not fit.
pub(super) struct Aside {
    history: History,
    averages: Vec<Slot>,
    found: Mismatches,
    left: Vec<String>,
}

impl LineSearch {
    /// Compares what was loaded with the parameters of the step that is about to be taken. All of them are needed: what a
    /// lenient load has of others is laid aside as a whole.
    ///
    /// # Errors
    /// [`Error::Mismatch`] with all that does not fit, where the load is strict.
    pub(super) fn compare_loaded(&mut self, objective: &mut dyn Objective) -> Result<Option<Aside>> {
        let (Some(lenient), Some(history)) = (self.unproven, &self.history) else { return Ok(None) };
        let bindings = sorted_bindings(objective);
        let mut found = Mismatches::default();
        for binding in &bindings {
            binding.check_shaped()?;
            let (shape, compute) = (Shape::from(binding.param.dims()), self.compute_of(binding));
            match history.params.iter().find(|(name, _)| name == binding.name) {
                None => found.missing.push(binding.name.to_owned()),
                Some((_, was)) => {
                    let fits = shape == *was;
                    found.compare(binding.name, (shape, compute), (was, history.compute), fits);
                }
            }
        }
        let names = history.params.iter().map(|(name, _)| name);
        let left = names.filter(|name| !bindings.iter().any(|binding| binding.name == *name));
        let left: Vec<String> = left.cloned().collect();
        if found.is_empty() && left.is_empty() {
            return Ok(None);
        }
        if !lenient {
            return Err(Error::Mismatch(found.complaint(left)));
        }
        let averages = found.with_states().filter_map(|name| self.slots.remove(name)).collect();
        Ok(self.history.take().map(|history| Aside { history, averages, found, left }))
    }

    /// Keeps what was found where the step went `through`, and brings back what was laid aside where not.
    pub(super) fn settle_loaded(&mut self, aside: Option<Aside>, through: bool) {
        match (aside, through) {
            (None, true) => self.unproven = None,
            (None, false) => {}
            (Some(Aside { found, left, .. }), true) => {
                self.unproven = None;
                let report = self.report.get_or_insert_default();
                report.matched = 0;
                found.add_to(report);
                report.unbound = left;
            }
            (Some(Aside { history, averages, .. }), false) => {
                self.history = Some(history);
                averages.into_iter().for_each(|slot| self.slots.push(slot));
            }
        }
    }

    /// Returns the compute type of a parameter.
    pub(super) fn compute_of(&self, binding: &Binding<'_>) -> Compute {
        let double = binding.param.format() == Format::F64;
        self.compute.unwrap_or(if double { Compute::F64 } else { Compute::F32 })
    }
}
