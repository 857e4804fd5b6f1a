//! The recording lane: running a rule on [`Expr`] yields its expression graph.

mod derive;
mod numbers;
mod print;

pub use derive::{Derivation, Derived};
pub use numbers::NumberGraph;
pub use print::symbol;

use crate::rule::{self, number::Number};
use crate::{Arithmetic, Array, Literal, Role, Rule, Vector, private::Sealed};
use std::cell::RefCell;
use std::collections::HashMap;

/// A symbol for one value of a rule: the lane that records instead of calculating.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Expr(u32);

/// A symbol for the outcome of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Condition(u32);

/// One operation of a [`Graph`]. Numbers are places of earlier nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Node {
    /// The factor that is applied to every gradient.
    GradScale,
    /// The scalar at this place: those of the step, then those of the tensor.
    Scalar(u32),
    /// The operand at this place, as loaded.
    Operand(u32),
    /// A literal: the bits of an `f64`, to be rounded once to the compute type.
    Literal(u64),
    /// A function of one value.
    Unary(Unary, u32),
    /// A function of two values.
    Binary(Binary, u32, u32),
    /// A comparison of two values, for a [`Select`](Node::Select).
    Compare(Comparison, u32, u32),
    /// The second where the first, a comparison, is true, else the third.
    Select(u32, u32, u32),
    /// The first to the power of the second, a count: in a [`NumberGraph`] only.
    Power(u32, u32),
}

/// Functions of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of `Arithmetic`, where they are defined")]
pub enum Unary {
    Neg,
    Sqrt,
    Abs,
}

/// Functions of two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of `Arithmetic`, where they are defined")]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
}

/// Comparisons, all false where either value is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of `Arithmetic`, where they are defined")]
pub enum Comparison {
    Lt,
    Le,
    Eq,
}

/// Nodes being recorded on this thread; equal ones are made once.
#[derive(Default)]
struct Recorder {
    nodes: Vec<Node>,
    places: HashMap<Node, u32>,
}

thread_local!(static RECORDER: RefCell<Recorder> = RefCell::default());

fn push(node: Node) -> u32 {
    RECORDER.with_borrow_mut(|recorder| {
        if let Some(&place) = recorder.places.get(&node) {
            return place;
        }
        let place = recorder.nodes.len() as u32;
        recorder.nodes.push(node);
        recorder.places.insert(node, place);
        place
    })
}

impl Sealed for Expr {}
impl Arithmetic for Expr {
    type Mask = Condition;
    fn splat(x: f64) -> Self {
        Expr(push(Node::Literal(x.to_bits())))
    }
    fn add(self, other: Self) -> Self {
        Expr(push(Node::Binary(Binary::Add, self.0, other.0)))
    }
    fn sub(self, other: Self) -> Self {
        Expr(push(Node::Binary(Binary::Sub, self.0, other.0)))
    }
    fn mul(self, other: Self) -> Self {
        Expr(push(Node::Binary(Binary::Mul, self.0, other.0)))
    }
    fn div(self, other: Self) -> Self {
        Expr(push(Node::Binary(Binary::Div, self.0, other.0)))
    }
    fn neg(self) -> Self {
        Expr(push(Node::Unary(Unary::Neg, self.0)))
    }
    fn sqrt(self) -> Self {
        Expr(push(Node::Unary(Unary::Sqrt, self.0)))
    }
    fn abs(self) -> Self {
        Expr(push(Node::Unary(Unary::Abs, self.0)))
    }
    fn min(self, other: Self) -> Self {
        Expr(push(Node::Binary(Binary::Min, self.0, other.0)))
    }
    fn max(self, other: Self) -> Self {
        Expr(push(Node::Binary(Binary::Max, self.0, other.0)))
    }
    fn lt(self, other: Self) -> Condition {
        Condition(push(Node::Compare(Comparison::Lt, self.0, other.0)))
    }
    fn le(self, other: Self) -> Condition {
        Condition(push(Node::Compare(Comparison::Le, self.0, other.0)))
    }
    fn eq(self, other: Self) -> Condition {
        Condition(push(Node::Compare(Comparison::Eq, self.0, other.0)))
    }
    fn select(mask: Condition, yes: Self, no: Self) -> Self {
        Expr(push(Node::Select(mask.0, yes.0, no.0)))
    }
}
crate::operators!(Expr);

