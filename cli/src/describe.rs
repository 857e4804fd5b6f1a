//! `fallline describe`.

use crate::common::{print, print_json, table};
use crate::error::{Error, Result};
use crate::list::summary;
use fallline::core::{Kernel, Role, symbol};
use fallline::registry::names::{self, ENTRIES, Entry};
use serde_json::json;

/// Arguments of `describe`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: fallline describe AdamW")]
pub struct Args {
    /// A name of the registry
    name: String,
    /// Print an object instead of text
    #[arg(long)]
    json: bool,
}

/// Prints everything about an algorithm.
pub fn run(args: Args) -> Result<()> {
    let entry = names::find(&args.name).ok_or_else(|| unknown(&args.name))?;
    if args.json { print_json(&as_json(entry)) } else { print(&as_text(entry)) }
}

fn unknown(name: &str) -> Error {
    let known = || ENTRIES.iter().map(|entry| entry.name);
    let hint =
        names::nearest(name, known()).map(|near| format!(" (did you mean {near:?}?)")).unwrap_or_default();
    let known = known().collect::<Vec<_>>().join(", ");
    Error::Usage(format!("there is no optimizer {name:?}{hint}; known are {known}"))
}

/// The rules that an algorithm's options choose from: the defaults', and those of options that are on.
fn kernels(entry: &Entry) -> Vec<(String, &'static Kernel)> {
    use fallline::optim::hyper::Value;
    let mut kernels = vec![("by default".to_owned(), entry.defaults().kernel())];
    for hyper in entry.defaults().table().iter().filter(|hyper| hyper.counts) {
        let on = match (hyper.default)() {
            Value::Bool(default) => Value::Bool(!default),
            Value::Float(0.0) => Value::Float(0.5),
            _ => continue,
        };
        let text = format!("with {}={on}", hyper.name);
        let Ok(algorithm) = entry.with(&[(hyper.name, on)]) else { continue };
        let kernel = algorithm.kernel();
        if !kernels.iter().any(|(_, known)| std::ptr::eq(*known, kernel)) {
            kernels.push((text, kernel));
        }
    }
    kernels
}

fn states(kernel: &Kernel) -> Vec<&'static str> {
    kernel.operands.iter().filter(|o| o.role == Role::State).map(|o| o.name).collect()
}

/// A scalar's formula with the hyperparameters' own names.
fn readable(formula: &str) -> String {
    let named = formula.replace("h.betas.0", "beta1").replace("h.betas.1", "beta2");
    named.replace("h.", "").replace("math::", "").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn as_text(entry: &Entry) -> String {
    let algorithm = entry.defaults();
    let info = algorithm.info();
    let mut text = format!("{}: {}\n", entry.name, info.summary);
    for (when, kernel) in kernels(entry) {
        text.push_str(&format!("\nUpdate {when}\n"));
        for line in kernel.record().to_string().lines() {
            text.push_str(&format!("  {line}\n"));
        }
        text.push_str("  with, once a step,\n");
        // A hyperparameter under its own name needs no row.
        let derived =
            kernel.scalars.iter().map(|s| (s.name, readable(s.formula))).filter(|(name, is)| name != is);
        let rows = derived.map(|(name, is)| vec![format!("    {}", symbol(name)), format!("= {is}")]);
        text.push_str(&table(&rows.collect::<Vec<_>>()));
        let states = states(kernel);
        text.push_str(&match states.is_empty() {
            true => "  State: none\n".to_owned(),
            false => {
                format!("  State: {} ({} bytes a parameter in f32)\n", states.join(", "), 4 * states.len())
            }
        });
    }
    text.push_str("\nθ is the parameter, g its gradient (negated with maximize), t the step count from 1.\n");
    text.push_str("\nHyperparameters\n");
    let mut rows = vec![["  name", "type", "default", "range", "meaning"].map(str::to_owned).to_vec()];
    for hyper in algorithm.table() {
        let range = if hyper.kind.contains("float") { hyper.range.to_string() } else { String::new() };
        rows.push(vec![
            format!("  {}", hyper.name),
            hyper.kind.to_owned(),
            (hyper.default)().to_string(),
            range,
            hyper.meaning.trim().to_owned(),
        ]);
    }
    text.push_str(&table(&rows));
    text.push_str(&format!("\nSemantics of {}. {}\n", info.source, info.differences));
    text.push_str("\nReferences\n");
    for reference in info.references {
        text.push_str(&format!("  {} ({})\n", reference.text, reference.at));
    }
    text
}

fn as_json(entry: &Entry) -> serde_json::Value {
    let algorithm = entry.defaults();
    let info = algorithm.info();
    let mut value = summary(entry);
    let hypers = algorithm.table().iter().map(|hyper| {
        json!({
            "name": hyper.name,
            "type": hyper.kind,
            "default": (hyper.default)().to_string(),
            "range": hyper.range.to_string(),
            "meaning": hyper.meaning.trim(),
            "changes_numbers": hyper.counts,
        })
    });
    let rules = kernels(entry).into_iter().map(|(when, kernel)| {
        let scalars =
            kernel.scalars.iter().map(|s| json!({ "name": s.name, "formula": readable(s.formula) }));
        json!({
            "when": when,
            "rule": kernel.name,
            "update": kernel.record().to_string().lines().collect::<Vec<_>>(),
            "scalars": scalars.collect::<Vec<_>>(),
            "states": states(kernel),
        })
    });
    let references = info.references.iter().map(|r| json!({ "text": r.text, "at": r.at }));
    value["summary"] = info.summary.into();
    value["rules"] = rules.collect();
    value["hyperparameters"] = hypers.collect();
    value["differences"] = info.differences.into();
    value["references"] = references.collect();
    value
}
