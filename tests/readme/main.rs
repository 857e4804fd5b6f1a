//! README and the tables of names, which are written from the registry, and its chart; whether the changelog has all names.

mod chart;
#[path = "../common/mod.rs"]
mod common;

use common::generated;
use fallline::Method;
use fallline::optim::Reference;
use fallline::registry::names::{ENTRIES, Entry};
use std::collections::BTreeMap;
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

/// How the tables and the chart are written.
const WRITE: &str = "FALLLINE_README=write cargo test --test readme";
/// The most lines of README.md.
const README_LINES: usize = 120;

/// Returns what is said of a name in the table of names.
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

/// Returns the table of names.
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

/// Returns a name without what bitsandbytes puts around it, and what that says.
fn folded(name: &str) -> (&str, [bool; 2]) {
    let name = name.strip_prefix("bnb_").unwrap_or(name);
    let paged = name.strip_prefix("Paged");
    let name = paged.unwrap_or(name);
    let bits = name.strip_suffix("8bit");
    (bits.or_else(|| name.strip_suffix("32bit")).unwrap_or(name), [bits.is_some(), paged.is_some()])
}

/// Returns README's table of families: each name once, with the variants that it has in 8 bits and paged.
fn families() -> String {
    let mut families: BTreeMap<&str, BTreeMap<&str, [bool; 2]>> = BTreeMap::new();
    for entry in ENTRIES {
        let (name, [bits, paged]) = folded(entry.name);
        let variants = families.entry(entry.defaults().info().family).or_default().entry(name).or_default();
        *variants = [variants[0] || bits, variants[1] || paged];
    }
    let row = |(family, names): (&&str, &BTreeMap<&str, [bool; 2]>)| {
        let mut names: Vec<_> = names.iter().collect();
        names.sort_by_key(|(name, _)| name.to_lowercase());
        let name = |(name, variants): &(&&str, &[bool; 2])| match variants {
            [true, true] => format!("{name} (8-bit, paged)"),
            [true, false] => format!("{name} (8-bit)"),
            [false, true] => format!("{name} (paged)"),
            [false, false] => (**name).to_owned(),
        };
        format!("| {family} | {} |\n", names.iter().map(name).collect::<Vec<_>>().join(", "))
    };
    let mut rows: Vec<_> = families.iter().collect();
    rows.sort_by_key(|(_, names)| std::cmp::Reverse(names.len()));
    format!("| family | optimizers |\n|---|---|\n{}", rows.into_iter().map(row).collect::<String>())
}

/// With `FALLLINE_README=write` the table is written.
#[test]
fn the_page_of_optimizers_has_the_table_of_names() {
    generated("docs/optimizers.md", "names", WRITE, &table());
}

/// With `FALLLINE_README=write` the table is written.
#[test]
fn readme_has_every_name_in_its_family() {
    generated("README.md", "families", WRITE, &families());
}

/// With `FALLLINE_README=write` the chart is written.
#[test]
fn the_chart_has_the_figures_of_its_page() {
    let page = std::fs::read_to_string(document(chart::PAGE)).unwrap();
    let (path, drawn) = (document(chart::FILE), chart::drawn(&page));
    if std::env::var_os("FALLLINE_README").is_some_and(|wish| wish == "write") {
        std::fs::write(&path, &drawn).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap();
    assert!(found == drawn, "{} has other figures than its page; write it: {WRITE}", chart::FILE);
}

#[test]
fn readme_can_be_read_at_one_sitting() {
    let lines = std::fs::read_to_string(document("README.md")).unwrap().lines().count();
    assert!(lines <= README_LINES, "README.md has {lines} lines, more than {README_LINES}");
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
