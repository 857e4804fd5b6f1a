//! The rule's graph as instructions.

use super::kernel::Element;
use super::operand::PER_LANE;
use crate::ptx::nodes::instruction;
use crate::ptx::{Class, Reg, Space, Type, Value};
use fallline_core::Node;

/// Elements of a lane that are interleaved (instruction-level parallelism). They are enough to hide the latency of
/// arithmetic, and few enough to keep a rule's intermediate values in registers. Even, for 16-bit formats are encoded
/// in pairs.
const ILP: usize = 2;

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

    /// Evaluates the graph for the lane's elements of the sub-step from `first` on: the values to be stored, encoded, and
    /// the terms of sums.
    pub(super) fn elements(&mut self, first: usize) {
        let sums = self.graph.sums();
        for first in (first..first + self.substep).step_by(ILP) {
            if first % 4 == 0 {
                self.draw(first);
            }
            let values = self.interleaved(first);
            let (b, compute, target) = (&mut self.b, self.compute, self.target);
            for operand in &mut self.operands {
                let Some(store) = operand.store else { continue };
                for at in (0..ILP).step_by(2) {
                    let pair = [at, at + 1].map(|i| values[i][store as usize].expect("evaluated"));
                    let encoded = operand.encode(b, pair, first + at, compute, target);
                    operand.new.extend(encoded);
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

    /// Returns all nodes for `ILP` elements of the lane, node by node, so that one comment tells what a group of
    /// instructions computes.
    fn interleaved(&mut self, first: usize) -> Vec<Vec<Option<Value>>> {
        self.b.comment(&format!("elements {first} to {} of the lane", first + ILP - 1));
        let mut values = vec![self.uniform.clone(); ILP];
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
                let operand = &self.operands[operand as usize];
                if !operand.as_computed(self.compute) {
                    self.b.comment(&format!("{} from {}", operand.name, operand.format));
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
                        let operand = &self.operands[operand as usize];
                        operand.decode(&mut self.b, first + i, self.compute).into()
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

    /// Returns the class of registers that hold a node.
    fn class_of(&self, node: &Node) -> Class {
        match node {
            Node::Compare(..) => Class::Pred,
            _ => self.compute.class(),
        }
    }
}