impl Number for Expr {
    fn pow(self, count: Expr) -> Expr {
        Expr(push(Node::Power(self.0, count.0)))
    }
}

/// A recorded rule: what it computes from named inputs, as a graph in which nothing is there twice.
///
/// ```
/// use fallline_core::{Graph, Vector, Scalar, rule};
/// pub struct Rate { lr: f64 }
/// rule! {
///     pub Descent(h: Rate, t) { let lr = h.lr; }
///     element(g: Grad) -> (p: Param) { p = p - lr * g; }
/// }
/// let graph = Graph::record::<Descent>();
/// assert_eq!(graph.to_string(), "θₜ = θₜ₋₁ − γ·g\n");
/// let mut operands = [Scalar(1.0f32), Scalar(4.0)];
/// graph.evaluate(Scalar(1.0), &[Scalar(0.25)], &mut operands, &mut []);
/// assert_eq!(operands[0], Scalar(0.0));
/// ```
#[derive(Clone, Debug)]
pub struct Graph {
    nodes: Vec<Node>,
    operands: &'static [crate::Operand],
    scalars: Vec<&'static str>,
    /// For each written operand, in order, the node that is stored.
    stores: Vec<u32>,
    sums: Vec<(&'static str, u32)>,
}

impl Graph {
    /// Runs rule `R` once on symbols.
    pub fn record<R: Rule>() -> Graph {
        let scalars = R::SCALARS.iter().map(|s| s.name).chain(R::TENSOR_SCALARS.iter().copied());
        Graph::record_on(scalars.collect(), R::OPERANDS, R::SUMS, |grad_scale, scalars, operands, sums| {
            let mut own = (R::Scalars::fill(grad_scale), R::Operands::fill(grad_scale));
            own.0.as_mut().copy_from_slice(scalars);
            own.1.as_mut().copy_from_slice(operands);
            sums.copy_from_slice(rule::apply::<R, Expr>(grad_scale, &own.0, &mut own.1).as_ref());
            operands.copy_from_slice(own.1.as_ref());
        })
    }

    /// Records a rule, which changes the operands and fills in the sums. It is a plain function, so that this is compiled
    /// once for all rules.
    fn record_on(
        scalars: Vec<&'static str>,
        operands: &'static [crate::Operand],
        sums: &[&'static str],
        rule: fn(Expr, &[Expr], &mut [Expr], &mut [Expr]),
    ) -> Graph {
        RECORDER.with_borrow_mut(|recorder| *recorder = Recorder::default());
        let symbols = |count: usize, node: fn(u32) -> Node| -> Vec<Expr> {
            (0..count).map(|i| Expr(push(node(i as u32)))).collect()
        };
        let inputs = symbols(scalars.len(), Node::Scalar);
        let mut values = symbols(operands.len(), Node::Operand);
        let grad_scale = Expr(push(Node::GradScale));
        let mut terms = vec![grad_scale; sums.len()];
        rule(grad_scale, &inputs, &mut values, &mut terms);
        let written = operands.iter().zip(&values).filter(|(operand, _)| operand.written);
        Graph {
            nodes: RECORDER.take().nodes,
            operands,
            scalars,
            stores: written.map(|(_, expr)| expr.0).collect(),
            sums: sums.iter().zip(&terms).map(|(name, expr)| (*name, expr.0)).collect(),
        }
    }

    /// Returns the operations, each after those that it uses.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns the declared operands, the written ones first.
    pub fn operands(&self) -> &'static [crate::Operand] {
        self.operands
    }

    /// Returns the scalars' names: those of the step, then those of the tensor.
    pub fn scalars(&self) -> &[&'static str] {
        &self.scalars
    }

    /// Returns, for each written operand in order, the place of the node that is stored.
    pub fn stores(&self) -> &[u32] {
        &self.stores
    }

