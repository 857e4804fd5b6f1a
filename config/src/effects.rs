//! Side-effect analysis: what a statement that is skipped may have bound or changed, told from its tokens
//! alone.
//!
//! It may err in one direction only. A name too many makes a value unreadable, with an error that says where. A name
//! too few would let a wrong value through.

use super::ast::Skipped;
use super::cursor::{Line, Tok, Token};
use super::error::ConfigError;
use super::literal::is_keyword;
use super::parser::Parser;
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

/// Methods that change what they are called on at most, and none of their arguments.
pub(super) fn leaves_arguments(name: &str) -> bool {
    is_pure_method(name)
        || matches!(
            name,
            "append"
                | "clear"
                | "extend"
                | "insert"
                | "merge"
                | "pop"
                | "remove"
                | "reverse"
                | "setdefault"
                | "sort"
                | "update"
        )
}

/// Returns whether a line begins a block.
pub(super) fn is_block(line: &Line) -> bool {
    let head = line.tokens[0].name();
    let keyword = head.is_some_and(|word| BLOCKS.contains(&word) && is_keyword(word));
    keyword || line.tokens.last().is_some_and(|t| t.is(":"))
}

/// Returns the effects of lines that are skipped because of an error.
pub(super) fn of(lines: &[Line], block: bool, error: ConfigError, file: &Position) -> Skipped {
    let (bound, touched, mentioned, imports) = Default::default();
    let skipped = Skipped { error, bound, touched, mentioned, imports };
    let mut effects = Effects { skipped, block, calls: false, file };
    let (head, rest) = lines.split_first().map_or((&[][..], lines), |(head, rest)| (&head.tokens[..], rest));
    let is_async = head.first().and_then(Token::name) == Some("async");
    let head = if is_async { &head[1..] } else { head };
    match head.first().and_then(Token::name) {
        // The body has separate names, and runs when the function is called, or (a class) at once.
        Some(word @ ("def" | "class")) => {
            effects.skipped.bound.extend(head.get(1).and_then(Token::name).map(str::to_owned));
            effects.block = word == "class";
            effects.mentions(head.get(2..).unwrap_or_default());
            for line in rest {
                let before = effects.skipped.touched.len();
                effects.mentions(&line.tokens);
                if word == "def" {
                    effects.skipped.touched.truncate(before);
                }
            }
        }
        word => {
            effects.line(head);
            rest.iter().for_each(|line| effects.line(&line.tokens));
            if word == Some("with") {
                // Whatever imports under a `with` is no class.
                effects.skipped.imports.iter_mut().for_each(|import| import.base = true);
            }
            // In a comprehension, elements have names: a call may change them under those.
            let comprehends = || lines.iter().flat_map(|l| &l.tokens).any(|t| t.name() == Some("for"));
            if effects.calls && comprehends() {
                effects.skipped.touched.extend_from_slice(&effects.skipped.mentioned);
            }
        }
    }
    effects.skipped
}

struct Effects<'a> {
    skipped: Skipped,
    block: bool,
    /// Whether there is a call that may change something.
    calls: bool,
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
            "del" => return self.bind(rest),
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

    /// Collects what is before an `=`, and after `as`.
    fn targets(&mut self, tokens: &[Token]) {
        let (mut begin, mut depth) = (0, 0usize);
        for (i, token) in tokens.iter().enumerate() {
            match token.tok {
                Tok::Op("(" | "[" | "{") => depth += 1,
                Tok::Op(")" | "]" | "}") => depth = depth.saturating_sub(1),
                Tok::Op(":") if depth == 0 => begin = i + 1,
                Tok::Op(":=") => self.bind(&tokens[i.saturating_sub(1)..i]),
                Tok::Op(op) if depth == 0 && is_assignment(op) => {
                    let bound = self.skipped.bound.len();
                    self.bind(&tokens[begin..i]);
                    if op != "=" {
                        // In place, if it is a list or dict.
                        self.skipped.touched.extend_from_slice(&self.skipped.bound[bound..]);
                    }
                    begin = i + 1;
                }
                Tok::Name(ref word) if word == "as" => {
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
            let (name, length) = root(name, &target[i + 1..]);
            let part = target.get(i + 1 + length).is_some_and(|t| t.is(".") || t.is("["));
            let names = if part { &mut self.skipped.touched } else { &mut self.skipped.bound };
            names.push(name);
        }
    }

    /// Collects names whose values a call may change: what a method is called on, and the arguments of a function
    /// that may change them. In a block, all of them: elements have names there too.
    fn mentions(&mut self, tokens: &[Token]) {
        // For each open bracket: the name the value before it begins with, whether it is a call that may
        // change things.
        let mut open: Vec<(Option<String>, bool)> = Vec::new();
        let mut value: Option<String> = None;
        for (i, token) in tokens.iter().enumerate() {
            let before = i.checked_sub(1).map(|b| &tokens[b]);
            let attribute = before.is_some_and(|t| t.is("."));
            match &token.tok {
                Tok::Name(name) if attribute || is_keyword(name) => {}
                Tok::Name(name) => {
                    let name = root(name, &tokens[i + 1..]).0;
                    value = Some(name.clone());
                    let keyword = !open.is_empty() && tokens.get(i + 1).is_some_and(|t| t.is("="));
                    if !keyword {
                        self.skipped.mentioned.push(name.clone());
                    }
                    if !keyword && (self.block || open.iter().any(|(_, changes)| *changes)) {
                        self.skipped.touched.push(name);
                    }
                }
                Tok::Op("(") => {
                    let name = before.and_then(Token::name).filter(|name| !is_keyword(name));
                    let method = i >= 2 && tokens[i - 2].is(".");
                    // What it is called on, and what is in its parentheses.
                    let (receiver, arguments) = match name {
                        Some(name) if method => (!is_pure_method(name), !leaves_arguments(name)),
                        Some(name) => (false, !is_pure_function(name)),
                        None => {
                            let call = before.is_some_and(|t| t.is(")") || t.is("]"));
                            (call, call)
                        }
                    };
                    self.calls |= receiver || arguments;
                    if receiver {
                        self.skipped.touched.extend(value.clone());
                    }
                    open.push((value.take(), arguments));
                }
                Tok::Op("[" | "{") => {
                    open.push((value.take(), false));
                }
                Tok::Op(")" | "]" | "}") => value = open.pop().and_then(|(value, _)| value),
                Tok::Op(".") => {}
                _ => value = None,
            }
        }
    }
}

/// Returns what a change of `name` followed by these tokens is a change of: of the bases, one key. Also how many of
/// the tokens that took.
fn root(name: &str, after: &[Token]) -> (String, usize) {
    if name != "_base_" {
        return (name.to_owned(), 0);
    }
    match after {
        [dot, Token { tok: Tok::Name(key), .. }, ..] if dot.is(".") => (base_key(key), 2),
        [open, Token { tok: Tok::Str { text, .. }, .. }, close, ..] if open.is("[") && close.is("]") => {
            (base_key(text), 3)
        }
        _ => (name.to_owned(), 0),
    }
}

/// Returns the name under which a key of the bases is noted.
pub(super) fn base_key(key: &str) -> String {
    format!("_base_.{key}")
}

fn is_assignment(op: &str) -> bool {
    op.ends_with('=') && !matches!(op, "==" | "!=" | "<=" | ">=" | ":=")
}

/// Returns the colon that ends the head of a block.
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
