//! `fallline list`.

use crate::common::{print, print_json, table};
use crate::error::{Error, Result};
use crate::registry::registry;
use fallline::Method;
use fallline::optim::hyper::HyperError;
use fallline::optim::{AnyAlgorithm, Lookahead, Modified};
use fallline::registry::Entry;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::IsTerminal;

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
On a terminal a table is printed, otherwise one name a line. The bytes are those of the states of one element, with the defaults.

Example: fallline list --json

More:
  fallline list --search schedule
  fallline list --family adaptive")]
pub struct Args {
    /// Only names of this family
    #[arg(long, value_name = "FAMILY")]
    family: Option<String>,
    /// Only names with this text in them, in their family, source or summary
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Print a JSON array of objects: name, family, source, state_bytes_per_param, state_formula, needs, modifiers, summary
    #[arg(long)]
    json: bool,
}

/// Prints the names, sorted.
pub fn run(args: Args) -> Result<()> {
    let entries = args.entries()?;
    if args.json {
        return print_json(&entries.into_iter().map(summary).collect());
    }
    if std::io::stdout().is_terminal() {
        let width = terminal_size::terminal_size().map_or(100, |(width, _)| usize::from(width.0));
        return print(&as_table(&entries, width));
    }
    print(&entries.iter().map(|entry| format!("{}\n", entry.name)).collect::<String>())
}

impl Args {
    /// Returns the entries that are asked for.
    fn entries(&self) -> Result<Vec<&'static Entry>> {
        let families: BTreeSet<&str> =
            registry().entries().iter().map(|entry| entry.defaults().info().family).collect();
        if let Some(family) = self.family.as_ref().filter(|family| !families.iter().any(|f| alike(f, family)))
        {
            let known = families.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Error::Usage(format!("--family: there is no family {family:?}: there are {known}")));
        }
        let wanted = |entry: &&Entry| {
            let method = entry.defaults();
            let info = method.info();
            let text = [entry.name, info.family, info.source, info.summary].join("\n").to_lowercase();
            self.family.as_ref().is_none_or(|family| alike(info.family, family))
                && self.search.as_ref().is_none_or(|part| text.contains(&part.to_lowercase()))
        };
        Ok(registry().entries().iter().filter(wanted).collect())
    }
}

fn alike(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// Returns the table, whose lines are cut at a width.
fn as_table(entries: &[&Entry], width: usize) -> String {
    let mut rows = vec![["name", "family", "source", "bytes", "summary"].map(str::to_owned).to_vec()];
    for entry in entries {
        let method = entry.defaults();
        let info = method.info();
        let bytes = entry.state_bytes().map_or("-".into(), |bytes| format!("{bytes}"));
        let (name, family, source) = (entry.name.to_owned(), info.family.to_owned(), info.source.to_owned());
        rows.push(vec![name, family, source, bytes, info.summary.to_owned()]);
    }
    let widest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let left = (0..4).map(|column| widest(column) + 2).sum::<usize>();
    // Very long names leave no room: then lines are wider than the terminal.
    let room = width.saturating_sub(left).max(20);
    for row in &mut rows {
        if row[4].chars().count() > room {
            row[4] = row[4].chars().take(room - 1).chain(['…']).collect();
        }
    }
    table(&rows)
}

/// Returns what both `list` and `describe` tell of a name.
pub fn summary(entry: &Entry) -> serde_json::Value {
    let algorithm = entry.defaults();
    let modifiers = modifiers(&algorithm).into_iter().filter(|(_, goes)| goes.is_ok());
    json!({
        "name": entry.name,
        "family": algorithm.info().family,
        "source": algorithm.info().source,
        "state_bytes_per_param": entry.state_bytes(),
        "state_formula": entry.state_formula(),
        "needs": entry.needs(),
        "modifiers": modifiers.map(|(name, _)| name).collect::<Vec<_>>(),
        "summary": algorithm.info().summary,
    })
}

/// Returns the modifiers of an optimizer, as a configuration gives them, or why it refuses them.
pub fn modifiers(method: &Method) -> [(&'static str, Result<(), String>); 2] {
    let around = |modify: &dyn Fn(Box<dyn AnyAlgorithm>) -> Result<Box<dyn AnyAlgorithm>, HyperError>| {
        let Some(algorithm) = method.algorithm() else {
            return Err(format!("{} is closure-based", method.name()));
        };
        modify(algorithm.boxed()).map(|_| ()).map_err(|error| error.to_string())
    };
    [
        ("cautious=True", around(&Modified::cautious)),
        ("wrap=dict(type=\"Lookahead\")", around(&|inner| Modified::lookahead(inner, Lookahead::default()))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use fallline::registry::names::ENTRIES;

    #[test]
    fn the_table_has_a_line_a_name_and_its_width() {
        let entries: Vec<&Entry> = ENTRIES.iter().collect();
        let told = anstream::adapter::strip_str(&as_table(&entries, 110)).to_string();
        assert_eq!(told.lines().count(), ENTRIES.len() + 1);
        assert!(told.lines().all(|line| line.chars().count() <= 110), "{told}");
        let row = told.lines().find(|line| line.starts_with("AdamW ")).unwrap();
        assert!(row.contains(" 8  "), "{row}");
        // The first column is what scripts get.
        let names: Vec<&str> = told.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(names, ENTRIES.iter().map(|entry| entry.name).collect::<Vec<_>>());
    }
}
