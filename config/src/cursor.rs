//! Places in a text, its tokens, and the cursor that goes through it.

use super::error::quoted;
use super::value::Position;

/// Line and column, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub line: u32,
    pub column: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tok {
    /// An identifier or keyword.
    Name(String),
    /// A number as written; one that is no number is the parser's to refuse.
    Number(String),
    /// A string, escapes resolved. `template`: its source has `{{`.
    Str { text: String, template: bool },
    /// A literal that is skipped: an f-string, bytes.
    Opaque(&'static str),
    /// `{{_base_.a.b}}` as a value: the keys after `_base_`.
    Base(Vec<String>),
    /// An operator or bracket.
    Op(&'static str),
}

#[derive(Debug, Clone)]
pub(super) struct Token {
    pub tok: Tok,
    pub at: Span,
}

impl Token {
    pub(super) fn is(&self, op: &str) -> bool {
        matches!(&self.tok, Tok::Op(o) if *o == op)
    }

    pub(super) fn name(&self) -> Option<&str> {
        if let Tok::Name(name) = &self.tok { Some(name) } else { None }
    }

    /// Returns the token as a message shows it.
    pub(super) fn describe(&self) -> String {
        match &self.tok {
            Tok::Name(text) | Tok::Number(text) => quoted(text),
            Tok::Str { text, .. } => format!("the string {}", quoted(text)),
            Tok::Opaque(what) => (*what).to_owned(),
            Tok::Base(path) => format!("`{{{{_base_.{}}}}}`", path.join(".")),
            Tok::Op(op) => format!("`{op}`"),
        }
    }
}

/// A logical line: brackets and `\` carry it over line ends, `;` ends it.
#[derive(Debug)]
pub(super) struct Line {
    /// At least one.
    pub tokens: Vec<Token>,
    /// How far in it begins.
    pub indent: u32,
    /// Whether it follows a `;`, so that it belongs to whatever the line before it belongs to.
    pub joined: bool,
}

/// The text that is left, and where it is.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    pub rest: &'a str,
    pub at: Span,
    pub file: &'a Position,
}

impl<'a> Cursor<'a> {
    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    /// Takes one character; a line end of any kind is one, `\n`.
    pub(super) fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        if c == '\r' || c == '\n' {
            if c == '\r' {
                self.rest = self.rest.strip_prefix('\n').unwrap_or(self.rest);
            }
            self.at = Span { line: self.at.line.saturating_add(1), column: 1 };
            return Some('\n');
        }
        self.at.column = self.at.column.saturating_add(1);
        Some(c)
    }

    pub(super) fn skip(&mut self, characters: usize) {
        for _ in 0..characters {
            self.bump();
        }
    }

    pub(super) fn take_while(&mut self, test: impl Fn(char) -> bool) -> &'a str {
        let text = &self.rest[..self.rest.find(|c| !test(c)).unwrap_or(self.rest.len())];
        self.rest = &self.rest[text.len()..];
        self.at.column = self.at.column.saturating_add(text.chars().count() as u32);
        text
    }

    pub(super) fn position(&self, at: Span) -> Position {
        position(self.file, at)
    }
}

/// Returns a place in a file.
pub(super) fn position(file: &Position, at: Span) -> Position {
    Position { line: at.line, column: at.column, ..file.clone() }
}

/// Returns the place of a position in its file.
pub(super) fn at_of(position: &Position) -> Span {
    Span { line: position.line, column: position.column }
}
