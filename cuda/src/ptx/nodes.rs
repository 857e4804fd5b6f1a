//! One node of a recorded graph as instructions.

use super::{Builder, Class, Reg, Type, Value};
use fallline_core::{Binary, Comparison, Node, Unary};

/// Writes one operation. None of them is contracted, and comparisons are false where an input is NaN.
pub(super) fn instruction(b: &mut Builder, ty: Type, node: &Node, get: impl Fn(u32) -> Value) -> Reg {
    let predicate = |place: u32| match get(place) {
        Value::Reg(reg) if reg.class() == Class::Pred => reg,
        _ => unreachable!("comparisons are recorded as conditions"),
    };
    match *node {
        Node::Unary(Unary::Neg, a) => b.neg(ty, get(a)),
        Node::Unary(Unary::Sqrt, a) => b.sqrt(ty, get(a)),
        Node::Unary(Unary::Abs, a) => b.abs(ty, get(a)),
        Node::Binary(Binary::Add, x, y) => b.add(ty, get(x), get(y)),
        Node::Binary(Binary::Sub, x, y) => b.sub(ty, get(x), get(y)),
        Node::Binary(Binary::Mul, x, y) => b.mul(ty, get(x), get(y)),
        Node::Binary(Binary::Div, x, y) => b.div(ty, get(x), get(y)),
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
