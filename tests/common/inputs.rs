//! The table of names: what each takes and refuses, and what of the suites it cannot do, as torch's `OptimizerInfo` has it.
//! All suites take their cases from here; `tests/suites/conformance.rs` says what is missing.

mod table;

pub use table::INPUTS;

use fallline::registry::names::ENTRIES;

/// A name of the registry.
pub struct Inputs {
    pub name: &'static str,
    /// Configurations that are taken. They choose each rule, and each hyperparameter has another value than its default in
    /// one of them.
    pub good: &'static [&'static str],
    /// One that is taken, with as many states as there can be.
    pub largest: &'static str,
    /// Arguments that are refused, each with the whole complaint. Where a source raises, so does this. An int stays an int in
    /// it, and a float a float.
    pub bad: &'static [(&'static str, &'static str)],
    /// What is skipped, with the reason.
    pub skips: &'static [(Skip, &'static str)],
}

/// A part of the suites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// All steps.
    Step,
    /// Parameters that are not matrices.
    Flat,
    /// The same bits on CUDA as on the CPU: its products of matrices are equal within rounding only.
    Products,
    /// That a parameter's step does not depend on the others.
    Alone,
    /// Groups with different learning rates.
    Rates,
    /// That a gradient of zeros moves something.
    Rest,
    /// Cautious updates, in the words in which they are refused.
    Cautious,
    /// Checkpoints of its source: it has no row in `convert/src/layout/table.rs`.
    Convert,
}

impl Inputs {
    /// Returns whether a part of the suites is skipped.
    pub fn skips(&self, part: Skip) -> bool {
        self.skips.iter().any(|(skipped, _)| *skipped == part)
    }

    /// Returns whether it takes flat tensors with dense gradients.
    pub const fn is_flat(&self) -> bool {
        let mut i = 0;
        while i < self.skips.len() {
            if matches!(self.skips[i].0, Skip::Step | Skip::Flat) {
                return false;
            }
            i += 1;
        }
        true
    }
}

/// Returns the row of a name, if it has one.
pub fn inputs_of(name: &str) -> Option<&'static Inputs> {
    INPUTS.iter().find(|inputs| inputs.name == name)
}

/// The good inputs of all names that take flat tensors.
pub const CASES: &[&str] = &flat::<{ count(true) }>(true);

/// One case for each name that takes flat tensors, with as many states as it can have.
pub const ONE_EACH: &[&str] = &flat::<{ count(false) }>(false);

/// Returns how many good inputs the names that take flat tensors have, or how many such names there are.
const fn count(all: bool) -> usize {
    let (mut count, mut row) = (0, 0);
    while row < INPUTS.len() {
        if INPUTS[row].is_flat() {
            count += if all { INPUTS[row].good.len() } else { 1 };
        }
        row += 1;
    }
    count
}

/// Returns the good inputs of the names that take flat tensors, or the largest of each.
const fn flat<const N: usize>(all: bool) -> [&'static str; N] {
    let (mut cases, mut count, mut row) = ([""; N], 0, 0);
    while row < INPUTS.len() {
        let of_row: &[&str] = if all { INPUTS[row].good } else { &[INPUTS[row].largest] };
        let mut i = 0;
        while INPUTS[row].is_flat() && i < of_row.len() {
            cases[count] = of_row[i];
            (count, i) = (count + 1, i + 1);
        }
        row += 1;
    }
    cases
}

/// Names without a row, with the reason.
pub const NO_ROW: &[(&str, &str)] = &[(
    "ZeroRedundancyOptimizer",
    "takes what the algorithm that it names takes, in that one's words: tests/engine/refusals.rs",
)];

/// Returns what is wrong with the rows, and where to write what is missing.
pub fn problems() -> Vec<String> {
    let mut problems = Vec::new();
    for entry in ENTRIES.iter().filter(|entry| NO_ROW.iter().all(|(name, _)| *name != entry.name)) {
        let rows = INPUTS.iter().filter(|inputs| inputs.name == entry.name).count();
        if rows != 1 {
            let rows = if rows == 0 { "no row" } else { "several rows" };
            problems.push(format!("{} has {rows} in tests/common/inputs/table.rs", entry.name));
        }
    }
    for name in INPUTS.iter().map(|inputs| inputs.name).chain(NO_ROW.iter().map(|row| row.0)) {
        if ENTRIES.iter().all(|entry| entry.name != name) {
            problems.push(format!(
                "{name} has a row in tests/common/inputs/table.rs, and is not listed in optim/src/algorithms.rs"
            ));
        }
    }
    problems
}
