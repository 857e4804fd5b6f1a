//! What crates.io and docs.rs ask of the manifests of published crates.

use crate::{Project, assert_none};
use std::collections::{BTreeMap, BTreeSet};

/// Features that docs.rs cannot build: it has no MPI.
const NOT_ON_DOCS_RS: [&str; 1] = ["mpi"];

/// The lines of a table of a manifest, without comments.
fn table<'a>(manifest: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let mut lines = manifest.lines().skip_while(|line| *line != name);
    lines.next()?;
    Some(lines.take_while(|line| !line.starts_with('[')).filter(|line| !line.starts_with('#')).collect())
}

/// The lists of strings of a table, by key. A list may be broken over lines.
fn lists(lines: &[&str]) -> BTreeMap<String, Vec<String>> {
    let text = lines.join("\n");
    let mut found = BTreeMap::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once(" = [") {
        let key = before.lines().last().unwrap_or_default().trim();
        let Some((list, after)) = after.split_once(']') else { break };
        found.insert(key.to_owned(), list.split('"').skip(1).step_by(2).map(str::to_owned).collect());
        rest = after;
    }
    found
}

/// What is wrong with the manifest of a published crate.
fn wrong(manifest: &str, is_library: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let package = table(manifest, "[package]").unwrap_or_default();
    for line in ["description = \"", "documentation.workspace = true", "include.workspace = true"] {
        if !package.iter().any(|have| have.starts_with(line)) {
            problems.push(format!("no `{line}`"));
        }
    }
    let keywords = lists(&package).remove("keywords").unwrap_or_default();
    if keywords.is_empty() || keywords.len() > 5 || keywords.iter().any(|word| word.len() > 20) {
        problems.push("keywords: one to five, of at most 20 letters".to_owned());
    }
    if !is_library {
        return problems;
    }
    let Some(shown) = table(manifest, "[package.metadata.docs.rs]").map(|table| lists(&table)) else {
        problems.push("no [package.metadata.docs.rs]".to_owned());
        return problems;
    };
    let features = lists(&table(manifest, "[features]").unwrap_or_default());
    let mut named: Vec<&String> = shown.get("features").into_iter().flatten().collect();
    for name in named.iter().filter(|name| !features.contains_key(**name)) {
        problems.push(format!("docs.rs: there is no feature {name}"));
    }
    named.extend(features.get("default").into_iter().flatten());
    let mut covered = BTreeSet::new();
    while let Some(name) = named.pop() {
        if covered.insert(name) {
            named.extend(features.get(name).into_iter().flatten());
        }
    }
    for name in features.keys().filter(|name| *name != "default" && !covered.contains(name)) {
        if !NOT_ON_DOCS_RS.contains(&name.as_str()) {
            problems.push(format!("docs.rs does not show the feature {name}"));
        }
    }
    problems
}

/// The folders of the published crates, `""` for the root's.
fn published(project: &Project) -> Vec<String> {
    let workspace = project.read("Cargo.toml");
    let members = lists(&table(&workspace, "[workspace]").unwrap()).remove("members").unwrap();
    let folders = members.into_iter().map(|member| member + "/").chain([String::new()]);
    folders
        .filter(|folder| !project.read(&format!("{folder}Cargo.toml")).contains("\npublish = false"))
        .collect()
}

#[test]
fn published_crates_are_complete() {
    let project = Project::here();
    let stability = project.read("docs/stability.md");
    let mut problems = Vec::new();
    for folder in published(&project) {
        let manifest = project.read(&format!("{folder}Cargo.toml"));
        let library = format!("{folder}src/lib.rs");
        let mut found = wrong(&manifest, project.has(&library));
        let files = ["README.md", "LICENSE-MIT", "LICENSE-APACHE"];
        found.extend(
            files
                .iter()
                .filter(|file| !project.has(&format!("{folder}{file}")))
                .map(|file| format!("no {file}")),
        );
        let package = table(&manifest, "[package]").unwrap();
        let name = package.iter().find_map(|line| line.strip_prefix("name = ")).unwrap().trim_matches('"');
        let row = stability.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{name}`")));
        let is_internal = row.is_some_and(|row| row.contains("| internal |"));
        if row.is_none() {
            found.push("docs/stability.md does not say whether it is public".to_owned());
        }
        if project.has(&library) {
            let source = project.read(&library);
            if !source.contains("\n#![cfg_attr(docsrs, feature(doc_cfg))]\n") {
                found.push("src/lib.rs does not tell docs.rs to show features".to_owned());
            }
            let readme = project.read(&format!("{folder}README.md"));
            for (file, text) in [("src/lib.rs", &source), ("README.md", &readme)] {
                if text.to_lowercase().contains("an internal crate") != is_internal {
                    found.push(format!("{file} and docs/stability.md differ about whether it is internal"));
                }
            }
        }
        problems.extend(found.into_iter().map(|problem| format!("{name}: {problem}")));
    }
    assert_none(&problems);
}

#[test]
fn incomplete_manifests_are_found() {
    let good = "[package]\ndescription = \"a\"\nkeywords = [\"a\"]\ndocumentation.workspace = true\n\
        include.workspace = true\n\n[package.metadata.docs.rs]\nfeatures = [\"b\"]\n\n[features]\n# as = [\"is\"]\n\
        default = [\"a\"]\na = []\nb = [\n    \"c\",\n    \"dep:d\",\n]\nc = []\nmpi = []\n";
    assert_eq!(wrong(good, true), [""; 0]);
    for (from, to, told) in [
        ("description", "name", "no `description = \"`"),
        ("include", "exclude", "no `include.workspace = true`"),
        ("keywords = [\"a\"]", "keywords = []", "keywords: one to five, of at most 20 letters"),
        ("[package.metadata.docs.rs]", "[package.metadata.x]", "no [package.metadata.docs.rs]"),
        ("\nc = []", "\nc = []\ne = []", "docs.rs does not show the feature e"),
        ("features = [\"b\"]", "features = [\"b\", \"x\"]", "docs.rs: there is no feature x"),
    ] {
        assert_eq!(wrong(&good.replacen(from, to, 1), true), [told]);
    }
}
