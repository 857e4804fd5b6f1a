//! Names and values as a terminal may have them.

use std::borrow::Cow;

/// Returns a text as a terminal may have it: on one line, without commands to it and changes of direction.
pub fn shown(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut told = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            _ if is_bidi(c) => told.extend(c.escape_unicode()),
            _ if c.is_control() => told.extend(c.escape_default()),
            _ => told.push(c),
        }
    }
    Cow::Owned(told)
}

/// Returns a text as [`shown`], the middle of a very long one left out.
pub fn shortened(text: &str) -> String {
    cut(&shown(text), LONGEST).into_owned()
}

/// Returns a message on one line, as [`shown`]: very long words in it are cut, and so is a very long message.
pub fn message(text: &str) -> String {
    let words: Vec<String> = text.split_whitespace().map(shortened).collect();
    cut(&words.join(" "), LONGEST_MESSAGE).into_owned()
}

/// Returns JSON as a terminal may have it: what would command it is in strings, where JSON has escapes for it.
pub fn json(text: &str) -> Cow<'_, str> {
    // The lines of the JSON itself stay.
    let is_unsafe = |c: char| is_unsafe(c) && c != '\n';
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut told = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unsafe(c) { told.push_str(&format!("\\u{:04x}", c as u32)) } else { told.push(c) }
    }
    Cow::Owned(told)
}

/// Returns a text without its middle, where it is longer.
fn cut(text: &str, longest: usize) -> Cow<'_, str> {
    let count = text.chars().count();
    if count <= longest {
        return Cow::Borrowed(text);
    }
    let (first, last) = (longest * 3 / 4, longest / 4);
    let end = text.chars().skip(count - last);
    text.chars().take(first).chain(['…']).chain(end).collect()
}

/// Returns whether a character changes the direction of those after it.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns whether a terminal takes a character for a command, or for a change of direction.
fn is_unsafe(c: char) -> bool {
    c.is_control() || is_bidi(c)
}

/// The characters of a name or a value that are shown at most.
const LONGEST: usize = 240;
/// The characters of a message that are shown at most.
const LONGEST_MESSAGE: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_commands() {
        assert_eq!(shown("a/b \u{e4}\u{4e00}"), "a/b \u{e4}\u{4e00}");
        assert_eq!(shown("a\nb\u{1b}[31m\u{202e}c"), "a\\nb\\u{1b}[31m\\u{202e}c");
        let long = format!("begin{}end", "x".repeat(3000));
        let told = shortened(&long);
        assert_eq!(told.chars().count(), LONGEST + 1);
        assert!(told.starts_with("begin") && told.contains('…') && told.ends_with("end"), "{told}");
    }

    #[test]
    fn messages_are_one_line_of_a_bounded_length() {
        assert_eq!(message("a.py:  got\n'b'\u{9b}1m"), "a.py: got 'b'\\u{9b}1m");
        assert_eq!(message("  two\t words "), "two words");
        let word = format!("x.json: '{}' is no number", "y".repeat(100_000));
        assert_eq!(message(&word).chars().count(), "x.json: is no number".len() + 1 + LONGEST + 1);
        let words = format!("x.json: got [{}], expected a number", "1, ".repeat(100_000));
        let told = message(&words);
        assert_eq!(told.chars().count(), LONGEST_MESSAGE + 1);
        assert!(
            told.starts_with("x.json: got [1, 1,") && told.ends_with("1, ], expected a number"),
            "{told}"
        );
    }

    #[test]
    fn json_stays_what_it_is() {
        let value = serde_json::json!({ "a\u{202e}": ["\u{1b}[1m", "\u{9b}1m\u{7f}", "\u{e4}"] });
        let text = format!("{value:#}\n");
        let told = json(&text);
        assert!(!told.contains(|c| is_unsafe(c) && c != '\n'), "{told}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&told).unwrap(), value);
        assert_eq!(told.lines().count(), text.lines().count());
    }
}
