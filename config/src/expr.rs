//! Tokens to expressions.

use super::ast::*;
use super::cursor::{Span, Tok, Token, position};
use super::error::{ConfigError, quoted};
use super::limits::MAX_DEPTH;
use super::literal::is_keyword;
use super::number::{self, Number, Op};
use super::parser::{Parsed, Parser};
use super::value::Value;

impl Parser<'_> {
    /// Reads one expression, or a tuple without parentheses.
    pub(super) fn expressions(&mut self) -> Parsed<Expr> {
        let first = self.element()?;
        if !self.peek().is_some_and(|t| t.is(",")) {
            return match first {
                Element::One(expr) => Ok(expr),
                Element::All(expr) => Err(self.not_understood(expr.at, "a starred expression")),
            };
        }
        let at = match &first {
            Element::One(expr) | Element::All(expr) => expr.at,
        };
        let mut elements = vec![first];
        while self.take(",") && self.peek().is_some_and(|t| !t.is("=")) {
            elements.push(self.element()?);
        }
        Ok(Expr { at, kind: Kind::Sequence { elements, tuple: true } })
    }

    fn element(&mut self) -> Parsed<Element> {
        if self.take("*") {
            Ok(Element::All(self.operation(false)?))
        } else {
            Ok(Element::One(self.operation(false)?))
        }
    }

    /// Reads sums of products, or (`tight`) one product.
    fn operation(&mut self, tight: bool) -> Parsed<Expr> {
        const LOOSE: [(&str, Op); 2] = [("+", Op::Add), ("-", Op::Sub)];
        const TIGHT: [(&str, Op); 4] = [("*", Op::Mul), ("/", Op::Div), ("//", Op::FloorDiv), ("%", Op::Mod)];
        let mut left = self.unary()?;
        loop {
            let Some(token) = self.peek() else { return Ok(left) };
            let find =
                |ops: &[(&str, Op)]| ops.iter().find(|(symbol, _)| token.is(symbol)).map(|(_, op)| *op);
            // Products first: once there is none, what is on the left is a whole summand.
            let (op, right) = if let Some(op) = find(&TIGHT) {
                self.next += 1;
                (op, self.unary()?)
            } else if let Some(op) = find(&LOOSE).filter(|_| !tight) {
                self.next += 1;
                (op, self.operation(true)?)
            } else {
                return Ok(left);
            };
            left = chain(left, op, token.at, right);
        }
    }

    fn unary(&mut self) -> Parsed<Expr> {
        let Some(token) = self.peek() else { return Err(self.unexpected("a value")) };
        self.depth += 1;
        // Brackets are counted by the lexer; signs and powers nest as well.
        if self.depth > 2 * MAX_DEPTH {
            return Err(ConfigError::TooDeep { at: position(self.file, token.at), limit: MAX_DEPTH });
        }
        let at = token.at;
        let kind = if self.take("-") {
            match self.smallest_integer() {
                Some(value) => Kind::Literal(value),
                None => Kind::Minus(Box::new(self.unary()?)),
            }
        } else if self.take("+") {
            Kind::Plus(Box::new(self.unary()?))
        } else {
            let base = self.postfix()?;
            match self.peek().filter(|t| t.is("**")) {
                None => base.kind,
                Some(power) => {
                    self.next += 1;
                    let exponent = self.unary()?;
                    chain(base, Op::Pow, power.at, exponent).kind
                }
            }
        };
        self.depth -= 1;
        Ok(Expr { at, kind })
    }

    /// Reads, after a minus, the one integer whose magnitude does not fit without it.
    fn smallest_integer(&mut self) -> Option<Value> {
        let Tok::Number(text) = &self.peek()?.tok else { return None };
        let power = self.tokens.get(self.next + 1).is_some_and(|t| t.is("**"));
        if text.replace('_', "") != i64::MIN.unsigned_abs().to_string() || power {
            return None;
        }
        self.next += 1;
        Some(Value::Int(i64::MIN))
    }

    fn postfix(&mut self) -> Parsed<Expr> {
        let head = self.atom()?;
        let mut trailers = Vec::new();
        while let Some(token) = self.peek() {
            let at = token.at;
            let kind = if self.take(".") {
                let Some(name) = self.peek().and_then(Token::name) else {
                    return Err(self.unexpected("a name"));
                };
                self.next += 1;
                TrailerKind::Attribute(name.to_owned())
            } else if self.take("[") {
                let slice = |parser: &Self| parser.peek().is_some_and(|t| t.is(":"));
                let index = if slice(self) { None } else { Some(self.operation(false)?) };
                let Some(index) = index.filter(|_| !slice(self)) else {
                    return Err(self.not_understood(at, "a slice"));
                };
                self.closing("]", "`]`")?;
                TrailerKind::Index(index)
            } else if self.take("(") {
                TrailerKind::Call(self.arguments()?)
            } else {
                break;
            };
            trailers.push(Trailer { at, kind });
        }
        Ok(if trailers.is_empty() {
            head
        } else {
            Expr { at: head.at, kind: Kind::Postfix(Box::new(head), trailers) }
        })
    }

    fn arguments(&mut self) -> Parsed<Vec<Argument>> {
        let mut arguments = Vec::new();
        while !self.take(")") {
            let named = self.tokens.get(self.next + 1).is_some_and(|t| t.is("="));
            arguments.push(match self.peek() {
                Some(Token { tok: Tok::Name(name), at }) if named && !is_keyword(name) => {
                    self.next += 2;
                    Argument::Keyword(name.clone(), *at, self.operation(false)?)
                }
                Some(token) if token.is("**") => {
                    self.next += 1;
                    Argument::All(self.operation(false)?)
                }
                Some(token) if token.is("*") => {
                    return Err(self.not_understood(token.at, "a starred argument"));
                }
                _ => Argument::Positional(self.operation(false)?),
            });
            self.separator(")", "`,` or `)`")?;
        }
        Ok(arguments)
    }

    pub(super) fn atom(&mut self) -> Parsed<Expr> {
        let Some(token) = self.peek() else { return Err(self.unexpected("a value")) };
        let at = token.at;
        self.next += 1;
        let kind = match &token.tok {
            Tok::Name(word) => match word.as_str() {
                "None" => Kind::Literal(Value::None),
                "True" => Kind::Literal(Value::Bool(true)),
                "False" => Kind::Literal(Value::Bool(false)),
                word if is_keyword(word) => {
                    self.next -= 1;
                    return Err(self.unexpected("a value"));
                }
                _ => Kind::Name(word.clone()),
            },
            Tok::Number(text) => self.number(text, at)?,
            Tok::Str { text, template } => {
                let (mut text, mut template) = (text.clone(), *template);
                while let Some(Token { tok: Tok::Str { text: more, template: t }, .. }) = self.peek() {
                    text.push_str(more);
                    template |= t;
                    self.next += 1;
                }
                Kind::Str { text, template }
            }
            Tok::Opaque(what) => return Err(self.not_understood(at, what)),
            Tok::Base(path) => Kind::Base(path.clone()),
            Tok::Op("[") => Kind::Sequence { elements: self.elements("]", "`,` or `]`")?.0, tuple: false },
            Tok::Op("{") => Kind::Dict(self.pairs()?),
            Tok::Op("(") => {
                let (mut elements, comma) = self.elements(")", "`,` or `)`")?;
                match elements.pop() {
                    Some(Element::One(inner)) if elements.is_empty() && !comma => inner.kind,
                    last => {
                        elements.extend(last);
                        Kind::Sequence { elements, tuple: true }
                    }
                }
            }
            Tok::Op(_) => {
                self.next -= 1;
                return Err(self.unexpected("a value"));
            }
        };
        Ok(Expr { at, kind })
    }

    fn number(&self, text: &str, at: Span) -> Parsed<Kind> {
        match number::parse(text) {
            Some(Ok(Number::Int(v))) => Ok(Kind::Literal(Value::Int(v))),
            Some(Ok(Number::Float(v))) => Ok(Kind::Literal(Value::Float(v))),
            Some(Err(problem)) => Err(ConfigError::Arithmetic { at: position(self.file, at), problem }),
            None if text.ends_with(['j', 'J']) => Err(self.not_understood(at, "a complex number")),
            None => Err(self.syntax(at, "a number", quoted(text))),
        }
    }

    /// Returns the rest of a list or tuple, and whether it ends with a comma.
    fn elements(&mut self, close: &str, expected: &str) -> Parsed<(Vec<Element>, bool)> {
        let (mut elements, mut comma) = (Vec::new(), false);
        while !self.take(close) {
            elements.push(self.element()?);
            comma = self.separator(close, expected)?;
        }
        Ok((elements, comma))
    }

    fn pairs(&mut self) -> Parsed<Vec<Pair>> {
        let mut pairs = Vec::new();
        while !self.take("}") {
            if self.take("**") {
                pairs.push(Pair::All(self.operation(false)?));
            } else {
                let key = self.operation(false)?;
                if self.peek().is_some_and(|t| t.is(",") || t.is("}")) && pairs.is_empty() {
                    return Err(self.not_understood(key.at, "a set"));
                }
                if !self.take(":") {
                    return Err(self.unexpected("`:`"));
                }
                pairs.push(Pair::One(key, self.operation(false)?));
            }
            self.separator("}", "`,` or `}`")?;
        }
        Ok(pairs)
    }

    /// Reads a comma, if there is one, and returns whether; else the closing bracket is left.
    fn separator(&mut self, close: &str, expected: &str) -> Parsed<bool> {
        let comma = self.take(",");
        if comma || self.peek().is_some_and(|t| t.is(close)) {
            Ok(comma)
        } else {
            Err(self.unexpected(expected))
        }
    }

    fn closing(&mut self, close: &str, expected: &str) -> Parsed<()> {
        if self.take(close) { Ok(()) } else { Err(self.unexpected(expected)) }
    }
}

/// Adds a link to a chain, which stays flat: its links are evaluated from the left.
fn chain(left: Expr, op: Op, at: Span, right: Expr) -> Expr {
    let start = left.at;
    let kind = match left.kind {
        Kind::Chain(first, mut rest) => {
            rest.push((op, at, right));
            Kind::Chain(first, rest)
        }
        kind => Kind::Chain(Box::new(Expr { at: start, kind }), vec![(op, at, right)]),
    };
    Expr { at: start, kind }
}
