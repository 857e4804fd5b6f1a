//! The rule's graph as instructions.

use super::{ABREAST, Element, PER_LANE};
use crate::ptx::{Builder, Class, Reg, Space, Type, Value};
use fallline_core::{Binary, Comparison, Node, Unary};

impl Element<'_> {
    /// Loads the scalars that the rule uses: every lane from the same address.
    pub(super) fn load_scalars(&mut self, row: Reg) {
        let mut commented = false;
        for (place, node) in self.graph.nodes().iter().enumerate().filter(|(place, _)| self.live[*place]) {
            let (name, at) = match *node {
                Node::GradScale => ("grad_scale", 0),
                Node::Scalar(i) => (self.graph.scalars()[i as usize], 1 + i as usize),
                _ => continue,
            };
            if !commented {
                self.b.comment("the scalars of the tensor's row");
                commented = true;
            }
            let ty = self.compute;
            let reg = self.b.named(ty.class(), name);
            self.b.to(reg).ld(Space::Constant, ty, 1, row, at * ty.bytes());
            self.uniform[place] = Some(reg.into());
        }
    }

    /// Computes, once, everything that depends on no element.
    pub(super) fn uniform_values(&mut self) {
        let mut commented = false;
        for (place, node) in self.graph.nodes().iter().enumerate().filter(|(place, _)| self.live[*place]) {
            if let Node::Literal(bits) = *node {
                let x = f64::from_bits(bits);
                self.uniform[place] = Some(match self.compute {
                    Type::F64 => Value::F64(x),
                    _ => Value::F32(x as f32),
                });
            }
            let mut inputs = node.inputs().peekable();
            let known = inputs.peek().is_some() && inputs.all(|input| self.uniform[input as usize].is_some());
            if known {
                if !commented {
                    self.b.comment("what depends on no element");
                    commented = true;
                }
                if let Some(line) = self.lines.iter().find(|line| line.place as usize == place) {
                    self.b.comment(&line.text);
                }
                let values = self.uniform.clone();
                let value = instruction(&mut self.b, self.compute, node, |input| {
                    values[input as usize].expect("known")
                });
                self.uniform[place] = Some(value.into());
            }
        }
    }

    /// Names the registers of the sums' terms.
    pub(super) fn name_terms(&mut self) {
        let class = self.compute.class();
        self.terms = (self.graph.sums().iter())
            .map(|(name, _)| (0..PER_LANE).map(|i| self.b.named(class, &format!("{name}_{i}"))).collect())
            .collect();
    }

    /// Evaluates the graph for the lane's elements of the part from `first` on: the values to be stored, encoded, and
    /// the terms of sums.
    pub(super) fn elements(&mut self, first: usize) {
        let sums = self.graph.sums();
        for first in (first..first + self.part).step_by(ABREAST) {
            if first % 4 == 0 {
                self.draw(first);
            }
            let values = self.abreast(first);
            let (b, compute, target) = (&mut self.b, self.compute, self.target);
            for stream in &mut self.streams {
                let Some(store) = stream.store else { continue };
                for at in (0..ABREAST).step_by(2) {
                    let pair = [at, at + 1].map(|i| values[i][store as usize].expect("evaluated"));
                    let encoded = stream.encode(b, pair, first + at, compute, target);
                    stream.new.extend(encoded);
                }
            }
            for (sum, &(_, place)) in sums.iter().enumerate() {
                for (i, values) in values.iter().enumerate() {
                    let term = self.terms[sum][first + i];
                    self.b.to(term).mov(self.compute, values[place as usize].expect("evaluated"));
                }
            }
        }
    }

    /// All nodes for `ABREAST` elements of the lane, node by node, so that one comment tells what a group of
    /// instructions computes.
    fn abreast(&mut self, first: usize) -> Vec<Vec<Option<Value>>> {
        self.b.comment(&format!("elements {first} to {} of the lane", first + ABREAST - 1));
        let mut values = vec![self.uniform.clone(); ABREAST];
        let mut lines =
            self.lines.iter().filter(|line| self.uniform[line.place as usize].is_none()).peekable();
        let mut commented = false;
        for (place, node) in self.graph.nodes().iter().enumerate() {
            if !self.live[place] || self.uniform[place].is_some() {
                continue;
            }
            // What comes up to a line's node, and after that of the line before, computes that line.
            while lines.next_if(|line| (line.place as usize) < place).is_some() {
                commented = false;
            }
            let computes = !matches!(node, Node::Operand(_));
            if let (true, false, Some(line)) = (computes, commented, lines.peek()) {
                self.b.comment(&line.text);
                commented = true;
            }
            if let Node::Operand(operand) = *node {
                let stream = &self.streams[operand as usize];
                if !stream.as_computed(self.compute) {
                    self.b.comment(&format!("{} from {}", stream.name, stream.format));
                }
            }
            let own = lines.peek().filter(|line| computes && line.place as usize == place);
            for (i, values) in values.iter_mut().enumerate() {
                if let Some(line) = own {
                    let name =
                        format!("{}_{}", line.name.replace('\'', "_new").replace("[i]", "_term"), first + i);
                    let named = self.b.named(self.class_of(node), &name);
                    self.b.to(named);
                }
                values[place] = Some(match *node {
                    Node::Operand(operand) => {
                        let stream = &self.streams[operand as usize];
                        stream.decode(&mut self.b, first + i, self.compute).into()
                    }
                    _ => instruction(&mut self.b, self.compute, node, |input| {
                        values[input as usize].expect("earlier")
                    })
                    .into(),
                });
            }
        }
        values
    }

    /// The class of registers that hold a node.
    fn class_of(&self, node: &Node) -> Class {
        match node {
            Node::Compare(..) => Class::Pred,
            _ => self.compute.class(),
        }
    }
}

