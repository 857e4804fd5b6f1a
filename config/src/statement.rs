//! Tokens to statements. A statement that is not understood is skipped whole, with a note of all that it may have
//! bound or changed.

use super::ast::*;
use super::cursor::{Line, Span, Token, position};
use super::effects;
use super::error::ConfigError;
use super::lex::lex;
use super::number::Op;
use super::parser::{Parsed, Parser};
use super::value::{Position, Value};

/// Returns the statements of a module.
pub(super) fn module(source: &str, file: &Position) -> Result<Vec<Statement>, ConfigError> {
    let lines = lex(source, file)?;
    let mut statements = Vec::new();
    let mut next = 0;
    while let Some(line) = lines.get(next) {
        let (first, mut end) = (&line.tokens[0], next + 1);
        if line.indent > 0 && !line.joined {
            let (at, got) = (position(file, first.at), "an indented line".to_owned());
            return Err(ConfigError::Syntax {
                at,
                expected: "a statement at the left margin".to_owned(),
                got,
            });
        }
        if effects::is_block(line) {
            end += lines[end..].iter().take_while(|l| l.joined || l.indent > line.indent).count();
            block(&lines[next..end], file, &mut statements);
        } else {
            statements.push(Parser::new(&line.tokens, file).statement(line));
        }
        next = end;
    }
    Ok(statements)
}

/// Reads a string that is one expression.
pub(super) fn expression(source: &str, file: &Position) -> Result<Expr, ConfigError> {
    let lines = lex(source, file)?;
    let tokens: &[Token] = lines.first().map_or(&[], |line| &line.tokens);
    let mut parser = Parser::new(tokens, file);
    let expr = parser.expressions()?;
    parser.end()?;
    match lines.get(1) {
        None => Ok(expr),
        Some(more) => {
            let (at, got) = (position(file, more.tokens[0].at), more.tokens[0].describe());
            Err(ConfigError::Syntax { at, expected: "the end of the text".to_owned(), got })
        }
    }
}

/// Reads a block: skipped, except for `with read_base():`.
fn block(lines: &[Line], file: &Position, statements: &mut Vec<Statement>) {
    let head = &lines[0].tokens[0];
    if let Some(imports) = read_base(lines, file) {
        statements.push(Statement { at: head.at, kind: StatementKind::ReadBase(imports) });
        return;
    }
    let error = ConfigError::NotUnderstood { at: position(file, head.at), what: head.describe() };
    let skipped = effects::of(lines, true, error, file);
    statements.push(Statement { at: head.at, kind: StatementKind::Skipped(skipped) });
}

/// Returns what `with read_base():` imports, if that is what the block is and it does nothing else, as MMEngine asks.
fn read_base(lines: &[Line], file: &Position) -> Option<Vec<(Span, Import)>> {
    let (first, rest) = lines.split_first()?;
    let [with, call, open, close, colon, inline @ ..] = first.tokens.as_slice() else { return None };
    let is_call = with.name() == Some("with") && call.name() == Some("read_base");
    if !(is_call && open.is("(") && close.is(")") && colon.is(":")) {
        return None;
    }
    let inline = (!inline.is_empty()).then_some(inline);
    let imports = inline.into_iter().chain(rest.iter().map(|line| line.tokens.as_slice()));
    let read = |tokens: &[Token]| {
        let import = Parser::new(tokens, file).import().ok()?;
        (tokens[0].name() == Some("from")).then_some((tokens[0].at, import))
    };
    imports.map(read).collect()
}

impl Parser<'_> {
    fn statement(&mut self, line: &Line) -> Statement {
        let at = line.tokens[0].at;
        let kind = self.simple().unwrap_or_else(|error| {
            StatementKind::Skipped(effects::of(std::slice::from_ref(line), false, error, self.file))
        });
        Statement { at, kind }
    }

    fn simple(&mut self) -> Parsed<StatementKind> {
        match self.tokens[0].name() {
            Some("import" | "from") => return Ok(StatementKind::Import(self.import()?)),
            Some("pass") if self.tokens.len() == 1 => {
                let nothing = Kind::Literal(Value::None);
                return Ok(StatementKind::Evaluate(Expr { at: self.tokens[0].at, kind: nothing }));
            }
            Some("del") => {
                self.next = 1;
                let target = self.expressions()?;
                self.end()?;
                return Ok(StatementKind::Delete(vec![self.target(target)?]));
            }
            _ => {}
        }
        if self.tokens.get(1).is_some_and(|t| t.is(":")) && self.tokens[0].name().is_some() {
            return self.annotated();
        }
        let mut expr = self.expressions()?;
        if let Some(op) = self.peek().and_then(Op::augmented) {
            self.next += 1;
            let value = self.expressions()?;
            self.end()?;
            return Ok(StatementKind::Augment(self.target(expr)?, op, value));
        }
        let mut targets = Vec::new();
        while self.take("=") {
            targets.push(self.target(expr)?);
            expr = self.expressions()?;
        }
        self.end()?;
        Ok(if targets.is_empty() {
            StatementKind::Evaluate(expr)
        } else {
            StatementKind::Assign(targets, expr)
        })
    }

    /// Reads `name: type = value`; the type is of no consequence.
    fn annotated(&mut self) -> Parsed<StatementKind> {
        let target = self.atom()?;
        let Some(equals) = self.tokens.iter().position(|t| t.is("=")) else {
            return Err(self.not_understood(self.tokens[1].at, "an annotation without a value"));
        };
        self.next = equals + 1;
        let value = self.expressions()?;
        self.end()?;
        Ok(StatementKind::Assign(vec![self.target(target)?], value))
    }

    fn target(&self, expr: Expr) -> Parsed<Target> {
        let (at, got) = (expr.at, "an expression");
        match expr.kind {
            Kind::Name(name) => return Ok(Target::Name(name, at)),
            Kind::Postfix(head, mut trailers) => {
                if let Some(last) = trailers.pop()
                    && !matches!(last.kind, TrailerKind::Call(_))
                {
                    return Ok(Target::Place(*head, trailers, last));
                }
            }
            Kind::Sequence { elements, .. } => {
                let one = |element| match element {
                    Element::One(expr) => self.target(expr),
                    Element::All(expr) => Err(self.not_understood(expr.at, "a starred target")),
                };
                return Ok(Target::Tuple(elements.into_iter().map(one).collect::<Parsed<_>>()?, at));
            }
            _ => {}
        }
        Err(self.syntax(at, "a name, key or attribute to assign to", got.to_owned()))
    }
}
