//! The length of sentences.

use crate::{Project, assert_none};

/// The longest sentence, in words.
const LONGEST: usize = 25;
/// The longest mean over the sentences of a document.
const MEAN: f64 = 18.0;
/// The most lines of ARCHITECTURE.md.
const ARCHITECTURE_LINES: usize = 100;

/// A run of text that belongs together, and the line in which it begins.
#[derive(Debug, PartialEq)]
pub struct Block {
    pub line: usize,
    pub text: String,
}

/// The paragraphs and list items of a document, without code, tables and headings.
pub fn blocks(document: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut fenced, mut open) = (false, false);
    for (line, content) in document.lines().enumerate() {
        let text = content.trim();
        if text.starts_with("```") {
            (fenced, open) = (!fenced, false);
            continue;
        }
        // Four spaces are code where no list item goes on.
        let code = fenced || (content.starts_with("    ") && !open);
        if code || text.is_empty() || text.starts_with(['#', '|']) || text.starts_with("<!--") {
            open = false;
            continue;
        }
        let number = text.split_once(". ").is_some_and(|(n, _)| n.chars().all(|char| char.is_ascii_digit()));
        let item = ["- ", "* ", "+ "].iter().find_map(|mark| text.strip_prefix(mark));
        let item = item.or_else(|| text.split_once(". ").filter(|_| number).map(|(_, rest)| rest));
        match (item, blocks.last_mut().filter(|_| open)) {
            (None, Some(block)) => {
                block.text.push(' ');
                block.text.push_str(text);
            }
            _ => blocks.push(Block { line: line + 1, text: item.unwrap_or(text).to_owned() }),
        }
        open = true;
    }
    blocks
}

/// A text with each piece of inline code as one word, and links as what they show.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for (place, part) in text.split('`').enumerate() {
        plain.push_str(if place % 2 == 1 { "Code" } else { part });
    }
    while let Some(start) = plain.find("](") {
        let Some(end) = plain[start..].find(')') else { break };
        plain.replace_range(start..=start + end, "");
    }
    plain.replace(['[', '*'], "")
}

/// The sentences of a block, as numbers of words, and whether the last one ends.
fn sentences(block: &str) -> (Vec<usize>, bool) {
    let plain = plain(block);
    let (mut counts, mut count, mut ended) = (Vec::new(), 0, false);
    for token in plain.split_whitespace() {
        let abbreviation =
            ["e.g.", "i.e.", "vs.", "cf.", "et", "al."].contains(&token.trim_start_matches('('));
        count += usize::from(token.chars().any(char::is_alphanumeric));
        ended = !abbreviation && token.trim_end_matches(['"', '\'', ')', '_']).ends_with(['.', '?', '!']);
        if ended {
            counts.push(core::mem::take(&mut count));
        }
    }
    if count > 0 {
        counts.push(count);
    }
    (counts, ended)
}

/// What is too long in a document. A fragment (no full stop) counts for the longest sentence, not for the mean.
fn too_long(file: &str, document: &str) -> Vec<String> {
    let (mut problems, mut whole) = (Vec::new(), Vec::new());
    for block in blocks(document) {
        let (mut counts, ended) = sentences(&block.text);
        for &count in counts.iter().filter(|count| **count > LONGEST) {
            let begin: String = block.text.chars().take(60).collect();
            problems.push(format!("{file}:{}: {count} words, more than {LONGEST}: {begin}…", block.line));
        }
        if !ended {
            counts.pop();
        }
        whole.extend(counts);
    }
    let mean = whole.iter().sum::<usize>() as f64 / whole.len().max(1) as f64;
    if mean > MEAN {
        problems.push(format!("{file}: sentences have {mean:.1} words in the mean, more than {MEAN}"));
    }
    problems
}

/// No sentence of the documents is longer than 25 words, nor the mean of one of them above 18.
#[test]
fn sentences_are_short() {
    let project = Project::here();
    let checked = |file: &&str| {
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].contains(file)
            || file.starts_with("docs/")
            || file.starts_with("benches/")
    };
    let files: Vec<&str> = project.documents().filter(checked).collect();
    assert!(files.len() > 10, "{files:?}");
    let problems: Vec<String> = files.iter().flat_map(|file| too_long(file, &project.read(file))).collect();
    assert_none(&problems);
}

/// The architecture can be read at one sitting.
#[test]
fn the_architecture_fits_on_a_page() {
    let lines = Project::here().read("ARCHITECTURE.md").lines().count();
    assert!(lines <= ARCHITECTURE_LINES, "ARCHITECTURE.md has {lines} lines, more than {ARCHITECTURE_LINES}");
}

#[test]
fn long_sentences_are_found() {
    let words = |count: usize| vec!["word"; count].join(" ");
    assert_eq!(too_long("a", &format!("{}.\n", words(25))).len(), 1, "the mean");
    assert_eq!(too_long("a", &format!("Short.\n\n{}.\n", words(25))), [""; 0]);
    let long = too_long("a", &format!("Short.\n\nShort one. {}\n{}.", words(13), words(13)));
    assert_eq!(long.len(), 1, "{long:?}");
    assert!(long[0].starts_with("a:3: 26 words"), "{long:?}");
    let items = format!("- {}\n- {}\n\n1. Short. {}: `a b c`, [d e](f).\n", words(20), words(20), words(22));
    assert_eq!(too_long("a", &items), [""; 0].map(str::to_owned), "a short mean of what ends");
    assert_eq!(too_long("a", &format!("- {}\n", words(26))).len(), 1, "a fragment");
    for hidden in ["```\n{}\n```\n", "| {} |\n", "# {}\n", "\n    {}\n"] {
        assert_eq!(too_long("a", &hidden.replace("{}", &words(40))), [""; 0], "{hidden:?}");
    }
    assert_eq!(sentences("At 1.5 times (e.g. here). It ends?"), (vec![5, 2], true));
}
