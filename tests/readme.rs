//! README's table of names, which is written from the registry; and whether the changelog has them.

mod common;

use common::generated;
use fallline::Method;
use fallline::optim::Reference;
use fallline::registry::names::{ENTRIES, Entry};
use std::path::{Path, PathBuf};

fn document(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Returns where the semantics of a name are from: the package and its version, or the paper.
fn source(method: &Method) -> String {
    let info = method.info();
    let package = info.source.split('.').next().unwrap_or_default().to_lowercase();
    let found = info.references.iter().find(|reference| reference.at.to_lowercase().starts_with(&package));
    let authors = |paper: &Reference| paper.text.split(',').next().unwrap_or_default().to_owned();
    found.map_or_else(|| authors(&info.references[0]), |package| package.at.to_owned())
}

/// Returns what is said of a name in README's table.
fn page(entry: &Entry) -> [String; 3] {
    let method = entry.defaults();
    if method.algorithm().is_some_and(|algorithm| algorithm.sharded()) {
        let states = "those of its `optimizer_type`, divided by the ranks";
        let about = "Each rank keeps the states of the parameters that it owns.";
        return ["MMEngine 0.10.7".into(), states.into(), about.into()];
    }
    // Codes, and a scale for each block of them.
    let states = entry.state_formula().replace("1.015625", "1.02");
    [source(&method), states, method.info().summary.to_owned()]
}

/// Returns README's table of names.
fn table() -> String {
    let mut rows: Vec<([String; 3], Vec<String>)> = Vec::new();
    for entry in ENTRIES {
        let (page, name) = (page(entry), format!("`{}`", entry.name));
        match rows.iter_mut().find(|(known, _)| *known == page) {
            Some((_, names)) => names.push(name),
            None => rows.push((page, vec![name])),
        }
    }
    rows.sort_by_key(|([source, ..], names)| (source.to_lowercase(), names[0].to_lowercase()));
    let mut table =
        "| name | semantics of | bytes of state, by default | what it does |\n|---|---|---|---|\n".to_owned();
    for ([source, states, about], names) in rows {
        table += &format!("| {} | {source} | {states} | {about} |\n", names.join(", "));
    }
    table
}

/// With `FALLLINE_README=write` the table is written.
#[test]
fn readme_has_the_table_of_names() {
    generated("README.md", "names", "FALLLINE_README=write cargo test --release --test readme", &table());
}

#[test]
fn the_changelog_names_every_algorithm() {
    let text = std::fs::read_to_string(document("CHANGELOG.md")).unwrap();
    for entry in ENTRIES {
        // Of sources with many names for one algorithm the changelog names the algorithm.
        let method = entry.defaults();
        let family =
            entry.name.starts_with("bnb_") || entry.name.ends_with("bit") || entry.name.starts_with("Paged");
        assert!(
            family || text.contains(entry.name),
            "CHANGELOG.md says nothing of {} ({})",
            entry.name,
            method.info().source
        );
    }
}
