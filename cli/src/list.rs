//! `fallline list`.

use crate::common::{print, print_json};
use fallline::Method;
use fallline::optim::hyper::HyperError;
use fallline::optim::{AnyAlgorithm, Lookahead, Modified};
use fallline::registry::names::{ENTRIES, Entry};
use serde_json::json;

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: fallline list --json")]
pub struct Args {
    /// Print a JSON array of objects: name, family, source, state_bytes_per_param, state_formula, needs, modifiers
    #[arg(long)]
    json: bool,
}

/// Prints the names, sorted.
pub fn run(args: Args) -> crate::error::Result<()> {
    if args.json {
        return print_json(&ENTRIES.iter().map(summary).collect());
    }
    print(&ENTRIES.iter().map(|entry| format!("{}\n", entry.name)).collect::<String>())
}

/// Returns what both `list` and `describe` tell of a name.
pub fn summary(entry: &Entry) -> serde_json::Value {
    let algorithm = entry.defaults();
    json!({
        "name": entry.name,
        "family": algorithm.info().family,
        "source": algorithm.info().source,
        "state_bytes_per_param": entry.state_bytes(),
        "state_formula": entry.state_formula(),
        "needs": entry.needs(),
        "modifiers": modifiers(&algorithm).into_iter().filter(|(_, goes)| goes.is_ok()).map(|(name, _)| name).collect::<Vec<_>>(),
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
