//! Names and values as a terminal may have them.

use std::borrow::Cow;

/// Returns a text as a terminal may have it: on one line, without commands to it and changes of direction.
pub fn shown(text: &str) -> Cow<'_, str> {
    let is_bidi = |c: char| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let is_unsafe = |c: char| c.is_control() || is_bidi(c);
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
    let text = shown(text);
    let count = text.chars().count();
    if count <= LONGEST {
        return text.into_owned();
    }
    let (first, last) = (LONGEST * 3 / 4, LONGEST / 4);
    let end = text.chars().skip(count - last);
    text.chars().take(first).chain(['…']).chain(end).collect()
}

/// The characters of a name or a value that are shown at most.
const LONGEST: usize = 240;

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
}
