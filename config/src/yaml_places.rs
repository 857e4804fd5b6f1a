//! Where the keys of YAML are, which its parser does not say: they are searched in the text, in their order.

use crate::places::Places;
use crate::value::{Dict, Node, Position, Value};

/// The longest line, in bytes, in which keys are searched: the time grows with its square.
const LONGEST: usize = 1000;

/// Gives the keys of a tree, and their values, the positions that they have in the text it was read from. Where a key is
/// not found, or an alias repeats some of them, all keep the positions they have.
pub(super) fn located(node: Node, text: &str, file: &Position) -> Node {
    if repeats(text) || text.lines().any(|line| line.len() > LONGEST) {
        return node;
    }
    let mut scan = Scan { text, at: 0, places: Places::new(text, file) };
    let at = node.at.clone();
    scan.node(&node, at).unwrap_or(node)
}

/// Returns whether a text may have aliases, or mappings that are merged into others.
fn repeats(text: &str) -> bool {
    let begins = |before: &str| before.ends_with([' ', '\t', '\n', '[', '{', ',']);
    text.contains("<<") || text.match_indices('*').any(|(place, _)| begins(&text[..place]))
}

struct Scan<'t> {
    text: &'t str,
    /// What is before this is read.
    at: usize,
    places: Places<'t>,
}

impl Scan<'_> {
    fn node(&mut self, node: &Node, at: Position) -> Option<Node> {
        let value = match &node.value {
            Value::Dict(dict) => Value::Dict(self.dict(dict)?),
            Value::List(items) => {
                let mut list = Vec::new();
                for item in items {
                    let mut item = self.node(item, at.clone())?;
                    if let Value::Dict(dict) = &item.value
                        && let Some(first) = dict.keys().next().and_then(|key| dict.key_at(key))
                    {
                        item.at = first.clone();
                    }
                    list.push(item);
                }
                Value::List(list)
            }
            other => other.clone(),
        };
        Some(Node { value, at })
    }

    fn dict(&mut self, dict: &Dict) -> Option<Dict> {
        let mut located = Dict::new();
        for (key, node) in dict.iter() {
            let key_at = self.key(key)?;
            let at = self.value()?.unwrap_or_else(|| key_at.clone());
            let node = self.node(node, at)?;
            located.insert_at(key, key_at, node);
        }
        Some(located)
    }

    /// Finds the next place where a key is one, and goes behind its colon.
    fn key(&mut self, key: &str) -> Option<Position> {
        if key.is_empty() {
            return None;
        }
        loop {
            let start = self.at + self.text[self.at..].find(key)?;
            self.at = start + key.len();
            let (before, after) = (&self.text[..start], &self.text[self.at..]);
            let quote = before.chars().next_back().filter(|c| matches!(c, '"' | '\''));
            let before = quote.map_or(before, |_| &before[..start - 1]);
            let Some(after) = quote.map_or(Some(after), |quote| after.strip_prefix(quote)) else { continue };
            let Some(rest) = after.trim_start_matches([' ', '\t']).strip_prefix(':') else { continue };
            let ends = quote.is_some() || rest.is_empty() || rest.starts_with(char::is_whitespace);
            if ends && begins_key(before) {
                self.at = self.text.len() - rest.len();
                return Some(self.places.at(before.len()));
            }
        }
    }

    /// Returns where the value behind a colon begins, if that is in the same line. Goes behind a string in quotes. A
    /// text of several lines may have anything in it: then nothing is found.
    fn value(&mut self) -> Option<Option<Position>> {
        let rest = self.text[self.at..].trim_start_matches([' ', '\t']);
        let start = self.text.len() - rest.len();
        match rest.chars().next() {
            None | Some('\r' | '\n' | '#') => return Some(None),
            Some('|' | '>') => return None,
            Some(quote @ ('"' | '\'')) => self.at = start + 1 + rest[1..].find(quote)? + 1,
            Some(_) => self.at = start,
        }
        Some(Some(self.places.at(start)))
    }
}

/// Returns whether a key may begin behind a text: at the beginning of a line or of an item, or in brackets.
fn begins_key(before: &str) -> bool {
    let line = before.rsplit('\n').next().unwrap_or_default();
    if line.starts_with('#') || line.contains(" #") || line.contains("\t#") {
        return false;
    }
    let line = line.trim_end();
    line.ends_with(['{', ',', '[']) || line.chars().all(|c| matches!(c, ' ' | '\t' | '-' | '?' | '\u{feff}'))
}
