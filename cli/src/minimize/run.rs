//! One optimizer's search.

use super::problems::Problem;
use crate::error::Result;
use crate::label::Label;
use fallline::core::fallible;
use fallline::optim::{Binding, Objective, param};
use fallline::registry::Length;
use fallline::{AnyRecipe, Backend};
use std::sync::Arc;

/// What memory is for in messages.
const VARIABLES: &str = "the variables and their gradient";
const STEPS: &str = "the losses of --steps";

/// What an optimizer did.
#[derive(Debug)]
pub struct Run {
    pub label: Label,
    /// The loss at the start and after each step.
    pub losses: Vec<f64>,
    /// The place at the start and after each step, where it was kept.
    pub way: Vec<Vec<f64>>,
    /// The place at the end.
    pub x: Vec<f64>,
    /// Whether loss and place were finite at the start and after each step.
    finite: Vec<bool>,
}

/// The function, and where the search is.
struct Search<'p> {
    problem: &'p Problem,
    x: Vec<f64>,
    grad: Vec<f64>,
}

impl Objective for Search<'_> {
    fn evaluate(&mut self) -> fallline::optim::Result<f64> {
        Ok(self.problem.evaluate(&self.x, &mut self.grad))
    }

    fn bindings(&mut self) -> Vec<Binding<'_>> {
        vec![param("x", &mut self.x, &self.grad)]
    }
}

impl Run {
    /// Takes the steps. The place after each is kept where `keeps` says so.
    pub fn new(
        (problem, start): (&Problem, &[f64]),
        recipe: &AnyRecipe,
        backend: Arc<dyn Backend>,
        steps: u64,
        keeps: bool,
    ) -> Result<Run> {
        let mut optimizer = recipe.optimizer(backend);
        // A step is an epoch of one, and the run has so many.
        let mut schedule = recipe.schedule_over(Length::new(1).of_epochs(steps), &mut *optimizer)?;
        let x = fallible::copied(start, VARIABLES)?;
        let mut search = Search { problem, x, grad: fallible::zeroed(start.len(), VARIABLES)? };
        let count = usize::try_from(steps).unwrap_or(usize::MAX).saturating_add(1);
        let mut losses = fallible::with_room(count, STEPS)?;
        let mut finite = fallible::with_room(count, STEPS)?;
        let mut way = Vec::new();
        if keeps {
            way = fallible::with_room(count, STEPS)?;
            let places = count.checked_mul(size_of_val(start));
            // Once here, and once in the file.
            fallible::check(places.and_then(|bytes| bytes.checked_mul(2)), "the trajectory")?;
        }
        for step in 0..=steps {
            finite.push(search.x.iter().all(|x| x.is_finite()));
            if keeps {
                way.push(search.x.clone());
            }
            if step == steps {
                break;
            }
            let loss = optimizer.step_with(&mut search)?;
            losses.push(loss);
            schedule.after_iteration(&mut *optimizer)?;
            schedule.after_epoch(&mut *optimizer)?;
            schedule.observe(false, &[("loss", loss)], &mut *optimizer)?;
            schedule.observe(true, &[("loss", loss)], &mut *optimizer)?;
        }
        losses.push(problem.evaluate(&search.x, &mut search.grad));
        finite.iter_mut().zip(&losses).for_each(|(finite, loss)| *finite &= loss.is_finite());
        Ok(Run { label: Label::of_recipe(recipe), losses, way, x: search.x, finite })
    }

    /// Returns how many steps were taken.
    pub fn steps(&self) -> u64 {
        self.losses.len() as u64 - 1
    }

    /// Returns the loss at the end.
    pub fn last(&self) -> f64 {
        self.losses.last().copied().unwrap_or(f64::NAN)
    }

    /// Returns the step from which on loss or place were not finite, up to the end.
    pub fn diverged_at(&self) -> Option<u64> {
        let last_finite = self.finite.iter().rposition(|finite| *finite);
        let first_not = last_finite.map_or(0, |step| step + 1);
        (first_not < self.finite.len()).then_some(first_not as u64)
    }
}
