//! What is known while an element-wise kernel is printed.

use super::operand::{Blocks, Broadcast, Operand, Stochastic, Stored, substep_len};
use crate::ptx::formula::{self, Line};
use crate::ptx::{Builder, Reg, Target, Type, Value};
use fallline_core::{Compute, Format, Graph, Node};

/// Accumulators that a lane owns.
pub(super) const OWNED: usize = fallline_core::reduction::ACCUMULATORS / 32;
/// What is known while an element-wise kernel is printed.
pub(super) struct Element<'a> {
    pub(super) b: Builder,
    pub(super) graph: &'a Graph,
    pub(super) live: Vec<bool>,
    pub(super) lines: Vec<Line>,
    pub(super) compute: Type,
    pub(super) target: Target,
    /// The operands, then the copies.
    pub(super) operands: Vec<Operand>,
    /// Where the lane's elements are, counted in fours of the tensor's.
    pub(super) counter4: Option<Reg>,
    /// Which of the tensor's elements the lane's first is, where one is repeated.
    pub(super) element: Option<Reg>,
    /// Values that are the same for all elements, by node.
    pub(super) uniform: Vec<Option<Value>>,
    /// How many of the lane's elements are loaded, computed and stored together.
    pub(super) substep: usize,
    /// For each sum the lane's eight terms of this step.
    pub(super) terms: Vec<Vec<Reg>>,
    /// For each sum the accumulators that the lane owns.
    pub(super) accumulators: Vec<[Reg; OWNED]>,
    /// Whether a number says that the pass is left out.
    pub(super) skips: bool,
}

/// Elements of a lane that are taken together, from `first` on, and the places in the code where they are moved.
pub(super) struct SubStep {
    pub(super) first: usize,
    pub(super) loads: String,
    pub(super) loaded: String,
    pub(super) stores: String,
    pub(super) stored: String,
}

impl SubStep {
    pub(super) fn new(b: &mut Builder, first: usize) -> SubStep {
        let [loads, loaded, stores, stored] =
            ["masked_loads", "loaded", "masked_stores", "stored"].map(|name| b.label(name));
        SubStep { first, loads, loaded, stores, stored }
    }
}

/// Registers of a warp's place in the work.
pub(super) struct Place {
    pub(super) lane: Reg,
    /// Elements of the chunk that are not done.
    pub(super) rest: Reg,
    /// The segment's place among all partials.
    pub(super) segment: Option<Reg>,
    /// How many elements a step must have for the straight way; more than any has when something is
    /// misaligned.
    pub(super) whole: Reg,
}

impl<'a> Element<'a> {
    pub(super) fn new(
        graph: &'a Graph,
        name: &str,
        compute: Compute,
        stored: &[Stored],
        target: Target,
    ) -> Self {
        let live = graph.live();
        let used = |operand: usize| {
            let place = graph.nodes().iter().position(|node| *node == Node::Operand(operand as u32));
            place.is_some_and(|place| live[place])
        };
        let untouched = |name: String, format: Format, word: usize| {
            let (loaded, store, address, stochastic, repeated, raw, new) = Default::default();
            let blocks = Blocks::of(format);
            Operand { name, format, word, blocks, stochastic, repeated, loaded, store, address, raw, new }
        };
        // The written operands come first, as the stores do.
        let store_of = |operand: usize| graph.stores().get(operand).copied();
        let declared = || graph.operands().iter().zip(stored).enumerate();
        let mut operands: Vec<Operand> = declared()
            .map(|(i, (operand, stored))| {
                let stochastic = stored.stochastic && stored.format == Format::Bf16 && store_of(i).is_some();
                let plain = store_of(i).is_none() && stored.format.block().is_none();
                assert!(plain || !stored.repeated, "{name}: a repeated operand that is written or in blocks");
                Operand {
                    loaded: used(i),
                    store: store_of(i),
                    stochastic: stochastic.then(Stochastic::new),
                    repeated: stored.repeated.then(Broadcast::default),
                    ..untouched(operand.name.to_owned(), stored.format, 2 * i)
                }
            })
            .collect();
        operands.extend(declared().filter_map(|(i, (operand, stored))| {
            let (format, store) = (stored.copy?, Some(store_of(i)?));
            assert!(stored.format.block().or(format.block()).is_none(), "{name}: a copy of or in blocks");
            Some(Operand { store, ..untouched(format!("{}_copy", operand.name), format, 2 * i + 1) })
        }));
        Element {
            b: Builder::new(name),
            graph,
            lines: formula::lines(graph),
            compute: match compute {
                Compute::F32 => Type::F32,
                Compute::F64 => Type::F64,
            },
            target,
            substep: substep_len(&operands),
            operands,
            counter4: None,
            element: None,
            uniform: vec![None; graph.nodes().len()],
            live,
            terms: Vec::new(),
            accumulators: Vec::new(),
            skips: false,
        }
    }
}
