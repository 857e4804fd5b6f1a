//! The Python that is understood, as a tree.
//!
//! Chains (`a + b + c`, `x.a["b"].c`) are flat. So the depth of a tree is that of the brackets and signs in the text,
//! which is bounded.

use super::cursor::Span;
use super::error::ConfigError;
use super::number::Op;
use super::value::Value;

#[derive(Debug)]
pub(super) struct Expr {
    pub at: Span,
    pub kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// A number, a bool or `None`.
    Literal(Value),
    Str {
        text: String,
        template: bool,
    },
    /// `{{_base_.a.b}}`.
    Base(Vec<String>),
    Name(String),
    Sequence {
        elements: Vec<Element>,
        tuple: bool,
    },
    Dict(Vec<Pair>),
    /// `first op next op next …`, from the left.
    Chain(Box<Expr>, Vec<(Op, Span, Expr)>),
    Minus(Box<Expr>),
    Plus(Box<Expr>),
    Postfix(Box<Expr>, Vec<Trailer>),
}

#[derive(Debug)]
pub(super) enum Element {
    One(Expr),
    /// `*list`.
    All(Expr),
}

#[derive(Debug)]
pub(super) enum Pair {
    One(Expr, Expr),
    /// `**dict`.
    All(Expr),
}

#[derive(Debug)]
pub(super) struct Trailer {
    pub at: Span,
    pub kind: TrailerKind,
}

#[derive(Debug)]
pub(super) enum TrailerKind {
    Attribute(String),
    Index(Expr),
    Call(Vec<Argument>),
}

#[derive(Debug)]
pub(super) enum Argument {
    Positional(Expr),
    Keyword(String, Span, Expr),
    /// `**dict`.
    All(Expr),
}

#[derive(Debug)]
pub(super) enum Target {
    Name(String, Span),
    /// `x["a"].b`: a place in what the first expression with the trailers but the last gives.
    Place(Expr, Vec<Trailer>, Trailer),
    Tuple(Vec<Target>, Span),
}

#[derive(Debug)]
pub(super) struct Statement {
    pub at: Span,
    pub kind: StatementKind,
}

#[derive(Debug)]
pub(super) enum StatementKind {
    Assign(Vec<Target>, Expr),
    Augment(Target, Op, Expr),
    Delete(Vec<Target>),
    Evaluate(Expr),
    Import(Import),
    /// `with read_base():`, and what is imported under it.
    ReadBase(Vec<(Span, Import)>),
    Skipped(Skipped),
}

#[derive(Debug)]
pub(super) struct Import {
    pub module: String,
    /// Bound name and imported name.
    pub names: Vec<(String, String)>,
    /// `from module import *`.
    pub star: bool,
    /// Whether it takes configurations from other files rather than classes: a relative import, or one in a
    /// block that is not understood.
    pub base: bool,
}

/// A statement that is skipped, and all that it may have changed.
#[derive(Debug)]
pub(super) struct Skipped {
    pub error: ConfigError,
    /// Names that it may bind.
    pub bound: Vec<String>,
    /// Names whose lists and dicts it may change.
    pub touched: Vec<String>,
    /// Names that what it binds may share values with.
    pub mentioned: Vec<String>,
    pub imports: Vec<Import>,
}
