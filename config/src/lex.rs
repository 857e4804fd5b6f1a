//! Python text to logical lines of tokens.
//!
//! Errors of the lexer are fatal. A string or bracket without its end, or a character that Python does not have,
//! hides where the next statement begins. All else that is not understood is the parser's, statement by statement.

use super::cursor::{Cursor, Line, Span, Tok, Token};
use super::error::{ConfigError, quoted};
use super::limits::MAX_DEPTH;
use super::strings;
use super::template;
use super::value::Position;

/// Longest first, so that the first that fits is the one.
const OPERATORS: [&str; 47] = [
    "**=", "//=", ">>=", "<<=", "...", "**", "//", "==", "!=", "<=", ">=", "->", ":=", "+=", "-=", "*=",
    "/=", "%=", "&=", "|=", "^=", "@=", "<<", ">>", "+", "-", "*", "/", "%", "@", "&", "|", "^", "~", "<",
    ">", "(", ")", "[", "]", "{", "}", ",", ":", ".", ";", "=",
];

/// Splits a source into lines of tokens. Of the position `file` only the file counts.
pub(super) fn lex(source: &str, file: &Position) -> Result<Vec<Line>, ConfigError> {
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    let mut lexer = Lexer {
        cursor: Cursor { rest: source, at: Span { line: 1, column: 1 }, file },
        lines: Vec::new(),
        tokens: Vec::new(),
        open: Vec::new(),
        indent: 0,
        joined: false,
    };
    lexer.run()?;
    Ok(lexer.lines)
}

struct Lexer<'a> {
    cursor: Cursor<'a>,
    lines: Vec<Line>,
    tokens: Vec<Token>,
    /// The brackets that are open.
    open: Vec<(&'static str, Span)>,
    indent: u32,
    joined: bool,
}

impl Lexer<'_> {
    fn run(&mut self) -> Result<(), ConfigError> {
        self.indent();
        while let Some(c) = self.cursor.peek() {
            let at = self.cursor.at;
            match c {
                '\n' | '\r' => {
                    self.cursor.bump();
                    if self.open.is_empty() {
                        self.end_line(false);
                        self.indent();
                    }
                }
                ' ' | '\t' | '\u{c}' => self.cursor.skip(1),
                '#' => {
                    self.cursor.take_while(|c| c != '\n' && c != '\r');
                }
                '\\' => self.continuation(at)?,
                '"' | '\'' => self.string("", at)?,
                c if c.is_alphabetic() || c == '_' => self.word(at)?,
                c if c.is_ascii_digit() => self.number(at)?,
                '.' if self.cursor.rest[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number(at)?,
                _ => self.operator(at)?,
            }
        }
        self.end_line(false);
        match self.open.last() {
            None => Ok(()),
            Some((bracket, at)) => {
                Err(ConfigError::Unclosed { at: self.cursor.position(*at), what: format!("`{bracket}`") })
            }
        }
    }

    /// Reads the indentation of a new line, as Python counts it.
    fn indent(&mut self) {
        self.indent = 0;
        for c in self.cursor.take_while(|c| matches!(c, ' ' | '\t' | '\u{c}')).chars() {
            self.indent = match c {
                '\t' => (self.indent / 8 + 1) * 8,
                ' ' => self.indent.saturating_add(1),
                _ => 0,
            };
        }
    }

    fn end_line(&mut self, joined: bool) {
        if !self.tokens.is_empty() {
            let tokens = std::mem::take(&mut self.tokens);
            self.lines.push(Line { tokens, indent: self.indent, joined: self.joined });
        }
        self.joined = joined;
    }

    fn push(&mut self, tok: Tok, at: Span) {
        self.tokens.push(Token { tok, at });
    }

    fn continuation(&mut self, at: Span) -> Result<(), ConfigError> {
        self.cursor.bump();
        match self.cursor.peek() {
            Some('\n' | '\r') => self.cursor.skip(1),
            other => {
                let got = other.map_or("the end".to_owned(), |c| quoted(&c.to_string()));
                return Err(self.syntax(at, "the end of the line after `\\`", got));
            }
        }
        Ok(())
    }

    fn word(&mut self, at: Span) -> Result<(), ConfigError> {
        let word = self.cursor.take_while(|c| c.is_alphanumeric() || c == '_');
        if matches!(self.cursor.peek(), Some('"' | '\'')) && strings::is_prefix(word) {
            return self.string(word, at);
        }
        self.push(Tok::Name(word.to_owned()), at);
        Ok(())
    }

    fn string(&mut self, prefix: &str, at: Span) -> Result<(), ConfigError> {
        let tok = strings::string(&mut self.cursor, prefix, at)?;
        self.push(tok, at);
        Ok(())
    }

    fn number(&mut self, at: Span) -> Result<(), ConfigError> {
        let mut text = String::new();
        let hex = self.cursor.rest.starts_with("0x") || self.cursor.rest.starts_with("0X");
        while let Some(c) = self.cursor.peek() {
            let sign = !hex && matches!(c, '+' | '-') && text.ends_with(['e', 'E']);
            if !(c.is_alphanumeric() || c == '_' || c == '.' || sign) {
                break;
            }
            text.push(c);
            self.cursor.bump();
        }
        self.push(Tok::Number(text), at);
        Ok(())
    }

    fn operator(&mut self, at: Span) -> Result<(), ConfigError> {
        if let Some((path, length)) = template::base_reference(self.cursor.rest) {
            self.cursor.skip(length);
            self.push(Tok::Base(path), at);
            return Ok(());
        }
        let Some(op) = OPERATORS.into_iter().find(|op| self.cursor.rest.starts_with(op)) else {
            let got = quoted(&self.cursor.peek().map(String::from).unwrap_or_default());
            return Err(self.syntax(at, "Python", got));
        };
        self.cursor.skip(op.len());
        match op {
            "(" | "[" | "{" => {
                if self.open.len() == MAX_DEPTH {
                    return Err(ConfigError::TooDeep { at: self.cursor.position(at), limit: MAX_DEPTH });
                }
                self.open.push((op, at));
            }
            ")" | "]" | "}" => self.close(op, at)?,
            ";" if self.open.is_empty() => {
                self.end_line(true);
                return Ok(());
            }
            _ => {}
        }
        self.push(Tok::Op(op), at);
        Ok(())
    }

    fn close(&mut self, op: &'static str, at: Span) -> Result<(), ConfigError> {
        let got = format!("`{op}`");
        match self.open.pop() {
            None => Err(self.syntax(at, "an open bracket before it", got)),
            Some(("(", _)) if op == ")" => Ok(()),
            Some(("[", _)) if op == "]" => Ok(()),
            Some(("{", _)) if op == "}" => Ok(()),
            Some((bracket, from)) => {
                let close = match bracket {
                    "(" => ")",
                    "[" => "]",
                    _ => "}",
                };
                let expected = format!("`{close}` for the `{bracket}` at {}:{}", from.line, from.column);
                Err(self.syntax(at, &expected, got))
            }
        }
    }

    fn syntax(&self, at: Span, expected: &str, got: String) -> ConfigError {
        ConfigError::Syntax { at: self.cursor.position(at), expected: expected.to_owned(), got }
    }
}