/// One operation. None of them is contracted, and comparisons are false where an input is NaN.
pub(in crate::ptx) fn instruction(b: &mut Builder, ty: Type, node: &Node, get: impl Fn(u32) -> Value) -> Reg {
    let predicate = |place: u32| match get(place) {
        Value::Reg(reg) if reg.class() == Class::Pred => reg,
        _ => unreachable!("comparisons are recorded as conditions"),
    };
    match *node {
        Node::Unary(Unary::Negate, a) => b.neg(ty, get(a)),
        Node::Unary(Unary::Sqrt, a) => b.sqrt(ty, get(a)),
        Node::Unary(Unary::Abs, a) => b.abs(ty, get(a)),
        Node::Binary(Binary::Plus, x, y) => b.add(ty, get(x), get(y)),
        Node::Binary(Binary::Minus, x, y) => b.sub(ty, get(x), get(y)),
        Node::Binary(Binary::Times, x, y) => b.mul(ty, get(x), get(y)),
        Node::Binary(Binary::Over, x, y) => b.div(ty, get(x), get(y)),
        // Not `min` and `max`, which drop a NaN.
        Node::Binary(Binary::Min, x, y) => {
            let to = b.take_destination();
            let less = b.setp("lt", ty, get(x), get(y));
            b.with_destination(to).selp(ty, get(x), get(y), less)
        }
        Node::Binary(Binary::Max, x, y) => {
            let to = b.take_destination();
            let greater = b.setp("gt", ty, get(x), get(y));
            b.with_destination(to).selp(ty, get(x), get(y), greater)
        }
        Node::Compare(comparison, x, y) => {
            let compare = match comparison {
                Comparison::Lt => "lt",
                Comparison::Le => "le",
                Comparison::Eq => "eq",
            };
            b.setp(compare, ty, get(x), get(y))
        }
        Node::Select(mask, yes, no) => b.selp(ty, get(yes), get(no), predicate(mask)),
        ref other => unreachable!("core has no node {other:?}"),
    }
}
