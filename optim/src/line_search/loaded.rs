//! What a load has brought, compared with the parameters of the next step.

use super::{Before, LineSearch};
use crate::report::mismatches::Mismatches;
use crate::{Binding, Error, Result};
use fallline_core::{Compute, Format, Shape};

/// Parameters of a step that a lenient load does not fit.
pub(super) struct Unfit {
    found: Mismatches,
    left: Vec<String>,
}

/// Compares what was loaded with the parameters of the step that is about to be taken. All of them are needed: what does not
/// fit a lenient load is told, and everything starts anew.
///
/// # Errors
/// [`Error::Mismatch`] with all that does not fit, where the load is strict.
pub(super) fn compare(
    (params, computed): (&[(String, Shape)], Compute),
    bindings: &[Binding<'_>],
    compute: Option<Compute>,
    lenient: bool,
) -> Result<Option<Unfit>> {
    let mut found = Mismatches::default();
    for binding in bindings {
        binding.check_shaped()?;
        let here = (Shape::from(binding.param.dims()), compute_of(binding, compute));
        match params.iter().find(|(name, _)| name == binding.name) {
            None => found.missing.push(binding.name.to_owned()),
            Some((_, was)) => {
                let fits = here.0 == *was;
                found.compare(binding.name, here, (was, computed), fits);
            }
        }
    }
    let names = params.iter().map(|(name, _)| name);
    let left = names.filter(|name| !bindings.iter().any(|binding| binding.name == *name));
    let left: Vec<String> = left.cloned().collect();
    if found.is_empty() && left.is_empty() {
        return Ok(None);
    }
    match lenient {
        true => Ok(Some(Unfit { found, left })),
        false => Err(Error::Mismatch(found.complaint(left))),
    }
}

/// Returns the compute type of a parameter.
pub(super) fn compute_of(binding: &Binding<'_>, chosen: Option<Compute>) -> Compute {
    let double = binding.param.format() == Format::F64;
    chosen.unwrap_or(if double { Compute::F64 } else { Compute::F32 })
}

impl LineSearch {
    /// Keeps what was found where the step went `through`, and brings back what was loaded where not.
    pub(super) fn settle_loaded(&mut self, unfit: Option<Unfit>, before: Before, through: bool) {
        if self.unproven.is_none() {
            return;
        }
        if !through {
            self.history = before.history;
            before.averages.into_iter().for_each(|slot| self.slots.push(slot));
            return;
        }
        self.unproven = None;
        if let Some(Unfit { found, left }) = unfit {
            let report = self.report.get_or_insert_default();
            report.matched = 0;
            found.add_to(report);
            report.unbound = left;
        }
    }
}
