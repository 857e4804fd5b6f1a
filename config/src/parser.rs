//! A parser's position among its tokens, and what it says of those that it does not take. Imports are read here: the
//! side-effect analysis of a statement that is skipped reads them too.

use super::ast::Import;
use super::cursor::{Span, Tok, Token, position};
use super::error::ConfigError;
use super::literal::is_keyword;
use super::value::Position;

pub(super) struct Parser<'a> {
    pub tokens: &'a [Token],
    pub next: usize,
    pub file: &'a Position,
    /// How many signs, powers and brackets the parser is in.
    pub depth: usize,
}

pub(super) type Parsed<T> = Result<T, ConfigError>;

impl<'a> Parser<'a> {
    pub(super) fn new(tokens: &'a [Token], file: &'a Position) -> Self {
        Parser { tokens, next: 0, file, depth: 0 }
    }

    /// Reads `import a.b as c, d` and `from a import b as c, d`.
    pub(super) fn import(&mut self) -> Parsed<Import> {
        let from = self.tokens[0].name() == Some("from");
        self.next = 1;
        let mut import = Import { module: String::new(), names: Vec::new(), star: false, base: false };
        if from {
            import.module = self.dotted()?;
            import.base = import.module.starts_with('.');
            self.keyword("import")?;
            if self.take("*") {
                import.star = true;
                self.end()?;
                return Ok(import);
            }
        }
        let parenthesis = self.take("(");
        loop {
            let name = self.dotted()?;
            let plain = name.split('.').next().unwrap_or_default().to_owned();
            let bound = if self.peek().and_then(Token::name) == Some("as") {
                self.next += 1;
                self.dotted()?
            } else {
                plain
            };
            if !from {
                import.module.clone_from(&name);
            }
            import.names.push((bound, name));
            if !self.take(",") || self.peek().is_none_or(|t| t.is(")")) {
                break;
            }
        }
        if parenthesis && !self.take(")") {
            return Err(self.unexpected("`)`"));
        }
        self.end()?;
        Ok(import)
    }

    fn dotted(&mut self) -> Parsed<String> {
        let mut text = String::new();
        while let Some(token) = self.peek() {
            match &token.tok {
                Tok::Op(op @ ("." | "...")) => text.push_str(op),
                // Two names in a row are two things.
                Tok::Name(name) if (text.is_empty() || text.ends_with('.')) && !is_keyword(name) => {
                    text.push_str(name);
                }
                _ => break,
            }
            self.next += 1;
        }
        if text.is_empty() { Err(self.unexpected("a name")) } else { Ok(text) }
    }

    fn keyword(&mut self, word: &str) -> Parsed<()> {
        if self.peek().and_then(Token::name) != Some(word) {
            return Err(self.unexpected(&format!("`{word}`")));
        }
        self.next += 1;
        Ok(())
    }

    pub(super) fn end(&self) -> Parsed<()> {
        if self.peek().is_none() { Ok(()) } else { Err(self.unexpected("the end of the statement")) }
    }

    pub(super) fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.next)
    }

    pub(super) fn take(&mut self, op: &str) -> bool {
        let found = self.peek().is_some_and(|t| t.is(op));
        self.next += usize::from(found);
        found
    }

    pub(super) fn syntax(&self, at: Span, expected: &str, got: String) -> ConfigError {
        ConfigError::Syntax { at: position(self.file, at), expected: expected.to_owned(), got }
    }

    pub(super) fn not_understood(&self, at: Span, what: &str) -> ConfigError {
        ConfigError::NotUnderstood { at: position(self.file, at), what: what.to_owned() }
    }

    /// Returns the error about the next token: Python that is not read, or no Python.
    pub(super) fn unexpected(&self, expected: &str) -> ConfigError {
        let Some(token) = self.peek() else {
            let last = self.tokens.last().map_or(Span { line: 1, column: 1 }, |t| t.at);
            return self.syntax(last, &format!("{expected} after this"), "the end".to_owned());
        };
        let what = match &token.tok {
            Tok::Name(word) => match word.as_str() {
                "for" | "async" => "a comprehension",
                "if" | "else" => "a conditional expression",
                "lambda" => "a lambda",
                word if is_keyword(word) => return self.not_understood(token.at, &format!("`{word}`")),
                _ => return self.syntax(token.at, expected, token.describe()),
            },
            Tok::Opaque(what) => what,
            Tok::Op("==" | "!=" | "<" | ">" | "<=" | ">=") => "a comparison",
            Tok::Op(
                "|" | "&" | "^" | "~" | "<<" | ">>" | "@" | ":=" | "..." | "|=" | "&=" | "^=" | "@=" | "<<="
                | ">>=",
            ) => {
                return self.not_understood(token.at, &token.describe());
            }
            _ => return self.syntax(token.at, expected, token.describe()),
        };
        self.not_understood(token.at, what)
    }
}
