//! What a failure looks like: one line, and the line of the file or argument that it is about.

use crate::error::{Error, Text};
use crate::escape::{message, shortened};
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use anstyle::{AnsiColor, Effects, Style};
use fallline::core::files;
use fallline::registry::config::Position;
use std::borrow::Cow;
use std::path::Path;

/// How errors are marked.
const ERROR: Style = AnsiColor::Red.on_default().effects(Effects::BOLD);
/// How warnings are marked.
const WARNING: Style = AnsiColor::Yellow.on_default().effects(Effects::BOLD);
/// How help is marked.
const HELP: Style = AnsiColor::Cyan.on_default().effects(Effects::BOLD);
/// The columns of a line, beyond which it is cut around the caret.
const WIDTH: usize = 100;
/// Files that are longer are no configurations: they are not read for the sake of a message.
const MOST: u64 = 1 << 24;

/// Prints a failure on standard error; with the line that it is about, where that is asked for.
pub fn failure(error: &Error, with_line: bool) {
    if let Error::Arguments(error) = error {
        let text = error.render();
        match of_parser(&text.to_string()) {
            Cow::Borrowed(_) => anstream::eprint!("{}", text.ansi()),
            Cow::Owned(plain) => anstream::eprint!("{plain}"),
        }
        return;
    }
    let line = message(&error.to_string());
    match error {
        Error::Interrupted(_) => anstream::eprintln!("{WARNING}interrupted:{WARNING:#} {line}"),
        _ => anstream::eprintln!("{ERROR}error:{ERROR:#} {line}"),
    }
    if let Some(excerpt) = with_line.then(|| excerpt(error)).flatten() {
        anstream::eprintln!("{excerpt}");
        if let Some(nearest) = error.nearest() {
            anstream::eprintln!("{HELP}help:{HELP:#} did you mean `{}`?", shortened(nearest));
        }
    }
}

/// Returns what the parser of the command line says. What was typed is in it, and changed where a terminal may not have it.
fn of_parser(text: &str) -> Cow<'_, str> {
    let word = |word: &str| shortened(word) != word;
    if !text.split([' ', '\n']).any(word) {
        return Cow::Borrowed(text);
    }
    let lines = text.lines().map(|line| {
        let words: Vec<String> = line.split(' ').map(shortened).collect();
        words.join(" ") + "\n"
    });
    Cow::Owned(lines.collect())
}

/// Prints a warning on standard error.
pub fn warning(text: &str) {
    anstream::eprintln!("{WARNING}warning:{WARNING:#} {}", message(text));
}

/// Returns the line that a failure is about, with a caret; none where it is about no line.
fn excerpt(error: &Error) -> Option<String> {
    let at = error.at().filter(|at| at.line > 0)?;
    match (error.text(at), &at.file) {
        (Some(Text { shown, text, .. }), _) => drawn(shown, text, at),
        (None, Some(file)) => {
            let path = Path::new(&**file);
            let bytes = files::read(path, MOST).ok()?;
            drawn(file, &String::from_utf8_lossy(&bytes), at)
        }
        (None, None) => None,
    }
}

/// Draws a line of a text.
fn drawn(name: &str, text: &str, at: &Position) -> Option<String> {
    let line = text.lines().nth(at.line as usize - 1)?;
    let column = (at.column.max(1) as usize - 1).min(line.chars().count());
    let start: usize = line.chars().take(column).map(char::len_utf8).sum();
    // The keys of a change are apart.
    let key = line.find('=').filter(|end| name == "--set" && start < *end);
    let key = key.map(|end| line[start..end].find('.').unwrap_or(end - start));
    let span = start..start + key.unwrap_or_else(|| token(&line[start..]));
    let snippet = Snippet::source(line)
        .line_start(at.line as usize)
        .path(shortened(name))
        .annotation(AnnotationKind::Primary.span(span));
    let renderer = Renderer::styled().term_width(WIDTH);
    Some(renderer.render(&[Group::with_level(Level::ERROR).element(snippet)]))
}

/// Returns the bytes of the word, number or string that a text begins with; those of its first character otherwise.
fn token(text: &str) -> usize {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    let Some(first) = text.chars().next() else { return 0 };
    let rest = &text[first.len_utf8()..];
    let len = match first {
        '"' | '\'' => rest.find(first).map_or(0, |end| end + 1),
        '-' | '+' => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
        _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
        _ => 0,
    };
    first.len_utf8() + len
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(name: &str, text: &str, line: u32, column: u32) -> Option<String> {
        let at = Position { file: None, line, column };
        Some(anstream::adapter::strip_str(&drawn(name, text, &at)?).to_string())
    }

    #[test]
    fn the_caret_is_under_the_word() {
        let text = "a = 1\noptimizer = dict(type='AdamW', learning_rate=1e-3)\n";
        let told = plain("a.py", text, 2, 32).unwrap();
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines[0].trim(), "--> a.py:2:32");
        assert!(lines[2].ends_with("optimizer = dict(type='AdamW', learning_rate=1e-3)"), "{told}");
        let place = lines[2].find("learning_rate").unwrap();
        assert_eq!(lines[3].find("^^^^^^^^^^^^^"), Some(place), "{told}");
        assert!(!lines[3].contains(&"^".repeat(14)), "{told}");
    }

    #[test]
    fn a_key_of_a_change_is_marked_alone() {
        for (column, marked) in [(1, "^"), (3, "^^"), (6, "^"), (8, "^^^")] {
            let told = plain("--set", "a.bc.d=1.5", 1, column).unwrap();
            assert!(told.contains(marked) && !told.contains(&format!("{marked}^")), "{told}");
        }
    }

    #[test]
    fn what_was_typed_is_shown_safely() {
        let text = "error: unexpected argument '--lt' found\n\n  tip: '--lr'\n";
        assert!(matches!(of_parser(text), Cow::Borrowed(told) if told == text));
        let typed = format!("error: invalid value '\u{1b}[1m{}' for '--lr'\n\nUsage", "9".repeat(100_000));
        let told = of_parser(&typed);
        assert!(told.len() < 400 && told.starts_with("error: invalid value '\\u{1b}[1m99"), "{told}");
        assert!(told.ends_with("' for '--lr'\n\nUsage\n"), "{told}");
    }

    #[test]
    fn a_wide_line_is_cut_around_the_caret() {
        let text = format!("x = [{}lernrate{}]", "1, ".repeat(400), ", 2".repeat(400));
        let told = plain("wide.py", &text, 1, 1206).unwrap();
        assert!(told.contains("lernrate") && told.contains("^^^^^^^^"), "{told}");
        assert!(told.lines().all(|line| line.chars().count() <= 110), "{told}");
    }

    #[test]
    fn places_outside_the_text_do_no_harm() {
        assert!(plain("a.py", "short", 1, 99).is_some());
        assert!(plain("a.py", "", 1, 1).is_none() && plain("a.py", "a\n", 7, 1).is_none());
        assert!(plain("a.py", "öäü = 'ß", 1, 7).unwrap().contains('^'));
    }
}
