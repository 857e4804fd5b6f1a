//! A graph as the formulas of a paper.

use super::{Binary, Comparison, Graph, Node, NumberGraph, Unary};
use crate::{Operand, Role};
use core::fmt;

/// How tightly a formula binds, to set parentheses only where they are needed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Binds {
    Choice,
    Sum,
    Product,
    Atom,
}

struct Formula {
    text: String,
    binds: Binds,
}

impl Formula {
    fn atom(text: impl Into<String>) -> Formula {
        Formula { text: text.into(), binds: Binds::Atom }
    }

    /// Returns the text, in parentheses if it binds less than `least`.
    fn within(&self, least: Binds) -> String {
        if self.binds < least { format!("({})", self.text) } else { self.text.clone() }
    }
}

/// What a graph's leaves are called.
struct Printer<'g> {
    nodes: &'g [Node],
    operands: &'static [Operand],
    scalars: &'g [&'static str],
    live: Vec<bool>,
}

impl Printer<'_> {
    /// Prints a line for each node that has a name or is used more than once. Returns all formulas.
    fn lines(
        &self,
        written: &[Option<String>],
        f: &mut fmt::Formatter<'_>,
    ) -> Result<Vec<Formula>, fmt::Error> {
        let mut uses = vec![0; self.nodes.len()];
        for (node, _) in self.nodes.iter().zip(&self.live).filter(|(_, live)| **live) {
            node.inputs().for_each(|input| uses[input as usize] += 1);
        }
        let mut formulas: Vec<Formula> = Vec::with_capacity(self.nodes.len());
        let mut temporaries = 0;
        for (place, node) in self.nodes.iter().enumerate() {
            let mut formula = self.formula(node, &formulas);
            if let (true, Some(name)) = (self.live[place], &written[place]) {
                if *name != formula.text {
                    writeln!(f, "{name} = {}", formula.text)?;
                }
                formula = Formula::atom(name);
            } else if self.live[place] && uses[place] > 1 && formula.binds < Binds::Atom {
                temporaries += 1;
                writeln!(f, "a{} = {}", subscript(temporaries), formula.text)?;
                formula = Formula::atom(format!("a{}", subscript(temporaries)));
            }
            formulas.push(formula);
        }
        Ok(formulas)
    }
}

/// One line for each store and sum, in an order in which everything used is above. `ₜ` marks new values and `ₜ₋₁`
/// loaded ones. What is used more than once has a separate line.
impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut written: Vec<Option<String>> = vec![None; self.nodes.len()];
        let mut plain_stores = Vec::new();
        for (operand, &place) in self.operands.iter().zip(&self.stores) {
            let name = format!("{}ₜ", operand_symbol(operand));
            match &mut written[place as usize] {
                empty @ None => *empty = Some(name),
                Some(first) => plain_stores.push((name, first.clone())),
            }
        }
        let (nodes, operands, scalars) = (&self.nodes, self.operands, &self.scalars);
        let formulas = Printer { nodes, operands, scalars, live: self.live() }.lines(&written, f)?;
        for (name, same) in plain_stores {
            writeln!(f, "{name} = {same}")?;
        }
        for (name, place) in &self.sums {
            writeln!(f, "{name} = Σ {}", formulas[*place as usize].within(Binds::Product))?;
        }
        Ok(())
    }
}

/// One line for each output that is not just an input under its own name, in an order in which everything used is
/// above. What is used more than once has a separate line.
impl fmt::Display for NumberGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut written: Vec<Option<String>> = vec![None; self.nodes().len()];
        let mut plain = Vec::new();
        for &(name, place) in self.outputs() {
            let own = symbol(name);
            let input = match self.nodes()[place as usize] {
                Node::Scalar(i) => Some(symbol(self.inputs()[i as usize])),
                Node::Literal(bits) => Some(f64::from_bits(bits).to_string()),
                _ => None,
            };
            match (input, &mut written[place as usize]) {
                (Some(same), _) if same == own => {}
                (Some(other), _) => plain.push((own, other)),
                (None, empty @ None) => *empty = Some(own),
                (None, Some(first)) => plain.push((own, first.clone())),
            }
        }
        let (nodes, scalars) = (self.nodes(), self.inputs());
        Printer { nodes, operands: &[], scalars, live: self.live() }.lines(&written, f)?;
        plain.into_iter().try_for_each(|(name, same)| writeln!(f, "{name} = {same}"))
    }
}

