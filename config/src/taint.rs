//! Tainted values: after an expression that could not be evaluated, all that it might have changed, and all
//! that its value might share with others.

use super::ast::*;
use super::cursor::Span;
use super::effects::{base_key, is_pure_function, is_pure_method, leaves_arguments};
use super::heap::{Fault, Obj};
use super::run::Interpreter;

impl Interpreter<'_> {
    /// Takes note of an expression that failed, be it before or after parts of it had their effect.
    pub(super) fn failed(&mut self, expr: &Expr, fault: &Fault) {
        let (mut changed, mut shared) = (Vec::new(), Vec::new());
        self.changes(expr, &mut changed);
        mentions(expr, &mut shared);
        self.taint(&changed, &shared, fault);
    }

    /// Does the same for a value with attributes, keys and calls after it.
    pub(super) fn failed_at(&mut self, head: &Expr, trailers: &[Trailer], fault: &Fault) {
        let mut changed = Vec::new();
        self.changes_behind(head, trailers, &mut changed);
        self.taint(&changed, &[], fault);
    }

    /// Taints values: what is under the first names may have changed. A value that is not known may share what is
    /// under the second ones, so that a change of it changes them too.
    pub(super) fn taint(&mut self, changed: &[String], shared: &[String], fault: &Fault) {
        self.complete = false;
        for obj in changed.iter().filter_map(|name| self.under(name)).collect::<Vec<_>>() {
            self.heap.poison(&obj, fault);
        }
        let shared: Vec<Obj> = shared.iter().filter_map(|name| self.under(name)).collect();
        self.heap.share(fault, shared);
    }

    /// Returns what is under a name, or (`_base_.x`) under a key of the bases.
    fn under(&mut self, name: &str) -> Option<Obj> {
        match name.strip_prefix("_base_.") {
            Some(key) => self.in_base(&[key.to_owned()], Span { line: 0, column: 0 }).ok(),
            None if name == "_base_" => Some(Obj::Map(self.base)),
            None => self.names.get(name).map(|entry| entry.item.obj.clone()),
        }
    }

    /// Collects the names of what evaluating an expression may change.
    fn changes(&self, expr: &Expr, names: &mut Vec<String>) {
        if let Kind::Postfix(head, trailers) = &expr.kind {
            self.changes_behind(head, trailers, names);
        }
        parts(expr, &mut |part| self.changes(part, names));
    }

    fn changes_behind(&self, head: &Expr, trailers: &[Trailer], names: &mut Vec<String>) {
        for (i, trailer) in trailers.iter().enumerate() {
            let TrailerKind::Call(arguments) = &trailer.kind else { continue };
            let before = i.checked_sub(1).map(|before| &trailers[before].kind);
            let (receiver, others) = match (before, &head.kind) {
                (Some(TrailerKind::Attribute(name)), _) => (!is_pure_method(name), !leaves_arguments(name)),
                (None, Kind::Name(name)) if !self.names.contains_key(name) => {
                    (false, !is_pure_function(name))
                }
                // A function of the file itself may change whatever it mentions.
                _ => (true, true),
            };
            if receiver {
                root(head, trailers, names);
            }
            if others {
                arguments.iter().for_each(|argument| mentions(value(argument), names));
            }
        }
    }
}

/// Collects the names in an expression; of the bases, the keys.
pub(super) fn mentions(expr: &Expr, names: &mut Vec<String>) {
    match &expr.kind {
        Kind::Name(name) => names.push(name.clone()),
        Kind::Base(path) => names.extend(path.first().map(|key| base_key(key))),
        Kind::Postfix(head, trailers) => {
            root(head, trailers, names);
            trailers.iter().for_each(|trailer| trailer_parts(trailer, &mut |part| mentions(part, names)));
        }
        _ => parts(expr, &mut |part| mentions(part, names)),
    }
}

/// Collects the names in what is before the trailers; of the bases, the key if there is one.
fn root(head: &Expr, trailers: &[Trailer], names: &mut Vec<String>) {
    let base = matches!(&head.kind, Kind::Name(name) if name == "_base_");
    // `_base_.update(…)` is about all of them.
    let call = matches!(trailers.get(1).map(|t| &t.kind), Some(TrailerKind::Call(_)));
    match trailers.first().map(|t| &t.kind) {
        Some(TrailerKind::Attribute(key)) if base && !call => names.push(base_key(key)),
        Some(TrailerKind::Index(Expr { kind: Kind::Str { text, .. }, .. })) if base => {
            names.push(base_key(text))
        }
        _ => mentions(head, names),
    }
}

/// Visits the expressions that an expression is made of.
fn parts(expr: &Expr, visit: &mut impl FnMut(&Expr)) {
    match &expr.kind {
        Kind::Literal(_) | Kind::Str { .. } | Kind::Base(_) | Kind::Name(_) => {}
        Kind::Minus(inner) | Kind::Plus(inner) => visit(inner),
        Kind::Sequence { elements, .. } => elements.iter().for_each(|element| {
            let (Element::One(e) | Element::All(e)) = element;
            visit(e);
        }),
        Kind::Dict(pairs) => pairs.iter().for_each(|pair| match pair {
            Pair::One(key, value) => {
                visit(key);
                visit(value);
            }
            Pair::All(e) => visit(e),
        }),
        Kind::Chain(first, rest) => {
            visit(first);
            rest.iter().for_each(|(_, _, e)| visit(e));
        }
        Kind::Postfix(head, trailers) => {
            visit(head);
            trailers.iter().for_each(|trailer| trailer_parts(trailer, visit));
        }
    }
}

fn trailer_parts(trailer: &Trailer, visit: &mut impl FnMut(&Expr)) {
    match &trailer.kind {
        TrailerKind::Attribute(_) => {}
        TrailerKind::Index(e) => visit(e),
        TrailerKind::Call(arguments) => arguments.iter().for_each(|argument| visit(value(argument))),
    }
}

fn value(argument: &Argument) -> &Expr {
    let (Argument::Positional(e) | Argument::Keyword(_, _, e) | Argument::All(e)) = argument;
    e
}
