//! Cautious updates: only what moves along the gradient's sign moves.
//!
//! The pass that writes the parameter is split into two, by changing its recorded graph. The first writes the update,
//! masked, to scratch and counts the elements that agree. The second takes the step, and with it go the states that
//! follow the new parameter. Where a pass before those two adds a decay to the gradient, it is changed as well: it
//! keeps what it gets. Nothing is compiled for it, and no algorithm knows of it.

use super::settings::SLOW;
use crate::AnyAlgorithm;
use crate::algorithm::Start;
use crate::program::{MAX_STAGES, Program, Stage};
use core::ptr;
use fallline_core::backend::MAX_OPERANDS;
use fallline_core::builtins::AgreementRule;
use fallline_core::{Binary, Derivation, Derived, Graph, Kernel, Node, Operand, Role, Unary};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// The scratch between the two passes.
const MASKED: &str = "masked";
/// The gradient with its decay, where a pass before those two forms it.
const DECAYED: &str = "decayed";

/// What becomes of a program's passes.
#[derive(Clone, Copy)]
struct Passes {
    /// The two that the last one is made into.
    last: [&'static Kernel; 2],
    /// One before it, and the same that keeps the gradient which it decays.
    keeps: Option<[&'static Kernel; 2]>,
}

/// Passes, or why there are none.
type Found = Result<Passes, &'static str>;

/// Returns the program with its last pass made cautious.
pub(super) fn modify(program: Program, algorithm: &(dyn AnyAlgorithm + '_)) -> Result<Program, String> {
    let refused = |why: &str| Err(format!("it has no update that cautious could mask: {why}"));
    let replicas = &algorithm.spec().replicas;
    if replicas.error_feedback.is_some() || replicas.diverged.is_some() {
        return refused("ranks exchange its momentum, not gradients on whose signs all agree");
    }
    let last = program.iter().last();
    let update = program.update();
    let kernel = match (update, last) {
        (Some(update), Some(Stage::Pass(last))) if ptr::eq(update, last) => update,
        _ => return refused("its last pass does not write the parameter"),
    };
    // Derived once for each program's passes, and looked up in every step.
    static DERIVED: Mutex<Option<HashMap<[usize; MAX_STAGES], Found>>> = Mutex::new(None);
    let mut key = [0; MAX_STAGES];
    key.iter_mut().zip(program.kernels()).for_each(|(place, kernel)| *place = ptr::from_ref(kernel).addr());
    let mut derived = DERIVED.lock().unwrap_or_else(PoisonError::into_inner);
    let passes = derived.get_or_insert_default().entry(key).or_insert_with(|| {
        let starts_as_param = |name: &str| name != SLOW && algorithm.state(name).start == Start::Param;
        derive(program, kernel, algorithm.builtins().cautious(), &starts_as_param)
    });
    match *passes {
        Ok(Passes { last, keeps: None }) => Ok(program.with_last(last)),
        Ok(Passes { last, keeps: Some([old, new]) }) => Ok(program.with_last(last).with_pass(old, new)),
        Err(why) => refused(why),
    }
}

/// Makes the two passes of a rule that writes the parameter, a program's last.
fn derive(
    program: Program,
    kernel: &'static Kernel,
    cautious: &'static Kernel,
    starts_as_param: &dyn Fn(&str) -> bool,
) -> Found {
    let own = [Role::State, Role::Scratch].map(|role| program.operands(role)).concat();
    if own.iter().any(|name| [MASKED, DECAYED].contains(name)) {
        return Err("one of its operands has the name of what is kept between passes");
    }
    let graph = kernel.record();
    let operands = graph.operands();
    let param = number(&graph, Role::Param).ok_or("it writes no parameter")?;
    let stored = graph.stores()[param as usize];
    let grad = number(&graph, Role::Grad);
    let mut reader = Reader::new(&graph, param, grad);
    // Behind the operands that there are: the scratch, and the gradient if it is read before only.
    let scratch = operands.len() as u32;
    let earlier = program.kernels().take_while(|other| !ptr::eq(*other, kernel));
    let decayed = if grad.is_some() { None } else { decayed(earlier)? };
    let read = match decayed {
        None => Operand { name: "grad", role: Role::Grad, written: false },
        Some(_) => scratch_operand(DECAYED, false),
    };
    let gradient = match (grad, &decayed) {
        (Some(_), _) => reader.gradient(&graph)?,
        (None, Some(_)) => reader.push(Node::Operand(scratch + 1)),
        (None, None) => {
            let (operand, scale) = (reader.push(Node::Operand(scratch + 1)), reader.push(Node::GradScale));
            reader.push(Node::Binary(Binary::Mul, operand, scale))
        }
    };
    reader.gradient = Some(gradient);
    let (Some(base), Some(move_)) = reader.parts(stored) else {
        return Err("what it writes is not the parameter less something");
    };
    let update = reader.negate(move_);
    let kept = |_, node: Node| match node {
        Node::Operand(k) => {
            operands.get(k as usize).is_some_and(|o| o.role == Role::State && starts_as_param(o.name))
        }
        _ => false,
    };
    if reader.reaches(update, &kept) {
        return Err("it moves towards weights that it keeps");
    }
    if graph.sums().iter().any(|(name, _)| *name == cautious.between.declared.reads[0]) {
        return Err("one of its sums has the name of the count");
    }
    let theta = reader.push(Node::Operand(param));
    // A decay that only scalars of the step decide is left to the second pass, so that the first need not write the
    // parameter.
    let step = kernel.scalars.len();
    let late = !reader.reaches(base, &|_, node| matches!(node, Node::Scalar(i) if i as usize >= step));
    let from = if late { base } else { theta };
    let decays = base != theta && !late;
    let followers = reader.followers(&graph, (param, stored), step, decays)?;
    let alone = from == theta && followers.iter().all(Option::is_none);
    let second = match alone && !kernel.between.declared.may_skip {
        true => cautious,
        false => {
            let mut derivation = reader.derivation.clone().with_tensor_scalars(step, cautious.tensor_scalars);
            let scale = derivation.push(Node::Scalar(step as u32));
            let masked = derivation.push(Node::Operand(scratch));
            let own = cautious.record();
            let places: Vec<u32> =
                own.operands().iter().map(|o| if o.role == Role::Param { from } else { masked }).collect();
            let new = derivation.splice(&own, &places, &[scale]).0[0];
            let mut declared = Vec::with_capacity(operands.len() + 1);
            for (k, (operand, follower)) in operands.iter().zip(&followers).enumerate() {
                let follower = follower.map(|place| derivation.replace(place, stored, new));
                declared.push((*operand, k as u32, if k as u32 == param { Some(new) } else { follower }));
            }
            declared.push((scratch_operand(MASKED, false), scratch, None));
            kernel.derived(format!("{}Cautious", kernel.name), derivation.finish(declared, vec![]), cautious)
        }
    };
    let mut derivation = reader.derivation;
    let agreement = Graph::record::<AgreementRule>();
    let places: Vec<u32> = agreement
        .operands()
        .iter()
        // What is written only is not asked for.
        .map(|operand| if operand.name == "g" { gradient } else { update })
        .collect();
    let (masked, agree) = derivation.splice(&agreement, &places, &[]);
    let mut declared = as_declared(&graph);
    for (_, k, store) in &mut declared {
        *store = match *k == param {
            true => decays.then_some(base),
            false => store.filter(|_| followers[*k as usize].is_none()),
        };
    }
    declared.push((scratch_operand(MASKED, true), scratch, Some(masked[0])));
    declared.push((read, scratch + 1, None));
    let mut sums = graph.sums().to_vec();
    sums.push((agreement.sums()[0].0, agree[0]));
    let first = derivation.finish(declared, sums);
    let keeps = decayed.map(|(kernel, graph, gradient)| {
        let mut declared = as_declared(&graph);
        declared.push((scratch_operand(DECAYED, true), graph.operands().len() as u32, Some(gradient)));
        let keeps = Derivation::of(&graph).finish(declared, graph.sums().to_vec());
        [kernel, kernel.derived(format!("{}Decayed", kernel.name), keeps, kernel)]
    });
    let first = kernel.derived(format!("{}Masked", kernel.name), first, kernel);
    let passes = [first, second].into_iter().chain(keeps.map(|[_, keeps]| keeps));
    if passes.clone().any(|pass| pass.operands.len() > MAX_OPERANDS) {
        return Err("its pass has as many operands as there can be");
    }
    Ok(Passes { last: [first, second], keeps })
}

/// Returns the operand of a role.
fn number(graph: &Graph, role: Role) -> Option<u32> {
    graph.operands().iter().position(|operand| operand.role == role).map(|place| place as u32)
}

/// Returns a graph's operands as they are.
fn as_declared(graph: &Graph) -> Vec<Derived> {
    // Those that are written come first.
    let operands = graph.operands().iter().enumerate();
    operands.map(|(k, operand)| (*operand, k as u32, graph.stores().get(k).copied())).collect()
}

fn scratch_operand(name: &'static str, written: bool) -> Operand {
    Operand { name, role: Role::Scratch, written }
}

/// Returns, of passes before the last one, the one that adds a decay to the gradient, its graph, and what it gets.
fn decayed(
    earlier: impl Iterator<Item = &'static Kernel>,
) -> Result<Option<(&'static Kernel, Graph, u32)>, &'static str> {
    let mut found = None;
    for kernel in earlier {
        let graph = kernel.record();
        let Some(grad) = number(&graph, Role::Grad) else { continue };
        let reader = Reader::new(&graph, number(&graph, Role::Param).unwrap_or(u32::MAX), Some(grad));
        let gradient = reader.gradient(&graph)?;
        if reader.is_plain(gradient) {
            continue;
        }
        if kernel.between.declared.may_skip {
            return Err("its gradient includes the weight decay in a pass that some steps leave out");
        }
        found = Some((kernel, graph, gradient));
    }
    Ok(found)
}

/// What an operation leads to, apart from scalars.
#[derive(Clone, Copy, Default)]
struct Leaves {
    param: bool,
    others: bool,
}

/// A graph that is taken apart: what is the parameter's and what is not.
struct Reader {
    derivation: Derivation,
    param: u32,
    grad: Option<u32>,
    /// What is not taken apart, once it is known.
    gradient: Option<u32>,
}

impl Reader {
    fn new(graph: &Graph, param: u32, grad: Option<u32>) -> Reader {
        Reader { derivation: Derivation::of(graph), param, grad, gradient: None }
    }

    fn node(&self, place: u32) -> Node {
        self.derivation.nodes()[place as usize]
    }

    fn push(&mut self, node: Node) -> u32 {
        self.derivation.push(node)
    }

    fn negate(&mut self, place: u32) -> u32 {
        match self.node(place) {
            Node::Unary(Unary::Neg, inner) => inner,
            _ => self.push(Node::Unary(Unary::Neg, place)),
        }
    }

    /// Returns whether an operation leads to one of a kind.
    fn reaches(&self, root: u32, kind: &dyn Fn(u32, Node) -> bool) -> bool {
        self.reaches_beside(root, None, kind)
    }

    /// Returns the same on other ways than through an operation.
    fn reaches_beside(&self, root: u32, beside: Option<u32>, kind: &dyn Fn(u32, Node) -> bool) -> bool {
        let mut seen = vec![false; self.derivation.nodes().len()];
        let mut left = vec![root];
        while let Some(place) = left.pop() {
            if beside == Some(place) || core::mem::replace(&mut seen[place as usize], true) {
                continue;
            }
            if kind(place, self.node(place)) {
                return true;
            }
            left.extend(self.node(place).inputs());
        }
        false
    }

    fn leaves(&self, place: u32) -> Leaves {
        let mut leaves = Leaves::default();
        let mut seen = vec![false; self.derivation.nodes().len()];
        let mut left = vec![place];
        while let Some(place) = left.pop() {
            if core::mem::replace(&mut seen[place as usize], true) {
                continue;
            }
            match self.node(place) {
                _ if self.gradient == Some(place) => leaves.others = true,
                Node::Operand(operand) if operand == self.param => leaves.param = true,
                Node::Operand(_) => leaves.others = true,
                node => left.extend(node.inputs()),
            }
        }
        leaves
    }

    fn is_uniform(&self, place: u32) -> bool {
        let leaves = self.leaves(place);
        !leaves.param && !leaves.others
    }

    fn is_of_param(&self, place: u32) -> bool {
        let leaves = self.leaves(place);
        leaves.param && !leaves.others
    }

    /// Returns whether this is the gradient, scaled and no more.
    fn is_plain(&self, place: u32) -> bool {
        let Node::Binary(Binary::Mul, a, b) = self.node(place) else { return false };
        self.grad.is_some_and(|grad| self.node(a) == Node::Operand(grad)) && self.node(b) == Node::GradScale
    }

    /// Returns whether this is the gradient, perhaps with a decay added.
    fn is_gradient(&self, place: u32) -> bool {
        match self.node(place) {
            Node::Binary(Binary::Add, a, b) => {
                (self.is_gradient(a) && self.is_of_param(b)) || (self.is_of_param(a) && self.is_gradient(b))
            }
            Node::Select(flag, yes, no) => {
                let Node::Compare(_, a, b) = self.node(flag) else { return false };
                self.is_uniform(a) && self.is_uniform(b) && self.is_gradient(yes) && self.is_gradient(no)
            }
            _ => self.is_plain(place),
        }
    }

    /// Returns the gradient that enters the moments: with the decay that is added to it, if one is.
    fn gradient(&self, graph: &Graph) -> Result<u32, &'static str> {
        let live = graph.live();
        let places = || (0..graph.nodes().len() as u32).filter(|&place| live[place as usize]);
        let found: Vec<u32> = places().filter(|&place| self.is_gradient(place)).collect();
        let within =
            |place: u32| found.iter().any(|&other| self.node(other).inputs().any(|input| input == place));
        let mut outermost = found.iter().filter(|&&place| !within(place));
        match (outermost.next(), outermost.next()) {
            (Some(&gradient), None) => Ok(gradient),
            (None, _) => Err("it does not read the gradient"),
            (Some(_), Some(_)) => Err("it takes the gradient in two ways"),
        }
    }

    /// Returns for each operand its store, if that follows the new parameter: it goes with it, and away from the
    /// first pass. That one writes the parameter too, or not.
    fn followers(
        &self,
        graph: &Graph,
        (param, stored): (u32, u32),
        step: usize,
        writes_param: bool,
    ) -> Result<Vec<Option<u32>>, &'static str> {
        let follows = |place: u32| self.reaches(place, &|place, _| place == stored);
        if graph.sums().iter().any(|(_, place)| follows(*place)) {
            return Err("its sums follow the new parameter");
        }
        let own =
            |k: u32| graph.stores().get(k as usize).copied().filter(|&place| k != param && follows(place));
        let followers: Vec<Option<u32>> = (0..graph.operands().len() as u32).map(own).collect();
        // In addition to the new parameter the second pass has what the first leaves as it was, and none of the
        // tensor's scalars.
        let is_lost = |_, node: Node| match node {
            Node::Scalar(i) => i as usize >= step,
            Node::Operand(k) if k == param => writes_param,
            Node::Operand(k) => graph.operands()[k as usize].written && followers[k as usize].is_none(),
            _ => false,
        };
        let loses = |&place: &u32| self.reaches_beside(place, Some(stored), &is_lost);
        match followers.iter().flatten().any(loses) {
            true => Err("its states follow the new parameter and what only the pass before it has"),
            false => Ok(followers),
        }
    }

    /// Returns what a value is the sum of: what only the parameter and scalars decide, and the rest.
    fn parts(&mut self, place: u32) -> (Option<u32>, Option<u32>) {
        let leaves = self.leaves(place);
        if !leaves.param {
            return (None, Some(place));
        }
        if !leaves.others {
            return (Some(place), None);
        }
        match self.node(place) {
            Node::Binary(does @ (Binary::Add | Binary::Sub), a, b) => {
                let (one, other) = (self.parts(a), self.parts(b));
                (self.both(does, one.0, other.0), self.both(does, one.1, other.1))
            }
            Node::Binary(Binary::Mul, a, b) if self.is_uniform(a) => {
                let of = self.parts(b);
                let mut times = |part: Option<u32>| Some(self.push(Node::Binary(Binary::Mul, a, part?)));
                (times(of.0), times(of.1))
            }
            Node::Binary(does @ (Binary::Mul | Binary::Div), a, b) if self.is_uniform(b) => {
                let of = self.parts(a);
                let mut by = |part: Option<u32>| Some(self.push(Node::Binary(does, part?, b)));
                (by(of.0), by(of.1))
            }
            Node::Unary(Unary::Neg, a) => {
                let of = self.parts(a);
                (of.0.map(|part| self.negate(part)), of.1.map(|part| self.negate(part)))
            }
            Node::Select(flag, yes, no) if self.is_flag(flag) => {
                let (one, other) = (self.parts(yes), self.parts(no));
                (self.chosen(flag, one.0, other.0), self.chosen(flag, one.1, other.1))
            }
            _ => (None, Some(place)),
        }
    }

    fn is_flag(&self, place: u32) -> bool {
        matches!(self.node(place), Node::Compare(_, a, b) if self.is_uniform(a) && self.is_uniform(b))
    }

    fn both(&mut self, does: Binary, one: Option<u32>, other: Option<u32>) -> Option<u32> {
        match (one, other) {
            (Some(one), Some(other)) => Some(self.push(Node::Binary(does, one, other))),
            (Some(one), None) => Some(one),
            (None, Some(other)) if does == Binary::Sub => Some(self.negate(other)),
            (None, other) => other,
        }
    }

    fn chosen(&mut self, flag: u32, one: Option<u32>, other: Option<u32>) -> Option<u32> {
        if one == other {
            return one;
        }
        let zero = self.push(Node::Literal(0f64.to_bits()));
        Some(self.push(Node::Select(flag, one.unwrap_or(zero), other.unwrap_or(zero))))
    }
}
