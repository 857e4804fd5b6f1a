//! Rules, erased: what a driver and a backend pass to each other.

use crate::{Between, Graph, Operand, Rule, ScalarDef};
use core::any::Any;
use core::fmt;

/// A [`Rule`] as plain data: its declaration, its scalars, its recording, and what a backend compiled
/// for it.
///
/// Made once for each rule by a [`Link`], in the crate that sees both the rule and the lanes.
pub struct Kernel {
    /// The rule's name.
    pub name: &'static str,
    /// First the operands that are written, then those that are only read.
    pub operands: &'static [Operand],
    /// The scalars of a step, in order.
    pub scalars: &'static [ScalarDef],
    /// The scalars that differ from tensor to tensor, in order.
    pub tensor_scalars: &'static [&'static str],
    /// What they are computed from.
    pub between: Between,
    /// The sums that a pass returns, in order.
    pub sums: &'static [&'static str],
    compute: fn(&dyn Any, u64, &mut [f64]) -> bool,
    record: fn() -> Graph,
    /// What the linking crate compiled for the host. The CPU backend knows its type.
    pub host: &'static (dyn Any + Send + Sync),
}

impl Kernel {
    /// Erases rule `R`, with `host` as the entries that a CPU backend compiled for it.
    pub const fn new<R: Rule>(host: &'static (dyn Any + Send + Sync)) -> Kernel {
        Kernel {
            name: R::NAME,
            operands: R::OPERANDS,
            scalars: R::SCALARS,
            tensor_scalars: R::TENSOR_SCALARS,
            between: Between::of::<R>(),
            sums: R::SUMS,
            compute: |hyper, t, out| match hyper.downcast_ref::<R::Hyper>() {
                Some(hyper) => {
                    R::scalars(hyper, t, out);
                    true
                }
                None => false,
            },
            record: Graph::record::<R>,
            host,
        }
    }

    /// Computes the scalars of step `t` (from 1) into `out`.
    ///
    /// # Panics
    /// When `hyper` is not the rule's own hyperparameters or `out` has not the length of
    /// [`scalars`](Kernel::scalars): both are mistakes in a driver, not in a user's input.
    pub fn compute_scalars(&self, hyper: &dyn Any, t: u64, out: &mut [f64]) {
        assert!((self.compute)(hyper, t, out), "{} was given another rule's hyperparameters", self.name);
    }

    /// The rule as a graph.
    pub fn record(&self) -> Graph {
        (self.record)()
    }

    /// Bytes that one element of a pass moves when `bytes(operand)` is an element's storage: each operand
    /// is read once, and written once if it is written.
    pub fn traffic(&self, bytes: impl Fn(&Operand) -> f64) -> f64 {
        self.operands.iter().map(|o| bytes(o) * if o.written { 2.0 } else { 1.0 }).sum()
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Where rules meet lanes: compiles a rule for a backend's instruction sets.
///
/// Algorithms are generic over it, so that the crate which names a `Link` is the one in which their
/// rules are compiled, once.
pub trait Link: 'static {
    /// The erased rule with its compiled entries.
    fn kernel<R: Rule>() -> &'static Kernel;
}
