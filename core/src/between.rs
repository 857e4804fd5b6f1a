//! Numbers between two passes: what a rule's tensor scalars follow from.
//!
//! The host computes what no sum decides ([`once`](crate::Rule::once), [`each`](crate::Rule::each)). What depends on
//! sums is written in the exact vocabulary of rules, over `f64` ([`Number`]). It runs on numbers, and is recorded
//! ([`Formulas`]) to be printed or compiled for a device. Both have the same bits.

mod powers;

pub use crate::rule::number::{Declared, Number, Numbers, Over};
pub use powers::PowerOf;

use crate::rule::scope::{GlobalAt, Groups, TensorAt};
use crate::{Expr, NumberGraph, Rule, ScalarDef};
use core::any::Any;
use core::fmt;

/// Returns the hyperparameters, if they are `H`; a rule without any needs none.
pub(crate) fn typed<H: 'static>(hyper: &dyn Any) -> Option<&H> {
    hyper.downcast_ref().or_else(|| (&() as &dyn Any).downcast_ref())
}

/// The numbers of a rule as plain data: what was declared, and how it is computed.
#[derive(Clone, Copy)]
pub struct Between {
    /// What was declared.
    pub declared: Declared,
    once: fn(&Groups<'_, '_, dyn Any>, &mut GlobalAt<'_>, &mut [f64]) -> bool,
    each: fn(&dyn Any, &mut TensorAt<'_>, &[f64], &mut [f64]) -> bool,
    terms: fn(&Numbers<'_, f64>, &mut [f64]),
    update: fn(&Numbers<'_, f64>, &mut [f64]),
    skips: fn(&[f64]) -> f64,
    tensor: fn(&Numbers<'_, f64>, &mut [f64], &mut [f64]),
    /// The rule's tensor scalars, and the same on symbols.
    tensor_scalars: &'static [&'static str],
    symbolic: Symbolic,
}

impl Between {
    /// Returns those of rule `R`.
    pub(crate) const fn of<R: Rule>() -> Between {
        Between {
            declared: R::BETWEEN,
            once: |groups, at, out| {
                let typed = |group: usize| typed::<R::Hyper>(groups.get(group));
                let Some(first) = typed(0) else { return false };
                R::once(&Groups::new(groups.count(), &|group| typed(group).unwrap_or(first)), at, out);
                true
            },
            each: |hyper, at, once, out| match typed::<R::Hyper>(hyper) {
                Some(hyper) => {
                    R::each(hyper, at, once, out);
                    true
                }
                None => false,
            },
            terms: R::terms::<f64>,
            update: R::update::<f64>,
            skips: R::skips::<f64>,
            tensor: R::tensor::<f64>,
            tensor_scalars: R::TENSOR_SCALARS,
            symbolic: Symbolic {
                terms: R::terms::<Expr>,
                update: R::update::<Expr>,
                skips: R::skips::<Expr>,
                tensor: R::tensor::<Expr>,
            },
        }
    }

    /// Returns the same numbers of a pass that is left out where another is.
    pub(crate) fn skipping_as(&self, other: &Between) -> Between {
        if !other.declared.may_skip {
            return *self;
        }
        let (shared, skips) = (other.declared.shared, other.skips);
        let symbolic = Symbolic { skips: other.symbolic.skips, ..self.symbolic };
        Between { declared: Declared { shared, may_skip: true, ..self.declared }, skips, symbolic, ..*self }
    }

    /// Returns whether it sees all tensors at once: no tensor's scalars are known before all tensors' sums are.
    pub fn is_global(&self) -> bool {
        self.declared.global
    }

    /// Computes the numbers that are the same for all tensors.
    ///
    /// # Panics
    /// When the groups' hyperparameters are not the rule's own: a mistake in an engine, not in a user's input.
    pub fn once(&self, groups: &Groups<'_, '_, dyn Any>, at: &mut GlobalAt<'_>, out: &mut [f64]) {
        assert!((self.once)(groups, at, out), "a rule was given another rule's hyperparameters");
    }

    /// Computes a tensor's own numbers.
    ///
    /// # Panics
    /// As [`once`](Between::once).
    pub fn each(&self, hyper: &dyn Any, at: &mut TensorAt<'_>, once: &[f64], out: &mut [f64]) {
        assert!((self.each)(hyper, at, once, out), "a rule was given another rule's hyperparameters");
    }

    /// Computes a tensor's terms of the totals.
    pub fn terms(&self, from: &Numbers<'_, f64>, out: &mut [f64]) {
        (self.terms)(from, out);
    }

    /// Changes what is remembered for all parameters together, from the totals.
    pub fn update(&self, from: &Numbers<'_, f64>, shared: &mut [f64]) {
        (self.update)(from, shared);
    }

    /// Returns whether the pass is left out, with sums of zero.
    pub fn skips(&self, shared: &[f64]) -> bool {
        (self.skips)(shared) > 0.0
    }

    /// As [`skips`](Between::skips), where the shared scalars have these names and values.
    pub fn skips_of(&self, names: &[(&'static str, f64)], values: &[f64]) -> bool {
        let of = |wanted: &&str| names.iter().position(|(name, _)| name == wanted).map(|place| values[place]);
        self.declared.may_skip && {
            let shared: Vec<f64> = self.declared.shared.iter().filter_map(of).collect();
            self.skips(&shared)
        }
    }

    /// Computes a tensor's scalars, and what is remembered for it.
    pub fn tensor(&self, from: &Numbers<'_, f64>, memory: &mut [f64], out: &mut [f64]) {
        (self.tensor)(from, memory, out);
    }

    /// Returns all of it that depends on sums, as formulas.
    pub fn record(&self) -> Formulas {
        Formulas::record(&self.declared, self.tensor_scalars, self.symbolic)
    }
}

impl fmt::Debug for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Between").field("declared", &self.declared).finish_non_exhaustive()
    }
}

/// Recorded numbers. The inputs of each graph are, in this order: [`Declared::once`], [`Declared::each`],
/// [`Declared::reads`], [`Declared::totals`], [`Declared::shared`], [`Declared::memory`].
#[derive(Clone, Debug)]
pub struct Formulas {
    /// A tensor's terms of the totals.
    pub terms: NumberGraph,
    /// What is remembered for all parameters together.
    pub update: NumberGraph,
    /// Above 0 where the pass is left out.
    pub skips: NumberGraph,
    /// A tensor's scalars, and then what is remembered for it.
    pub tensor: NumberGraph,
}

/// A rule's numbers on symbols. They are plain functions, so that recording is compiled once for all rules.
#[derive(Clone, Copy)]
struct Symbolic {
    terms: fn(&Numbers<'_, Expr>, &mut [Expr]),
    update: fn(&Numbers<'_, Expr>, &mut [Expr]),
    skips: fn(&[Expr]) -> Expr,
    tensor: fn(&Numbers<'_, Expr>, &mut [Expr], &mut [Expr]),
}

/// What is recorded: from inputs and what is remembered for a tensor, the outputs.
type Recorded<'a> = &'a dyn Fn(&Numbers<'_, Expr>, &[Expr], &mut [Expr]);

impl Formulas {
    fn record(d: &Declared, tensor_scalars: &[&'static str], rule: Symbolic) -> Formulas {
        let defs = |defs: &'static [ScalarDef]| defs.iter().map(|def| def.name).collect::<Vec<_>>();
        let names =
            [&defs(d.once)[..], &defs(d.each), d.reads, d.totals, d.shared, d.memory].map(<[&str]>::to_vec);
        let record = |outputs: Vec<&'static str>, work: Recorded<'_>| {
            NumberGraph::record(&names, outputs, |inputs, out| {
                let [once, each, sums, totals, shared, memory] = inputs;
                work(&Numbers { once, each, sums, totals, shared }, memory, out);
            })
        };
        Formulas {
            terms: record(d.totals.to_vec(), &|from, _, out| (rule.terms)(from, out)),
            update: record(d.shared.to_vec(), &|from, _, out| {
                out.copy_from_slice(from.shared);
                (rule.update)(from, out);
            }),
            skips: record(vec!["skips"], &|from, _, out| out[0] = (rule.skips)(from.shared)),
            tensor: record([tensor_scalars, d.memory].concat(), &|from, memory, out| {
                let (scalars, remembered) = out.split_at_mut(tensor_scalars.len());
                remembered.copy_from_slice(memory);
                (rule.tensor)(from, remembered, scalars);
            }),
        }
    }
}

/// Returns the place of a name among others; used by [`rule!`](crate::rule!) while compiling.
///
/// # Panics
/// When it is not there: while compiling, then.
#[doc(hidden)]
pub const fn place(names: &[&str], name: &str) -> usize {
    let mut i = 0;
    while i < names.len() {
        if same(names[i], name) {
            return i;
        }
        i += 1;
    }
    panic!("the pass before returns no sum of this name")
}

/// Returns whether two names are the same, while compiling.
#[doc(hidden)]
pub const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}
