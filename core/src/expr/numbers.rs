//! Numbers between passes as a graph.

use super::{Binary, Comparison, Expr, Node, RECORDER, Recorder, Unary, live_from, push};
use crate::math;

/// Recorded numbers between two passes: named outputs from named inputs, in `f64`.
#[derive(Clone, Debug)]
pub struct NumberGraph {
    nodes: Vec<Node>,
    inputs: Vec<&'static str>,
    outputs: Vec<(&'static str, u32)>,
}

impl NumberGraph {
    /// Runs `work` once on symbols for the inputs, which come in groups, and has it fill in the outputs.
    pub(crate) fn record<const N: usize>(
        names: &[Vec<&'static str>; N],
        outputs: Vec<&'static str>,
        work: impl FnOnce([&[Expr]; N], &mut [Expr]),
    ) -> NumberGraph {
        RECORDER.with_borrow_mut(|recorder| *recorder = Recorder::default());
        let mut count = 0;
        let inputs = names.each_ref().map(|group| {
            let symbols = group.iter().map(|_| {
                count += 1;
                Expr(push(Node::Scalar(count - 1)))
            });
            symbols.collect::<Vec<Expr>>()
        });
        let mut found = vec![Expr(push(Node::Literal(0f64.to_bits()))); outputs.len()];
        work(inputs.each_ref().map(Vec::as_slice), &mut found);
        NumberGraph {
            nodes: RECORDER.take().nodes,
            inputs: names.concat(),
            outputs: outputs.into_iter().zip(found.iter().map(|expr| expr.0)).collect(),
        }
    }

    /// Returns the operations, each after those that it uses. Inputs are [`Node::Scalar`].
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns the inputs' names, by the numbers that [`Node::Scalar`] has.
    pub fn inputs(&self) -> &[&'static str] {
        &self.inputs
    }

    /// Returns each output's name, and the place of its node.
    pub fn outputs(&self) -> &[(&'static str, u32)] {
        &self.outputs
    }

    /// Returns which nodes lead to an output.
    pub fn live(&self) -> Vec<bool> {
        live_from(&self.nodes, self.outputs.iter().map(|(_, place)| *place))
    }

    /// Runs the recorded operations: the same bits as what was recorded.
    ///
    /// # Panics
    /// When there are fewer inputs than were declared.
    pub fn evaluate(&self, inputs: &[f64]) -> Vec<f64> {
        let mut values: Vec<f64> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let get = |place: u32| values[place as usize];
            let truth = |holds: bool| math::flag(holds);
            let value = match *node {
                Node::Scalar(i) => inputs[i as usize],
                Node::Literal(bits) => f64::from_bits(bits),
                Node::Unary(Unary::Neg, a) => -get(a),
                Node::Unary(Unary::Sqrt, a) => get(a).sqrt(),
                Node::Unary(Unary::Abs, a) => get(a).abs(),
                Node::Binary(Binary::Add, a, b) => get(a) + get(b),
                Node::Binary(Binary::Sub, a, b) => get(a) - get(b),
                Node::Binary(Binary::Mul, a, b) => get(a) * get(b),
                Node::Binary(Binary::Div, a, b) => get(a) / get(b),
                Node::Binary(Binary::Min, a, b) => {
                    if get(a) < get(b) {
                        get(a)
                    } else {
                        get(b)
                    }
                }
                Node::Binary(Binary::Max, a, b) => {
                    if get(a) > get(b) {
                        get(a)
                    } else {
                        get(b)
                    }
                }
                Node::Compare(Comparison::Lt, a, b) => truth(get(a) < get(b)),
                Node::Compare(Comparison::Le, a, b) => truth(get(a) <= get(b)),
                Node::Compare(Comparison::Eq, a, b) => truth(get(a) == get(b)),
                Node::Select(mask, yes, no) => {
                    if get(mask) > 0.0 {
                        get(yes)
                    } else {
                        get(no)
                    }
                }
                Node::Power(base, count) => math::pow(get(base), get(count) as u64),
                Node::GradScale | Node::Operand(_) => unreachable!("numbers have no operands"),
            };
            values.push(value);
        }
        self.outputs.iter().map(|(_, place)| values[*place as usize]).collect()
    }
}
