//! Parameters of a step that a load does not fit, and what is said about them.

use super::{ComputeMismatch, LoadReport, ShapeMismatch};
use crate::checkpoint::rule_between;
use crate::error::list_names;
use fallline_core::{Compute, Shape};

/// How many of each kind an error names.
const SHOWN: usize = 3;

/// Parameters of a step that a load does not fit.
#[derive(Default)]
pub(crate) struct Mismatches {
    /// Those that it does not have.
    pub(crate) missing: Vec<String>,
    shape: Vec<ShapeMismatch>,
    computed: Vec<ComputeMismatch>,
    /// Those that are in another group, with the one that they are in and the saved one.
    groups: Vec<(String, usize, usize)>,
}

impl Mismatches {
    pub(crate) fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.shape.is_empty() && self.computed.is_empty() && self.groups.is_empty()
    }

    /// Compares shape and compute type of a parameter, as a step has them and as they were saved. `fits` says whether the
    /// shapes go together.
    pub(crate) fn compare(
        &mut self,
        param: &str,
        (shape, compute): (Shape, Compute),
        (was, computed): (&Shape, Compute),
        fits: bool,
    ) {
        let param = param.to_owned();
        if !fits {
            self.shape.push(ShapeMismatch { param, expected: shape, got: was.clone() });
        } else if compute != computed {
            self.computed.push(ComputeMismatch { param, expected: compute, got: computed });
        }
    }

    /// Notes that a parameter is in another group than it was saved in.
    pub(crate) fn regrouped(&mut self, param: &str, group: usize, was: usize) {
        self.groups.push((param.to_owned(), group, was));
    }

    /// Returns the parameters for which the load has something that does not fit.
    pub(crate) fn with_states(&self) -> impl Iterator<Item = &str> {
        let computed = self.computed.iter().map(|other| other.param.as_str());
        let groups = self.groups.iter().map(|(param, ..)| param.as_str());
        self.shape.iter().map(|other| other.param.as_str()).chain(computed).chain(groups)
    }

    /// Adds them to the load's report.
    pub(crate) fn add_to(self, report: &mut LoadReport) {
        report.missing.extend(self.missing);
        report.shape.extend(self.shape);
        report.computed.extend(self.computed);
        let groups = self.groups.into_iter();
        report
            .unexpected
            .extend(groups.map(|(param, _, was)| format!("the manifest's group {was} of {param:?}")));
    }

    /// Says what does not fit, and what helps. `left` are the parameters of the load that the step does not bind.
    pub(crate) fn complaint(&self, mut left: Vec<String>) -> String {
        left.sort();
        let shapes = self.shape.iter().map(|ShapeMismatch { param, expected, got }| {
            format!("parameter {param:?} has shape {got} in it, but {expected} here")
        });
        let computed = self.computed.iter().map(|ComputeMismatch { param, expected, got }| {
            format!("parameter {param:?} was computed in {got}, but here in {expected}")
        });
        let groups = self.groups.iter().map(|(param, group, was)| {
            format!("parameter {param:?} was in group {was}, and is in group {group} here")
        });
        let mut problems: Vec<String> =
            [first_of(shapes), first_of(computed), first_of(groups)].into_iter().flatten().collect();
        let mut hint = "LoadOptions::lenient() starts anew what does not fit".to_owned();
        if let (Some(ComputeMismatch { expected, .. }), 1) = (self.computed.first(), problems.len()) {
            hint = format!(
                "Driver::with_compute(Compute::{expected:?}) and LoadOptions::converting() convert it"
            );
        }
        if !self.missing.is_empty() {
            problems.push(format!("{} not in it", with_verb(&self.missing)));
        }
        // What is not bound alone may be bound later.
        if !left.is_empty() && (problems.is_empty() || !self.missing.is_empty()) {
            problems.push(format!("its {} not bound in this step", with_verb(&left)));
        }
        let rule = |name: &String| left.iter().find_map(|saved| rule_between(saved, name));
        if let Some((old, new)) = self.missing.iter().find_map(rule) {
            hint = format!("LoadOptions::rename({old:?}, {new:?}) gives it the names of this step");
        }
        format!("{} ({hint})", problems.join("; "))
    }
}

/// Returns the first sentences of a list, and how many there are more.
fn first_of(sentences: impl ExactSizeIterator<Item = String>) -> Option<String> {
    let count = sentences.len();
    let shown: Vec<String> = sentences.take(SHOWN).collect();
    let more = if count > SHOWN { format!(", and {} more", count - SHOWN) } else { String::new() };
    (count > 0).then(|| shown.join(", ") + &more)
}

/// Returns parameters with the verb that goes with their number.
fn with_verb(names: &[String]) -> String {
    format!("{} {}", list_names(names), if names.len() == 1 { "is" } else { "are" })
}
