//! Links between documents, and paths of the project that they name.

use crate::{Project, assert_none};

/// The lines of a document that are no code, each with its number.
fn lines(document: &str) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let numbered = document.lines().enumerate();
    let shown = numbered.filter(|(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    shown.map(|(number, line)| (number + 1, line)).collect()
}

/// The targets of the links in a line, but none in inline code.
fn targets(line: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    let mut rest = line;
    while let Some(start) = rest.find("](") {
        let in_code = rest[..start].matches('`').count() % 2 == 1 && rest[start..].contains('`');
        rest = &rest[start + 2..];
        if let Some(end) = rest.find(')').filter(|_| !in_code) {
            targets.push(&rest[..end]);
        }
    }
    targets
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_'));
    kept.map(|char| if char == ' ' { '-' } else { char }).collect()
}

fn has_anchor(document: &str, wanted: &str) -> bool {
    lines(document).iter().any(|(_, line)| line.starts_with('#') && anchor(line) == wanted)
}

/// The path that a link leads to from a document, from the root.
fn resolved(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// What is wrong with the links of a document.
fn broken(project: &Project, from: &str, document: &str, read: &dyn Fn(&str) -> String) -> Vec<String> {
    let mut problems = Vec::new();
    for (number, line) in lines(document) {
        for target in targets(line) {
            if ["http://", "https://", "mailto:"].iter().any(|scheme| target.starts_with(scheme)) {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let to = match path {
                "" => Some(from.to_owned()),
                _ => resolved(from, path),
            };
            let Some(to) = to.filter(|to| project.has(to)) else {
                problems.push(format!("{from}:{number}: {target} is not there"));
                continue;
            };
            if !anchor.is_empty()
                && !has_anchor(&if to == from { document.to_owned() } else { read(&to) }, anchor)
            {
                problems.push(format!("{from}:{number}: {to} has no heading #{anchor}"));
            }
        }
    }
    problems
}

/// The inline code of a line.
fn code(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// What is wrong with the paths that a document names in inline code: `core/src/lib.rs`, `examples/`, `lion.rs`,
/// `tests/allocations.rs::the_name_of_a_test`.
fn unknown(project: &Project, from: &str, document: &str, read: &dyn Fn(&str) -> String) -> Vec<String> {
    let mut problems = Vec::new();
    let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
    for (number, line) in lines(document) {
        for word in code(line).flat_map(str::split_whitespace) {
            let (path, item) = word.split_once("::").unwrap_or((word, ""));
            let plain = |char: char| char.is_ascii_alphanumeric() || "_-./".contains(char);
            if path.is_empty() || !path.chars().all(plain) || path.starts_with(['/', '-']) {
                continue;
            }
            let first = path.split('/').next().unwrap_or(path);
            let generated = ["target", "runs", "peers", "venv"].contains(&first);
            let in_project = path.contains('/') && project.has(first) && first != "..";
            let source = [".rs", ".md"].iter().any(|end| path.ends_with(end) && path.len() > end.len());
            if generated || !(in_project || source) {
                continue;
            }
            let beside = resolved(&format!("{folder}/-"), path).filter(|path| project.has(path));
            let found = beside.is_some() || project.has(path) || project.find(path).is_some();
            if !found {
                problems.push(format!("{from}:{number}: `{path}` is not there"));
            } else if path.ends_with(".rs") && !item.is_empty() {
                let file = if project.has(path) { path } else { project.find(path).unwrap_or(path) };
                let text = read(file);
                let kinds = ["fn", "struct", "trait", "enum", "mod", "const"];
                if !kinds.iter().any(|kind| text.contains(&format!("{kind} {item}"))) {
                    problems.push(format!("{from}:{number}: {file} has no {item}"));
                }
            }
        }
    }
    problems
}

/// Documents whose paths are of other machines or other repositories.
const FOREIGN: [&str; 1] = ["cli/data/README.md"];

/// Every relative link leads to a file, and to a heading where it names one.
#[test]
fn links_lead_somewhere() {
    let project = Project::here();
    let read = |file: &str| project.read(file);
    let all = project.documents().flat_map(|file| broken(&project, file, &read(file), &read));
    assert_none(&all.collect::<Vec<_>>());
}

/// Every path of the project that a document names is there, and so are the tests named with their file.
#[test]
fn named_files_are_there() {
    let project = Project::here();
    let read = |file: &str| project.read(file);
    let documents = project.documents().filter(|file| !FOREIGN.contains(file));
    let all = documents.flat_map(|file| unknown(&project, file, &read(file), &read));
    assert_none(&all.collect::<Vec<_>>());
}

#[test]
fn broken_links_and_names_are_found() {
    let project = Project::of(&["README.md", "docs/a.md", "core/src/lib.rs", "tests/x.rs"]);
    let read = |file: &str| match file {
        "tests/x.rs" => "fn holds() {}".to_owned(),
        _ => "# Two words, `Code`\n```sh\n# not one\n```\n".to_owned(),
    };
    let good = "[a](a.md) [b](../README.md#two-words-code) [c](../core/) [d](https://e.f/g) `[x](y)`";
    assert_eq!(broken(&project, "docs/a.md", good, &read), [""; 0]);
    for (bad, told) in [
        ("[a](b.md)", "docs/a.md:1: b.md is not there"),
        ("\n[a](../README.md#not-one)", "docs/a.md:2: README.md has no heading #not-one"),
        ("[a](#none)", "docs/a.md:1: docs/a.md has no heading #none"),
        ("[a](../../a.md)", "docs/a.md:1: ../../a.md is not there"),
    ] {
        assert_eq!(broken(&project, "docs/a.md", bad, &read), [told]);
    }
    let good =
        "`core/src/lib.rs` `core/` `lib.rs` `a.md` `tests/x.rs::holds` `target/x` `a/b` `state/<name>`";
    assert_eq!(unknown(&project, "docs/a.md", good, &read), [""; 0]);
    for (bad, told) in [
        ("`core/src/none.rs`", "docs/a.md:1: `core/src/none.rs` is not there"),
        ("`core/none`", "docs/a.md:1: `core/none` is not there"),
        ("`none.rs`", "docs/a.md:1: `none.rs` is not there"),
        ("`tests/x.rs::fails`", "docs/a.md:1: tests/x.rs has no fails"),
    ] {
        assert_eq!(unknown(&project, "docs/a.md", bad, &read), [told]);
    }
}
