//! What a statement that is passed over may have bound or changed, told from its tokens alone.
//!
//! It may err in one direction only: a name too many makes a value unreadable, with an error that says
//! where; a name too few would let a wrong value through.

use super::ast::Skipped;
use super::error::ConfigError;
use super::lex::{Line, Tok, Token};
use super::literal::is_keyword;
use super::parse::Parser;
use super::value::Position;

/// Statements that have a block, or are part of one that has.
const BLOCKS: [&str; 13] = [
    "async", "class", "def", "elif", "else", "except", "finally", "for", "if", "match", "try", "while",
    "with",
];

/// Functions that change none of their arguments.
pub(super) fn is_pure_function(name: &str) -> bool {
    matches!(
        name,
        "abs"
            | "all"
            | "any"
            | "bool"
            | "dict"
            | "enumerate"
            | "filter"
            | "float"
            | "format"
            | "frozenset"
            | "int"
            | "isinstance"
            | "len"
            | "list"
            | "map"
            | "max"
            | "min"
            | "print"
            | "range"
            | "repr"
            | "reversed"
            | "round"
            | "set"
            | "sorted"
            | "str"
            | "sum"
            | "tuple"
            | "type"
            | "zip"
    )
}

/// Methods that do not change what they are called on.
pub(super) fn is_pure_method(name: &str) -> bool {
    matches!(
        name,
        "copy"
            | "count"
            | "deepcopy"
            | "endswith"
            | "format"
            | "get"
            | "index"
            | "items"
            | "join"
            | "keys"
            | "lower"
            | "replace"
            | "split"
            | "startswith"
            | "strip"
            | "upper"
            | "values"
    )
}

/// Whether a line begins a block.
pub(super) fn is_block(line: &Line) -> bool {
    let head = line.tokens[0].name();
    let keyword = head.is_some_and(|word| BLOCKS.contains(&word) && is_keyword(word));
    keyword || line.tokens.last().is_some_and(|t| t.is(":"))
}

/// The effects of lines that are passed over because of an error.
pub(super) fn of(lines: &[Line], block: bool, error: ConfigError, file: &Position) -> Skipped {
    let mut effects = Effects {
        skipped: Skipped { error, bound: Vec::new(), touched: Vec::new(), imports: Vec::new() },
        block,
        file,
    };
    let head = lines.first().and_then(|line| line.tokens[0].name());
    for line in lines {
        effects.line(&line.tokens);
        if matches!(head, Some("def" | "class" | "async")) {
            break; // the body has names of its own
        }
    }
    if head == Some("with") {
        // `with read_base():`; whatever else imports under a `with` is no class either.
        effects.skipped.imports.iter_mut().for_each(|import| import.base = true);
    }
    effects.skipped
}

struct Effects<'a> {
    skipped: Skipped,
    block: bool,
    file: &'a Position,
}