impl Printer<'_> {
    fn formula(&self, node: &Node, formulas: &[Formula]) -> Formula {
        if let Some(name) = node.scaled_grad(self.nodes, self.operands) {
            return Formula::atom(name);
        }
        let get = |place: u32| &formulas[place as usize];
        let binary = |a: u32, sign: &str, b: u32, binds: Binds, right: Binds| Formula {
            text: format!("{}{sign}{}", get(a).within(binds), get(b).within(right)),
            binds,
        };
        match *node {
            Node::GradScale => Formula::atom("grad_scale"),
            Node::Scalar(i) => Formula::atom(symbol(self.scalars[i as usize])),
            Node::Operand(i) => {
                let operand = &self.operands[i as usize];
                let when = if operand.written { "ₜ₋₁" } else { "" };
                Formula::atom(format!("{}{when}", operand_symbol(operand)))
            }
            Node::Literal(bits) => Formula::atom(format!("{}", f64::from_bits(bits))),
            Node::Unary(Unary::Neg, a) => {
                Formula { text: format!("−{}", get(a).within(Binds::Product)), binds: Binds::Sum }
            }
            Node::Unary(Unary::Sqrt, a) => Formula::atom(format!("√{}", get(a).within(Binds::Atom))),
            Node::Unary(Unary::Abs, a) => Formula::atom(format!("|{}|", get(a).text)),
            Node::Binary(Binary::Add, a, b) => binary(a, " + ", b, Binds::Sum, Binds::Sum),
            Node::Binary(Binary::Sub, a, b) => binary(a, " − ", b, Binds::Sum, Binds::Product),
            Node::Binary(Binary::Mul, a, b) if a == b => {
                Formula::atom(format!("{}²", get(a).within(Binds::Atom)))
            }
            Node::Binary(Binary::Mul, a, b) => binary(a, "·", b, Binds::Product, Binds::Atom),
            Node::Binary(Binary::Div, a, b) => binary(a, " / ", b, Binds::Product, Binds::Atom),
            Node::Binary(Binary::Min, a, b) => {
                Formula::atom(format!("min({}, {})", get(a).text, get(b).text))
            }
            Node::Binary(Binary::Max, a, b) => {
                Formula::atom(format!("max({}, {})", get(a).text, get(b).text))
            }
            Node::Compare(comparison, a, b) => {
                // A flag is set when it is above zero: read it as a word.
                if let (Node::Literal(0), Comparison::Lt, Node::Scalar(i)) =
                    (self.nodes[a as usize], comparison, self.nodes[b as usize])
                {
                    return Formula::atom(symbol(self.scalars[i as usize]));
                }
                let sign = match comparison {
                    Comparison::Lt => "<",
                    Comparison::Le => "≤",
                    Comparison::Eq => "=",
                };
                let [a, b] = [a, b].map(|place| get(place).within(Binds::Sum));
                Formula::atom(format!("{a} {sign} {b}"))
            }
            Node::Power(a, b) => {
                Formula::atom(format!("{}^{}", get(a).within(Binds::Atom), get(b).within(Binds::Atom)))
            }
            Node::Select(mask, yes, no) => match self.sign_of(mask, yes, no) {
                Some(of) => Formula::atom(format!("sign({})", get(of).text)),
                None => Formula {
                    text: format!(
                        "{} if {} else {}",
                        get(yes).within(Binds::Sum),
                        get(mask).text,
                        get(no).within(Binds::Sum)
                    ),
                    binds: Binds::Choice,
                },
            },
        }
    }

    /// Returns the value whose sign this choice is, in the shape that [`Vector::sign`](crate::Vector::sign) gives it.
    fn sign_of(&self, mask: u32, yes: u32, no: u32) -> Option<u32> {
        let at = |place: u32| self.nodes[place as usize];
        let literal = |place: u32, x: f64| at(place) == Node::Literal(x.to_bits());
        let Node::Compare(Comparison::Lt, zero, x) = at(mask) else { return None };
        let Node::Select(below, minus, rest) = at(no) else { return None };
        let shape = literal(zero, 0.0) && literal(yes, 1.0) && literal(minus, -1.0) && rest == zero;
        (shape && at(below) == Node::Compare(Comparison::Lt, x, zero)).then_some(x)
    }
}

fn operand_symbol(operand: &crate::Operand) -> String {
    match operand.role {
        Role::Param => "θ".to_owned(),
        Role::Grad | Role::State | Role::Scratch => operand.name.to_owned(),
    }
}

/// Returns a scalar's name as papers write it.
///
/// ```
/// assert_eq!(fallline_core::symbol("one_minus_beta1"), "(1 − β₁)");
/// ```
pub fn symbol(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("one_minus_") {
        return format!("(1 − {})", symbol(rest));
    }
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let index = name[stem.len()..].parse().map(subscript).unwrap_or_default();
    let greek = match stem {
        "lr" => "γ",
        "beta" => "β",
        "eps" => "ε",
        "momentum" => "μ",
        "weight_decay" => "λ",
        "alpha" => "α",
        other => other,
    };
    format!("{greek}{index}")
}

fn subscript(number: u32) -> String {
    let digit = |c: char| c.to_digit(10).and_then(|d| char::from_u32(0x2080 + d)).unwrap_or(c);
    number.to_string().chars().map(digit).collect()
}
