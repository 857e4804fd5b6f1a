//! Powers whose count depends on sums: what a device needs to know of them.

use super::{Declared, Formulas};
use crate::{Binary, Node, NumberGraph};

/// A power of a number that the host knows, to a count of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerOf {
    /// The base: its place in [`Declared::once`].
    pub base: usize,
    /// What the count is more than a number that [counts steps](Formulas::counts_steps).
    pub more: u64,
}

/// The most that a count may be above a number of steps.
const MOST: f64 = 16.0;

impl Formulas {
    /// Returns the powers in all formulas, if a table of the bases' powers up to a number of steps has them; else
    /// none.
    pub fn powers(&self, declared: &Declared) -> Option<Vec<PowerOf>> {
        let mut found = Vec::new();
        for graph in self.graphs() {
            for node in graph.nodes() {
                if let &Node::Power(base, count) = node {
                    found.push(power_of(graph, declared, base, count)?);
                }
            }
        }
        Some(found)
    }

    /// Returns whether a shared scalar increases by 1 at most.
    pub fn counts_steps(&self, name: &str) -> bool {
        let graph = &self.update;
        let Some(&(_, place)) = graph.outputs().iter().find(|(known, _)| *known == name) else { return true };
        let is_input = |node: u32| match graph.nodes()[node as usize] {
            Node::Scalar(i) => graph.inputs()[i as usize] == name,
            _ => false,
        };
        goes_up(graph, place, &is_input)
    }

    /// Returns what the counts of powers are made of: the names of numbers that must [count
    /// steps](Formulas::counts_steps).
    pub fn counted(&self, declared: &Declared) -> Vec<&'static str> {
        let of = |graph: &NumberGraph, count: u32| {
            let (shared, _) = sum_of(graph, declared, count)?;
            Some(declared.shared[shared])
        };
        let counts = self.graphs().into_iter().flat_map(|graph| {
            graph.nodes().iter().filter_map(move |node| match node {
                Node::Power(_, count) => of(graph, *count),
                _ => None,
            })
        });
        counts.collect()
    }

    fn graphs(&self) -> [&NumberGraph; 4] {
        [&self.terms, &self.update, &self.skips, &self.tensor]
    }
}

fn power_of(graph: &NumberGraph, declared: &Declared, base: u32, count: u32) -> Option<PowerOf> {
    let Node::Scalar(base) = graph.nodes()[base as usize] else { return None };
    let base = Some(base as usize).filter(|base| *base < declared.once.len())?;
    let (_, more) = sum_of(graph, declared, count)?;
    Some(PowerOf { base, more })
}

/// Returns a shared number, by its place in [`Declared::shared`], and what is added to it.
fn sum_of(graph: &NumberGraph, declared: &Declared, count: u32) -> Option<(usize, u64)> {
    let first = declared.once.len() + declared.each.len() + declared.reads.len() + declared.totals.len();
    let shared = |node: u32| match graph.nodes()[node as usize] {
        Node::Scalar(i) => (i as usize).checked_sub(first).filter(|place| *place < declared.shared.len()),
        _ => None,
    };
    match graph.nodes()[count as usize] {
        Node::Binary(Binary::Add, a, b) => {
            let Node::Literal(bits) = graph.nodes()[b as usize] else { return None };
            let more = f64::from_bits(bits);
            let small = (0.0..=MOST).contains(&more) && more.fract() == 0.0;
            Some((shared(a)?, small.then_some(more as u64)?))
        }
        _ => Some((shared(count)?, 0)),
    }
}

/// Returns whether a node is the input, or one more, whatever a condition chooses.
fn goes_up(graph: &NumberGraph, node: u32, is_input: &impl Fn(u32) -> bool) -> bool {
    let one = Node::Literal(1f64.to_bits());
    match graph.nodes()[node as usize] {
        Node::Select(_, yes, no) => goes_up(graph, yes, is_input) && goes_up(graph, no, is_input),
        Node::Binary(Binary::Add, a, b) => is_input(a) && graph.nodes()[b as usize] == one,
        _ => is_input(node),
    }
}

#[cfg(test)]
mod tests {
    use super::PowerOf;
    use crate::{Between, Number, rule};

    struct Hyper;

    rule! {
        /// A count that goes up by one at most, taken to in two powers.
        Counted(h: Hyper, t) {}
        per_tensor(a) shared(k) {
            once(groups, at) { let base = 0.5; let other = 0.25; }
            update {
                a_power_of(other, k);
                k = N::select_if(base.pow(k + 2.0), k + 1.0, k);
            }
            tensor { let a = other.pow(k); }
        }
        element() -> () {}
    }

    rule! {
        /// One that doubles.
        Doubled(h: Hyper, t) {}
        per_tensor(a) shared(k) {
            once(groups, at) { let base = 0.5; }
            update { k = k + k; }
            tensor { let a = base.pow(k); }
        }
        element() -> () {}
    }

    rule! {
        /// A base that no table has, and a count of something else.
        Unknown(h: Hyper, t) {}
        per_tensor(a) shared(k) {
            once(groups, at) { let base = 0.5; }
            update { k = k + 1.0; }
            tensor { let a = (base + k).pow(k); }
        }
        element() -> () {}
    }

    fn a_power_of<N: Number>(base: N, count: N) -> N {
        base.pow(count)
    }

    #[test]
    fn counts_that_go_up_by_one_have_tables() {
        let between = Between::of::<Counted>();
        let formulas = between.record();
        let mut powers = formulas.powers(&between.declared).unwrap();
        powers.sort_by_key(|power| (power.base, power.more));
        let expected = [(0, 2), (1, 0), (1, 0)].map(|(base, more)| PowerOf { base, more });
        assert_eq!(powers, expected);
        assert!(formulas.counts_steps("k") && formulas.counts_steps("what it does not change"));
        assert!(formulas.counted(&between.declared).iter().all(|name| *name == "k"));

        let between = Between::of::<Doubled>();
        assert!(between.record().powers(&between.declared).is_some());
        assert!(!between.record().counts_steps("k"));

        let between = Between::of::<Unknown>();
        assert_eq!(between.record().powers(&between.declared), None);
        assert!(between.record().counts_steps("k"));
    }
}