impl Effects<'_> {
    fn line(&mut self, tokens: &[Token]) {
        let Some(head) = tokens.first() else { return };
        let (word, rest) = (head.name().unwrap_or_default(), &tokens[1..]);
        match word {
            "import" | "from" => {
                if let Ok(import) = Parser::new(tokens, self.file).import() {
                    self.skipped.imports.push(import);
                } else {
                    self.skipped.bound.extend(rest.iter().filter_map(Token::name).map(str::to_owned));
                }
                return;
            }
            "async" => return self.line(rest),
            "def" | "class" => {
                self.skipped.bound.extend(rest.first().and_then(Token::name).map(str::to_owned));
                return;
            }
            "for" => {
                let targets = rest.iter().take_while(|t| t.name() != Some("in"));
                self.skipped.bound.extend(targets.filter_map(Token::name).map(str::to_owned));
            }
            _ if BLOCKS.contains(&word) => {}
            // `name: type` binds the name.
            _ if rest.first().is_some_and(|t| t.is(":")) => self.skipped.bound.push(word.to_owned()),
            _ => {}
        }
        self.targets(tokens);
        self.mentions(tokens);
        // After the colon of a block's head there may be a statement.
        if BLOCKS.contains(&word)
            && let Some(colon) = colon(tokens)
        {
            self.line(&tokens[colon + 1..]);
        }
    }

    /// What stands before an `=`, and after `as`.
    fn targets(&mut self, tokens: &[Token]) {
        let (mut begin, mut depth) = (0, 0usize);
        for (i, token) in tokens.iter().enumerate() {
            match token.tok {
                Tok::Op("(" | "[" | "{") => depth += 1,
                Tok::Op(")" | "]" | "}") => depth = depth.saturating_sub(1),
                Tok::Op(":") if depth == 0 => begin = i + 1,
                Tok::Op(":=") => self.bind(&tokens[i.saturating_sub(1)..i]),
                Tok::Op(op) if depth == 0 && is_assignment(op) => {
                    self.bind(&tokens[begin..i]);
                    begin = i + 1;
                }
                Tok::Name(ref word) if word == "as" || word == "del" => {
                    self.bind(tokens.get(i + 1..).unwrap_or_default());
                }
                _ => {}
            }
        }
    }

    fn bind(&mut self, target: &[Token]) {
        for (i, token) in target.iter().enumerate() {
            let Some(name) = token.name().filter(|name| !is_keyword(name)) else { continue };
            if i > 0 && target[i - 1].is(".") {
                continue;
            }
            let part = target.get(i + 1).is_some_and(|t| t.is(".") || t.is("["));
            let names = if part { &mut self.skipped.touched } else { &mut self.skipped.bound };
            names.push(name.to_owned());
        }
    }

    /// Names whose values a call may change: what a method is called on, and the arguments of a function
    /// that is not known to leave them alone. In a block, all of them: elements have names there too.
    fn mentions(&mut self, tokens: &[Token]) {
        // For each open bracket: the name the value before it begins with, whether it is a call that may
        // change things.
        let mut open: Vec<(Option<&str>, bool)> = Vec::new();
        let mut root: Option<&str> = None;
        for (i, token) in tokens.iter().enumerate() {
            let before = i.checked_sub(1).map(|b| &tokens[b]);
            let attribute = before.is_some_and(|t| t.is("."));
            match &token.tok {
                Tok::Name(name) if attribute || is_keyword(name) => {}
                Tok::Name(name) => {
                    root = Some(name);
                    let keyword = !open.is_empty() && tokens.get(i + 1).is_some_and(|t| t.is("="));
                    if !keyword && (self.block || open.iter().any(|(_, changes)| *changes)) {
                        self.skipped.touched.push(name.clone());
                    }
                }
                Tok::Op("(") => {
                    let name = before.and_then(Token::name).filter(|name| !is_keyword(name));
                    let method = i >= 2 && tokens[i - 2].is(".");
                    let changes = match name {
                        Some(name) if method => !is_pure_method(name),
                        Some(name) => !is_pure_function(name),
                        None => before.is_some_and(|t| t.is(")") || t.is("]")),
                    };
                    if changes && (method || name.is_none()) {
                        self.skipped.touched.extend(root.map(str::to_owned));
                    }
                    open.push((root, changes));
                    root = None;
                }
                Tok::Op("[" | "{") => {
                    open.push((root, false));
                    root = None;
                }
                Tok::Op(")" | "]" | "}") => root = open.pop().and_then(|(root, _)| root),
                Tok::Op(".") => {}
                _ => root = None,
            }
        }
    }
}

fn is_assignment(op: &str) -> bool {
    op.ends_with('=') && !matches!(op, "==" | "!=" | "<=" | ">=" | ":=")
}

/// The colon that ends the head of a block.
fn colon(tokens: &[Token]) -> Option<usize> {
    let mut depth = 0usize;
    tokens.iter().position(|token| {
        match token.tok {
            Tok::Op("(" | "[" | "{") => depth += 1,
            Tok::Op(")" | "]" | "}") => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && token.is(":")
    })
}
