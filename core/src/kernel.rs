//! Rules, erased: what a driver and a backend pass to each other.

use crate::between::typed;
use crate::{Between, Graph, Operand, Rule, ScalarDef};
use core::any::{Any, TypeId};
use core::fmt;
use std::sync::OnceLock;

/// A [`Rule`] as plain data: its declaration, its scalars, its recording, and what a backend compiled
/// for it.
///
/// Made once for each rule by a [`Link`](crate::Link), in the crate that sees both the rule and the lanes.
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
    hyper: fn() -> TypeId,
    compute: fn(&dyn Any, u64, &mut [f64]) -> bool,
    record: Record,
    /// What the linking crate compiled for the host. The CPU backend knows its type.
    pub host: &'static (dyn Any + Send + Sync),
}

/// Where a kernel's graph is from.
#[derive(Clone, Copy)]
enum Record {
    /// The rule itself.
    Rule(fn() -> Graph),
    /// Another kernel's, changed.
    Derived(&'static Recorded),
}

/// What replaces the compiled entries of a kernel that was [derived](Kernel::derived): its graph, and what a backend
/// makes of it once.
pub struct Recorded {
    graph: Graph,
    prepared: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl Recorded {
    /// Returns the graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Returns what a backend makes of the graph, made by the first who asks; `None` where another backend has made
    /// something else of it.
    pub fn prepared<T: Any + Send + Sync>(&self, make: impl FnOnce(&Graph) -> T) -> Option<&T> {
        self.prepared.get_or_init(|| Box::new(make(&self.graph))).downcast_ref()
    }
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
            hyper: TypeId::of::<R::Hyper>,
            compute: |hyper, t, out| match typed::<R::Hyper>(hyper) {
                Some(hyper) => {
                    R::scalars(hyper, t, out);
                    true
                }
                None => false,
            },
            record: Record::Rule(Graph::record::<R>),
            host,
        }
    }

    /// Returns a kernel with another graph: with this one's scalars of a step, and the tensor scalars of `numbers`.
    /// It is left out where this one is. For each derived kernel memory is kept for good.
    pub fn derived(&self, name: String, graph: Graph, numbers: &Kernel) -> &'static Kernel {
        let operands = graph.operands();
        let sums = Vec::leak(graph.sums().iter().map(|(name, _)| *name).collect());
        let recorded: &'static Recorded = Box::leak(Box::new(Recorded { graph, prepared: OnceLock::new() }));
        let record = Record::Derived(recorded);
        let tensor_scalars = numbers.tensor_scalars;
        let between = numbers.between.skipping_as(&self.between);
        let (name, host) = (name.leak(), recorded);
        Box::leak(Box::new(Kernel { name, operands, tensor_scalars, between, sums, record, host, ..*self }))
    }

    /// Returns whether these are the rule's own hyperparameters.
    pub fn takes(&self, hyper: &dyn Any) -> bool {
        (self.hyper)() == hyper.type_id()
    }

    /// Computes the scalars of step `t` (from 1) into `out`. A rule without hyperparameters takes any.
    ///
    /// # Panics
    /// When `hyper` is not the rule's own hyperparameters, or the length of `out` is not that of
    /// [`scalars`](Kernel::scalars). Both are mistakes in a driver, not in a user's input.
    pub fn compute_scalars(&self, hyper: &dyn Any, t: u64, out: &mut [f64]) {
        assert!((self.compute)(hyper, t, out), "{} was given another rule's hyperparameters", self.name);
    }

    /// Returns the rule as a graph.
    pub fn record(&self) -> Graph {
        match self.record {
            Record::Rule(record) => record(),
            Record::Derived(recorded) => recorded.graph.clone(),
        }
    }

    /// Returns the bytes that one element of a pass moves, with `bytes(operand)` those of an element's storage. Each
    /// operand is read once, and written once if it is written.
    pub fn traffic(&self, bytes: impl Fn(&Operand) -> f64) -> f64 {
        self.operands.iter().map(|o| bytes(o) * if o.written { 2.0 } else { 1.0 }).sum()
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("name", &self.name).finish_non_exhaustive()
    }
}