    /// Returns, for each sum, its name and the place of the node that is added up.
    pub fn sums(&self) -> &[(&'static str, u32)] {
        &self.sums
    }

    /// Returns which nodes lead to a store or a sum.
    pub fn live(&self) -> Vec<bool> {
        live_from(&self.nodes, self.stores.iter().copied().chain(self.sums.iter().map(|(_, place)| *place)))
    }

    /// Runs the recorded operations on any lane: the same bits as the rule itself.
    ///
    /// `operands` has one value for each operand and `sums` for each sum.
    ///
    /// # Panics
    /// When a slice is shorter than what was declared.
    pub fn evaluate<L: Vector>(&self, grad_scale: L, scalars: &[L], operands: &mut [L], sums: &mut [L])
    where
        f64: Literal<L>,
    {
        enum Slot<L: Vector> {
            Value(L),
            Mask(L::Mask),
        }
        let mut slots: Vec<Slot<L>> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let value = |place: u32| match slots[place as usize] {
                Slot::Value(value) => value,
                Slot::Mask(_) => unreachable!("comparisons are recorded as conditions"),
            };
            let slot = match *node {
                Node::GradScale => Slot::Value(grad_scale),
                Node::Scalar(i) => Slot::Value(scalars[i as usize]),
                Node::Operand(i) => Slot::Value(operands[i as usize]),
                Node::Literal(bits) => Slot::Value(L::splat(f64::from_bits(bits))),
                Node::Unary(Unary::Neg, a) => Slot::Value(-value(a)),
                Node::Unary(Unary::Sqrt, a) => Slot::Value(value(a).sqrt()),
                Node::Unary(Unary::Abs, a) => Slot::Value(value(a).abs()),
                Node::Binary(Binary::Add, a, b) => Slot::Value(value(a) + value(b)),
                Node::Binary(Binary::Sub, a, b) => Slot::Value(value(a) - value(b)),
                Node::Binary(Binary::Mul, a, b) => Slot::Value(value(a) * value(b)),
                Node::Binary(Binary::Div, a, b) => Slot::Value(value(a) / value(b)),
                Node::Binary(Binary::Min, a, b) => Slot::Value(value(a).min(value(b))),
                Node::Binary(Binary::Max, a, b) => Slot::Value(value(a).max(value(b))),
                Node::Compare(Comparison::Lt, a, b) => Slot::Mask(value(a).lt(value(b))),
                Node::Compare(Comparison::Le, a, b) => Slot::Mask(value(a).le(value(b))),
                Node::Compare(Comparison::Eq, a, b) => Slot::Mask(value(a).eq(value(b))),
                Node::Select(mask, yes, no) => match slots[mask as usize] {
                    Slot::Mask(mask) => Slot::Value(L::select(mask, value(yes), value(no))),
                    Slot::Value(_) => unreachable!("values are recorded as expressions"),
                },
                Node::Power(..) => unreachable!("rules have no powers: lanes have none"),
            };
            slots.push(slot);
        }
        let value = |place: u32| match slots[place as usize] {
            Slot::Value(value) => value,
            Slot::Mask(_) => unreachable!("only expressions are stored"),
        };
        for (operand, &place) in operands.iter_mut().zip(&self.stores) {
            *operand = value(place);
        }
        for (sum, &(_, place)) in sums.iter_mut().zip(&self.sums) {
            *sum = value(place);
        }
    }
}

/// Returns which nodes lead to a root.
fn live_from(nodes: &[Node], roots: impl Iterator<Item = u32>) -> Vec<bool> {
    let mut live = vec![false; nodes.len()];
    roots.for_each(|root| live[root as usize] = true);
    for place in (0..nodes.len()).rev() {
        if live[place] {
            nodes[place].inputs().for_each(|input| live[input as usize] = true);
        }
    }
    live
}

impl Node {
    /// Returns the places of the nodes that this one uses.
    pub fn inputs(&self) -> impl Iterator<Item = u32> {
        let (inputs, count) = match *self {
            Node::GradScale | Node::Scalar(_) | Node::Operand(_) | Node::Literal(_) => ([0; 3], 0),
            Node::Unary(_, a) => ([a, 0, 0], 1),
            Node::Binary(_, a, b) | Node::Compare(_, a, b) | Node::Power(a, b) => ([a, b, 0], 2),
            Node::Select(a, b, c) => ([a, b, c], 3),
        };
        inputs.into_iter().take(count)
    }

    /// Returns whether this is the gradient, scaled: what a rule calls by the gradient's name.
    fn scaled_grad(&self, nodes: &[Node], operands: &[crate::Operand]) -> Option<&'static str> {
        let Node::Binary(Binary::Mul, a, b) = *self else { return None };
        match (nodes[a as usize], nodes[b as usize]) {
            (Node::Operand(i), Node::GradScale) if operands[i as usize].role == Role::Grad => {
                Some(operands[i as usize].name)
            }
            _ => None,
        }
    }
}
