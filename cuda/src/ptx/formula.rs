//! A graph as formulas for comments, in the rule's own words and in ASCII.

use fallline_core::{Binary, Comparison, Graph, Node, Operand, Role, Unary};

/// One line: a node and how it is computed from operands, scalars and the nodes of the lines above.
pub(super) struct Line {
    /// The node that the line is about.
    pub place: u32,
    /// What the line calls it.
    pub name: String,
    /// `name = formula`.
    pub text: String,
}

/// How tightly a formula binds: what binds less than it must gets parentheses.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Binds {
    Choice,
    Sum,
    Product,
    Atom,
}

#[derive(Clone)]
struct Formula(String, Binds);

impl Formula {
    fn within(&self, least: Binds) -> String {
        if self.1 < least { format!("({})", self.0) } else { self.0.clone() }
    }
}

/// Returns the lines of a graph in the order of its nodes. There is one for each node that is stored (`m'` is the
/// new `m`) or added up. Each node that is used more than once has one too.
pub(super) fn lines(graph: &Graph) -> Vec<Line> {
    let live = graph.live();
    let mut uses = vec![0; graph.nodes().len()];
    for (node, _) in graph.nodes().iter().zip(&live).filter(|(_, live)| **live) {
        node.inputs().for_each(|input| uses[input as usize] += 1);
    }
    let mut lines = Vec::new();
    let mut temporaries = 0;
    let mut formulas: Vec<Formula> = Vec::with_capacity(uses.len());
    for (place, node) in graph.nodes().iter().enumerate() {
        let mut formula = formula(graph, node, &formulas);
        let mut names = names_of(graph, place as u32);
        if names.is_empty() && live[place] && uses[place] > 1 && formula.1 < Binds::Atom {
            temporaries += 1;
            names.push(format!("t{temporaries}"));
        }
        if let Some(name) = names.first().cloned() {
            let text = format!("{} = {}", names.join(" = "), formula.0);
            lines.push(Line { place: place as u32, name: name.clone(), text });
            // What is stored as it was loaded keeps its name.
            if !matches!(node, Node::Operand(_)) {
                formula = Formula(name, Binds::Atom);
            }
        }
        formulas.push(formula);
    }
    lines
}

/// Returns what a node is called because it is stored or added up.
fn names_of(graph: &Graph, place: u32) -> Vec<String> {
    let stored = graph.operands().iter().zip(graph.stores()).filter(|(_, store)| **store == place);
    let summed = graph.sums().iter().filter(|(_, term)| *term == place);
    stored
        .map(|(operand, _)| format!("{}'", operand.name))
        .chain(summed.map(|(name, _)| format!("{name}[i]")))
        .collect()
}

fn formula(graph: &Graph, node: &Node, formulas: &[Formula]) -> Formula {
    let get = |place: u32| &formulas[place as usize];
    let infix = |a: u32, sign: &str, b: u32, binds: Binds, right: Binds| {
        Formula(format!("{} {sign} {}", get(a).within(binds), get(b).within(right)), binds)
    };
    let call = |name: &str, of: &[u32]| {
        let inputs: Vec<&str> = of.iter().map(|&place| get(place).0.as_str()).collect();
        Formula(format!("{name}({})", inputs.join(", ")), Binds::Atom)
    };
    match *node {
        Node::GradScale => Formula("grad_scale".into(), Binds::Atom),
        Node::Scalar(i) => Formula(graph.scalars()[i as usize].into(), Binds::Atom),
        Node::Operand(i) => {
            let operand = &graph.operands()[i as usize];
            Formula(operand.name.into(), Binds::Atom)
        }
        Node::Literal(bits) => Formula(f64::from_bits(bits).to_string(), Binds::Atom),
        Node::Unary(Unary::Neg, a) => Formula(format!("-{}", get(a).within(Binds::Product)), Binds::Sum),
        Node::Unary(Unary::Sqrt, a) => call("sqrt", &[a]),
        Node::Unary(Unary::Abs, a) => call("abs", &[a]),
        Node::Binary(Binary::Add, a, b) => infix(a, "+", b, Binds::Sum, Binds::Product),
        Node::Binary(Binary::Sub, a, b) => infix(a, "-", b, Binds::Sum, Binds::Product),
        Node::Binary(Binary::Mul, a, b) => infix(a, "*", b, Binds::Product, Binds::Atom),
        Node::Binary(Binary::Div, a, b) => infix(a, "/", b, Binds::Product, Binds::Atom),
        Node::Binary(Binary::Min, a, b) => call("min", &[a, b]),
        Node::Binary(Binary::Max, a, b) => call("max", &[a, b]),
        Node::Compare(Comparison::Lt, a, b) => infix(a, "<", b, Binds::Choice, Binds::Sum),
        Node::Compare(Comparison::Le, a, b) => infix(a, "<=", b, Binds::Choice, Binds::Sum),
        Node::Compare(Comparison::Eq, a, b) => infix(a, "==", b, Binds::Choice, Binds::Sum),
        Node::Select(mask, yes, no) => {
            let (yes, no) = (get(yes).within(Binds::Sum), get(no).within(Binds::Sum));
            Formula(format!("{yes} if {} else {no}", get(mask).0), Binds::Choice)
        }
        ref other => Formula(format!("{other:?}"), Binds::Atom),
    }
}

/// Returns what an operand is to the optimizer.
pub(super) fn describe(operand: &Operand) -> &'static str {
    match operand.role {
        Role::Param => "parameter",
        Role::Grad => "gradient",
        _ => "state",
    }
}

#[cfg(test)]
mod tests {
    use super::lines;
    use fallline_core::{Graph, rule};

    struct Hyper;

    rule! {
        /// Names, parentheses and what is used twice.
        Test(h: Hyper, t) { let beta = 0.9; let clips = 1.0; }
        element(g: Grad) -> (p: Param, m: State, copy: State) sum(total) {
            m = beta * m - (g - p) / (g + p);
            copy = m;
            p = p - L::select_if(clips, m.min(L::splat(1.0)), m) * -p;
            total = p.abs().sqrt();
        }
    }

    #[test]
    fn formulas_speak_the_words_of_the_rule() {
        let graph = Graph::record::<Test>();
        let texts: Vec<String> = lines(&graph).into_iter().map(|line| line.text).collect();
        assert_eq!(
            texts,
            [
                "t1 = g * grad_scale",
                "m' = copy' = beta * m - (t1 - p) / (t1 + p)",
                "p' = p - (min(m', 1) if 0 < clips else m') * (-p)",
                "total[i] = sqrt(abs(p'))",
            ]
        );
    }
}
