//! Phrases for which the field has a word.

use crate::{Project, assert_none};

/// A phrase, and what to write instead. A `*` stands for up to three words.
const REFUSED: [(&[&str], &str); 9] = [
    (&["by", "chance"], "stochastically, stochastic rounding"),
    (&["shared", "out"], "sharded"),
    (&["bring", "*", "round"], "broadcast, all-gather"),
    (&["brings", "*", "round"], "broadcasts, all-gathers"),
    (&["brought", "*", "round"], "broadcast, all-gathered"),
    (&["beside", "the", "peers"], "compared with other libraries"),
    (&["goes", "on", "around"], "gradient pipeline: accumulation, unscaling, clipping"),
    (&["what", "goes", "around"], "the enclosing format; modifiers"),
    (&["to", "the", "bit"], "bitwise"),
];

/// Where a phrase may stand, `file | phrase | reason` in each line.
const ALLOWED: &str = include_str!("allowed.txt");

/// A word, the line it stands in, and whether only a space is between it and the word before.
struct Word {
    text: String,
    line: usize,
    follows: bool,
}

/// The words of a text in lower case, without the marks of comments at the beginning of lines.
fn words(text: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut follows = true;
    for (line, content) in text.lines().enumerate() {
        let content = content.trim_start().trim_start_matches(['/', '!', '#', '>', '*']);
        let mut word = String::new();
        for char in content.chars().chain([' ']) {
            if char.is_alphanumeric() || char == '_' {
                word.extend(char.to_lowercase());
                continue;
            }
            if !word.is_empty() {
                words.push(Word { text: core::mem::take(&mut word), line: line + 1, follows });
                follows = true;
            }
            // Emphasis and a string's continued line part no phrase.
            follows &= char.is_whitespace() || matches!(char, '*' | '\\');
        }
        if content.trim().is_empty() {
            follows = false;
        }
    }
    words
}

/// How many words a phrase takes at the beginning of these, if they begin with it.
fn taken(words: &[Word], phrase: &[&str]) -> Option<usize> {
    let Some((&part, rest)) = phrase.split_first() else { return Some(0) };
    if part == "*" {
        return (0..=3).find_map(|skipped| {
            let between = words.get(..skipped)?;
            let taken = taken(words.get(skipped..)?, rest)?;
            between.iter().all(|word| word.follows).then_some(skipped + taken)
        });
    }
    let word = words.first().filter(|word| word.text == part)?;
    let taken = taken(&words[1..], rest)?;
    let is_next = words.get(1).is_none_or(|next| next.follows) || rest.is_empty();
    (word.text == part && is_next).then_some(1 + taken)
}

/// The phrases in a text: the line, the phrase, and what to write instead.
fn refused(text: &str) -> Vec<(usize, String, &'static str)> {
    let words = words(text);
    let starting = |start: usize| {
        let rest = &words[start..];
        let begun = REFUSED.iter().filter(|(phrase, _)| taken(rest, phrase).is_some());
        begun.map(|(phrase, instead)| (rest[0].line, phrase.join(" "), *instead))
    };
    (0..words.len()).flat_map(starting).collect()
}

fn is_text(file: &str, project: &Project) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    match name.rsplit_once('.') {
        Some((_, extension)) => ["md", "rs", "toml", "py", "sh"].contains(&extension),
        None => std::fs::read(project.root.join(file)).is_ok_and(|bytes| bytes.starts_with(b"#!")),
    }
}

/// No text has a phrase for which the field has a word, but where `allowed.txt` says why.
#[test]
fn phrases_are_those_of_the_field() {
    let project = Project::here();
    let mut allowed: Vec<(&str, &str, bool)> = Vec::new();
    for line in ALLOWED.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split(" | ").map(str::trim).collect();
        let [file, phrase, reason] = fields[..] else { panic!("allowed.txt: {line:?} has not three fields") };
        assert!(!reason.is_empty(), "allowed.txt: {line:?} gives no reason");
        allowed.push((file, phrase, false));
    }
    let mut problems = Vec::new();
    for file in project.files.iter().filter(|file| is_text(file, &project)) {
        for (line, phrase, instead) in refused(&project.read(file)) {
            match allowed.iter_mut().find(|entry| entry.0 == *file && entry.1 == phrase) {
                Some(entry) => entry.2 = true,
                None => problems.push(format!("{file}:{line}: \"{phrase}\"; write: {instead}")),
            }
        }
    }
    let unused = allowed.iter().filter(|entry| !entry.2);
    problems.extend(unused.map(|(file, phrase, _)| format!("allowed.txt: \"{phrase}\" is not in {file}")));
    assert_none(&problems);
}

#[test]
fn phrases_are_found_across_lines_and_in_comments() {
    let lines =
        |text: &str| refused(text).into_iter().map(|(line, phrase, _)| (line, phrase)).collect::<Vec<_>>();
    let (first, second) = ("by", "chance");
    for between in [" ", "\n", "\n    /// ", "\n# ", " **", "\\\n   "] {
        let text = format!("a\nrounded {}{between}{second}.", first.to_uppercase());
        assert_eq!(lines(&text), [(2, [first, second].join(" "))], "{text:?}");
    }
    for between in [". ", "\n\n", ", ", "_", "-"] {
        let text = format!("rounded {first}{between}{second}.");
        assert_eq!(lines(&text), [], "{text:?}");
    }
    let (first, second) = ("brings", "round");
    let round = |between: &str| format!("it {first} {between}{second}");
    for between in ["", "them ", "the parameters\n/// ", "all of them "] {
        assert_eq!(lines(&round(between))[0].1, [first, "*", second].join(" "), "{between:?}");
    }
    for between in ["one, two ", "one two three four "] {
        assert_eq!(lines(&round(between)), [], "{between:?}");
    }
}
