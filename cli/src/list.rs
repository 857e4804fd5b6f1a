//! `fallline list`.

use crate::common::{print, print_json};
use crate::error::Result;
use fallline::registry::names::{ENTRIES, Entry};
use serde_json::json;

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: fallline list --json")]
pub struct Args {
    /// Print an array of objects: name, family, source, state_bytes_per_param, state_formula, needs
    #[arg(long)]
    json: bool,
}

/// Prints the names, sorted.
pub fn run(args: Args) -> Result<()> {
    if args.json {
        return print_json(&ENTRIES.iter().map(summary).collect());
    }
    print(&ENTRIES.iter().map(|entry| format!("{}\n", entry.name)).collect::<String>())
}

/// What both `list` and `describe` tell of a name.
pub fn summary(entry: &Entry) -> serde_json::Value {
    let algorithm = entry.defaults();
    json!({
        "name": entry.name,
        "family": algorithm.info().family,
        "source": algorithm.info().source,
        "state_bytes_per_param": entry.state_bytes(),
        "state_formula": entry.state_formula(),
        "needs": entry.needs,
    })
}
