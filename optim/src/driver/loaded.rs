//! What a load has brought, compared with the parameters that steps bind after it.

use crate::checkpoint::{LoadOptions, Manifest, differ_in_wrappers};
use crate::engine::Engine;
use crate::gradients::accumulate::{Sum, Window};
use crate::params::slots::{Slot, Slots};
use crate::report::mismatches::Mismatches;
use crate::{Binding, Error, LoadReport, Result, StepReport};
use std::fmt::{self, Write};

/// The last load, and how far steps have been compared with it.
#[derive(Default)]
pub(crate) struct Loaded {
    report: Option<LoadReport>,
    lenient: bool,
    /// Whether it knows the kinds of modules, by which parameters may have their groups.
    knows_kinds: bool,
    /// Whether no step has gone through since an optimizer without parameters was loaded.
    is_first: bool,
    /// Whether steps are still to be compared.
    pending: bool,
    /// What the step being taken starts anew, until it is known to go through.
    found: Mismatches,
    /// What a lenient load had for that.
    aside: Vec<(Slot, Option<Sum>)>,
    /// Whether steps have found what their report is to tell.
    is_news: bool,
}

impl Loaded {
    /// Returns the last load, with what `report` says of it. `was_new` says whether the optimizer had no parameters before.
    pub(super) fn new(
        report: LoadReport,
        options: &LoadOptions,
        (manifest, slots): (&Manifest, &Slots),
        was_new: bool,
    ) -> Loaded {
        let brought = slots.iter().any(|slot| slot.unbound);
        Loaded {
            report: Some(report),
            lenient: options.lenient,
            knows_kinds: manifest.origin.is_none(),
            is_first: was_new && brought,
            pending: brought,
            ..Loaded::default()
        }
    }

    /// Returns what the last load has restored, with what steps have found since.
    pub(super) fn report(&self) -> Option<&LoadReport> {
        self.report.as_ref()
    }

    /// Writes what ranks must have loaded alike.
    pub(super) fn fingerprint(&self, slots: &Slots, text: &mut String) -> fmt::Result {
        if !self.pending {
            return Ok(());
        }
        let unbound = slots.iter().filter(|slot| slot.unbound).count();
        let (lenient, first) = (self.lenient, self.is_first);
        writeln!(text, "{unbound} parameters loaded, lenient={lenient}, first={first}")
    }

    /// Compares what a step binds with what was loaded, before anything is changed. What a lenient load has for
    /// parameters that it does not fit is laid aside: they start anew.
    ///
    /// # Errors
    /// [`Error::Mismatch`] with all that does not fit, where the load is strict.
    pub(super) fn check(
        &mut self,
        engine: &mut Engine,
        window: &mut Window,
        bindings: &[Binding<'_>],
    ) -> Result<()> {
        if !self.pending {
            return Ok(());
        }
        let mut found = Mismatches::default();
        for (i, binding) in bindings.iter().enumerate() {
            if !engine.slots.has_bound(i, binding.name) {
                self.compare(engine, binding, &mut found)?;
            }
        }
        if !found.is_empty() && !self.lenient {
            let bound = |slot: &Slot| bindings.iter().any(|binding| binding.name == slot.name);
            let left = engine.slots.iter().filter(|slot| slot.unbound && !bound(slot));
            let left = left.map(|slot| slot.name.clone()).collect();
            return Err(Error::Mismatch(found.complaint(left)));
        }
        for binding in bindings {
            let slot = engine.slots.get_mut(binding.name).filter(|slot| slot.unbound);
            if let (Some(slot), Some(kind)) = (slot, binding.kind) {
                slot.kind = kind;
            }
        }
        for name in found.with_states() {
            let sum = window.remove(name);
            self.aside.extend(engine.slots.remove(name).map(|slot| (slot, sum)));
        }
        self.found = found;
        Ok(())
    }

    /// Compares a parameter that no step has bound since the load.
    fn compare(&self, engine: &Engine, binding: &Binding<'_>, found: &mut Mismatches) -> Result<()> {
        binding.check_shaped()?;
        let Some(slot) = engine.slots.get(binding.name) else {
            let wraps = |slot: &Slot| slot.unbound && differ_in_wrappers(&slot.name, binding.name);
            if self.is_first || engine.slots.iter().any(wraps) {
                found.missing.push(binding.name.to_owned());
            }
            return Ok(());
        };
        // What it would be without a load: it is checked as one.
        let new = engine.setup.new_slot(binding)?;
        let fits = binding.param.dims().fit(&slot.shape);
        // Without a kind in the binding the saved one holds.
        if binding.kind.is_some() && self.knows_kinds && new.group != slot.group {
            found.regrouped(binding.name, new.group, slot.group);
        }
        found.compare(binding.name, (new.shape, new.compute), (&slot.shape, slot.compute), fits);
        Ok(())
    }

    /// Keeps what was found for a step that went `through`, whose parameters have the first `bound` slots. Else brings
    /// back what was laid aside.
    pub(super) fn settle(&mut self, engine: &mut Engine, window: &mut Window, through: bool, bound: usize) {
        if !self.pending {
            return;
        }
        let slots = &mut engine.slots;
        let (found, aside) = (core::mem::take(&mut self.found), core::mem::take(&mut self.aside));
        if !through {
            for (slot, sum) in aside {
                window.insert(&slot.name, sum);
                slots.push(slot);
            }
            return;
        }
        slots.range(0..bound).iter_mut().for_each(|slot| slot.unbound = false);
        let Some(report) = &mut self.report else { return };
        report.unbound.retain(|name| slots.get(name).is_some_and(|slot| slot.unbound));
        self.is_news |= !found.is_empty();
        report.matched = report.matched.saturating_sub(aside.len());
        found.add_to(report);
    }

    /// Ends a step over all parameters that are bound, which went through. Its report gets what it tells of the load, if
    /// anything did not fit.
    pub(super) fn end_step(&mut self, slots: &Slots, step: &mut StepReport) {
        let Some(report) = self.report.as_mut().filter(|_| self.pending) else { return };
        if self.is_first {
            let unbound = slots.iter().filter(|slot| slot.unbound);
            report.unbound = unbound.map(|slot| slot.name.clone()).collect();
            report.unbound.sort();
            self.is_news |= !report.unbound.is_empty();
        }
        self.pending = slots.iter().any(|slot| slot.unbound);
        self.is_first = false;
        step.loaded = core::mem::take(&mut self.is_news).then(|| Box::new(report.clone()));
    }
}
