//! A graph made of another one: more operations, other operands, other stores.

use super::{Graph, Node, live_from};
use crate::Operand;
use std::collections::HashMap;

/// A [`Graph`] that is being made of another one.
///
/// ```
/// use fallline_core::{Binary, Derivation, Graph, Node, Operand, Role, rule};
/// pub struct Rate { lr: f64 }
/// rule! {
///     pub Descent(h: Rate, t) { let lr = h.lr; }
///     element(g: Grad) -> (p: Param) { p = p - lr * g; }
/// }
/// let graph = Graph::record::<Descent>();
/// let mut halved = Derivation::of(&graph);
/// let half = halved.push(Node::Literal(0.5f64.to_bits()));
/// let p = halved.push(Node::Binary(Binary::Mul, graph.stores()[0], half));
/// let operands = graph.operands().iter().enumerate();
/// let operands = operands.map(|(k, operand)| (*operand, k as u32, operand.written.then_some(p))).collect();
/// let halved = halved.finish(operands, vec![]);
/// assert_eq!(halved.to_string(), "θₜ = (θₜ₋₁ − γ·g)·0.5\n");
/// ```
#[derive(Clone, Debug)]
pub struct Derivation {
    nodes: Vec<Node>,
    places: HashMap<Node, u32>,
    scalars: Vec<&'static str>,
}

/// An operand of a derived graph: what it is, the number that [`Node::Operand`] has, and the node that is stored.
pub type Derived = (Operand, u32, Option<u32>);

impl Derivation {
    /// Makes a derivation that begins with all operations of a graph, at their places.
    pub fn of(graph: &Graph) -> Derivation {
        let places = graph.nodes.iter().enumerate().map(|(place, node)| (*node, place as u32)).collect();
        Derivation { nodes: graph.nodes.clone(), places, scalars: graph.scalars.clone() }
    }

    /// Returns the operations so far, each after those that it uses.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns the place of an operation, which is added if it is not there yet.
    pub fn push(&mut self, node: Node) -> u32 {
        *self.places.entry(node).or_insert_with(|| {
            self.nodes.push(node);
            self.nodes.len() as u32 - 1
        })
    }

    /// Sets other scalars: those of the step that there are, and then these of the tensor.
    pub fn with_tensor_scalars(mut self, step: usize, tensor: &[&'static str]) -> Derivation {
        self.scalars.truncate(step);
        self.scalars.extend_from_slice(tensor);
        self
    }

    /// Adds the operations of a graph, given the places of its operands' values and of its scalars'. Returns the places
    /// of its stores, and those of its sums.
    ///
    /// # Panics
    /// When it has more operands or scalars than places are given.
    pub fn splice(&mut self, other: &Graph, operands: &[u32], scalars: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let mut placed: Vec<u32> = Vec::with_capacity(other.nodes.len());
        let live = other.live();
        for (node, live) in other.nodes.iter().zip(live) {
            let at = |place: u32| placed[place as usize];
            let place = match *node {
                // Never asked for.
                _ if !live => 0,
                Node::Operand(i) => operands[i as usize],
                Node::Scalar(i) => scalars[i as usize],
                node => self.push(node.with_inputs(at)),
            };
            placed.push(place);
        }
        let at = |place: u32| placed[place as usize];
        (
            other.stores.iter().map(|&place| at(place)).collect(),
            other.sums.iter().map(|&(_, place)| at(place)).collect(),
        )
    }

    /// Returns the place of an operation as it is where another one, `new`, replaces `old`.
    ///
    /// ```
    /// # use fallline_core::{Binary, Derivation, Graph, Node, rule};
    /// rule! {
    ///     pub Trailing(h: (), t) {}
    ///     element(g: Grad) -> (p: Param, last: State) { p = p - g; last = p + last; }
    /// }
    /// let graph = Graph::record::<Trailing>();
    /// let &[p, last] = graph.stores() else { panic!("two are written") };
    /// let mut halved = Derivation::of(&graph);
    /// let half = halved.push(Node::Literal(0.5f64.to_bits()));
    /// let new = halved.push(Node::Binary(Binary::Mul, p, half));
    /// let last = halved.replace(last, p, new);
    /// let stores = [new, last].map(Some).into_iter().chain([None]);
    /// let operands = graph.operands().iter().zip(stores).enumerate();
    /// let operands = operands.map(|(k, (operand, store))| (*operand, k as u32, store)).collect();
    /// assert_eq!(halved.finish(operands, vec![]).to_string(), "θₜ = (θₜ₋₁ − g)·0.5\nlastₜ = θₜ + lastₜ₋₁\n");
    /// ```
    pub fn replace(&mut self, root: u32, old: u32, new: u32) -> u32 {
        let live = live_from(&self.nodes, [root].into_iter());
        let mut placed: Vec<u32> = (0..self.nodes.len() as u32).collect();
        placed[old as usize] = new;
        // What comes before does not use it.
        for place in (old as usize + 1..live.len()).filter(|&place| live[place]) {
            placed[place] = self.push(self.nodes[place].with_inputs(|input| placed[input as usize]));
        }
        placed[root as usize]
    }

    /// Returns the graph of the operations that lead to what is stored or summed up. Operands that are neither read
    /// nor written fall away; of the others those that are written come first.
    pub fn finish(self, operands: Vec<Derived>, sums: Vec<(&'static str, u32)>) -> Graph {
        let stores = operands.iter().filter_map(|(_, _, store)| *store);
        let live = live_from(&self.nodes, stores.chain(sums.iter().map(|(_, place)| *place)));
        let reads = |number: u32| {
            self.nodes.iter().zip(&live).any(|(node, live)| *live && *node == Node::Operand(number))
        };
        let (written, others): (Vec<Derived>, Vec<Derived>) =
            operands.into_iter().partition(|(_, _, store)| store.is_some());
        let others = others.into_iter().filter(|(_, number, _)| reads(*number));
        let operands: Vec<Derived> = written.into_iter().chain(others).collect();
        let mut placed = vec![0; self.nodes.len()];
        let mut nodes = Vec::new();
        for (place, node) in self.nodes.iter().enumerate().filter(|(place, _)| live[*place]) {
            placed[place] = nodes.len() as u32;
            nodes.push(match *node {
                Node::Operand(number) => {
                    let found = operands.iter().position(|(_, of, _)| *of == number);
                    Node::Operand(found.expect("an operand that is read is declared") as u32)
                }
                node => node.with_inputs(|place| placed[place as usize]),
            });
        }
        let declared =
            operands.iter().map(|(operand, _, store)| Operand { written: store.is_some(), ..*operand });
        Graph {
            nodes,
            operands: Vec::leak(declared.collect()),
            scalars: self.scalars,
            stores: operands.iter().filter_map(|(_, _, store)| Some(placed[(*store)? as usize])).collect(),
            sums: sums.into_iter().map(|(name, place)| (name, placed[place as usize])).collect(),
        }
    }
}

impl Node {
    /// Returns the same operation on other places.
    fn with_inputs(self, at: impl Fn(u32) -> u32) -> Node {
        match self {
            Node::GradScale | Node::Scalar(_) | Node::Operand(_) | Node::Literal(_) => self,
            Node::Unary(does, a) => Node::Unary(does, at(a)),
            Node::Binary(does, a, b) => Node::Binary(does, at(a), at(b)),
            Node::Compare(does, a, b) => Node::Compare(does, at(a), at(b)),
            Node::Select(a, b, c) => Node::Select(at(a), at(b), at(c)),
            Node::Power(a, b) => Node::Power(at(a), at(b)),
        }
    }
}
