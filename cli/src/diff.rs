//! `fallline diff`: two files of tensors compared.

mod compare;

use crate::common::{count, from_zero, print, print_json, table};
use crate::error::{Error, Result};
use crate::escape::{shortened, shown};
use crate::inspect::short;
use crate::tensors::{self, Kind, NamedTensor, TensorFile};
use compare::{Compared, Outcome, compare};
use fallline::Checkpoint;
use fallline::core::files::read_tensors;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Arguments of `diff`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Tensors are paired by name. For each that differs: the largest absolute difference, the norm of the difference over that of A's \
tensor, the largest distance in ulps of A's type, how many elements differ, and the first of them. Two NaNs are equal, 0 and -0 \
are not. Manifests of checkpoints are compared, too, apart from hashes.

Exit codes: 0 where nothing differs, 1 where something does, 2 for an error

Example: fallline diff cpu.safetensors cuda.safetensors --tolerance 1e-6")]
pub struct Args {
    /// The file that the other is compared with
    #[arg(value_name = "A")]
    a: PathBuf,
    /// The other file
    #[arg(value_name = "B")]
    b: PathBuf,
    /// Let tensors be equal whose difference has at most this norm, relative to A's tensor
    #[arg(long, value_name = "X", allow_hyphen_values = true, value_parser = from_zero)]
    tolerance: Option<f64>,
    /// Do not compare checkpoints with their hashes
    #[arg(long)]
    no_verify: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Compares the files, and fails where they differ.
pub fn run(args: Args) -> Result<()> {
    let incomparable = |error: Error| Error::Incomparable(error.into());
    let contents = [&args.a, &args.b].map(|path| read_tensors(path).map_err(Error::io(path)));
    let [a, b] = contents.map(|read| read.map_err(incomparable));
    let (a, b) = (a?, b?);
    let a = read(&args.a, &a, !args.no_verify).map_err(incomparable)?;
    let b = read(&args.b, &b, !args.no_verify).map_err(incomparable)?;
    let rows = pairs(&a, &b, args.tolerance).map_err(incomparable)?;
    let mut manifests = Vec::new();
    if let (Some(a), Some(b)) = (&a.manifest, &b.manifest) {
        differences("", a, b, &mut manifests);
    }
    let equal = manifests.is_empty() && rows.iter().all(|row| row.outcome == Outcome::Equal);
    match args.json {
        true => print_json(&json!({
            "equal": equal,
            "tensors": rows.iter().map(as_json).collect::<Vec<_>>(),
            "manifest": manifests,
        }))?,
        false => print(&as_text(&rows, &manifests))?,
    }
    if equal { Ok(()) } else { Err(Error::Different) }
}

/// Reads a file's bytes. One that cannot be loaded is read as far as it can be, but not one that differs from its hashes.
fn read<'b>(path: &Path, bytes: &'b [u8], verifies: bool) -> Result<TensorFile<'b>> {
    let file = tensors::read(path, bytes)?;
    match (file.kind, &file.damage) {
        (Kind::Checkpoint, None) if verifies => Checkpoint::from_bytes(bytes)
            .map(|_| file)
            .map_err(|problem| Error::Malformed { path: path.to_owned(), problem }),
        _ => Ok(file),
    }
}

/// Compares tensors of the same name, in the order of A's; those of B alone come last.
fn pairs(a: &TensorFile<'_>, b: &TensorFile<'_>, tolerance: Option<f64>) -> Result<Vec<Compared>> {
    let mut others: HashMap<&str, &NamedTensor<'_>> =
        b.tensors.iter().map(|tensor| (&*tensor.name, tensor)).collect();
    let alone = |tensor: &NamedTensor<'_>, outcome| {
        let name = tensor.name.clone();
        Compared { name, outcome, numbers: None }
    };
    let of_a = a.tensors.iter().map(|tensor| match others.remove(&*tensor.name) {
        Some(other) => compare(tensor, other, tolerance),
        None => Ok(alone(tensor, Outcome::OnlyInA)),
    });
    let mut rows = of_a.collect::<Result<Vec<Compared>>>()?;
    let only = b.tensors.iter().filter(|tensor| others.contains_key(&*tensor.name));
    rows.extend(only.map(|tensor| alone(tensor, Outcome::OnlyInB)));
    Ok(rows)
}

/// Collects the paths at which two manifests differ.
fn differences(at: &str, a: &Value, b: &Value, found: &mut Vec<String>) {
    let path = |key: &str| if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let only = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(only).filter(|key| !(at.is_empty() && key.starts_with("hash"))) {
                let null = &Value::Null;
                differences(&path(key), a.get(key).unwrap_or(null), b.get(key).unwrap_or(null), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (place, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&path(&place.to_string()), a, b, found);
            }
        }
        _ if a != b => found.push(at.to_owned()),
        _ => {}
    }
}

fn as_json(row: &Compared) -> Value {
    let numbers = row.numbers.as_ref();
    json!({
        "name": row.name,
        "outcome": row.outcome.name(),
        "max_abs": numbers.map(|numbers| numbers.max_abs),
        "relative_norm": numbers.map(|numbers| numbers.relative_norm),
        "max_ulps": numbers.and_then(|numbers| numbers.max_ulps),
        "elements": numbers.map(|numbers| numbers.elements),
        "differing": numbers.map(|numbers| numbers.differing),
        "first": numbers.and_then(|numbers| numbers.first.as_ref()).map(|first| {
            json!({ "index": first.index, "a": first.a.json(), "b": first.b.json() })
        }),
    })
}

fn as_text(rows: &[Compared], manifests: &[String]) -> String {
    let differing: Vec<&Compared> = rows.iter().filter(|row| row.outcome != Outcome::Equal).collect();
    let mut text = String::new();
    if !differing.is_empty() {
        let head = ["name", "max abs", "relative norm", "ulps", "differing", "first difference"];
        let mut cells = vec![head.map(str::to_owned).to_vec()];
        for row in &differing {
            let mut line = vec![shortened(&row.name)];
            match &row.numbers {
                Some(numbers) => {
                    let first = numbers
                        .first
                        .as_ref()
                        .map(|first| format!("{:?}: {} and {}", first.index, first.a.text(), first.b.text()));
                    let types = matches!(row.outcome, Outcome::Dtype(..)).then(|| row.outcome.told());
                    let why: Vec<String> = types.into_iter().chain(first).collect();
                    line.extend([
                        short(numbers.max_abs),
                        short(numbers.relative_norm),
                        numbers.max_ulps.map_or("-".into(), |ulps| ulps.to_string()),
                        format!("{} of {}", numbers.differing, numbers.elements),
                        if why.is_empty() { "-".into() } else { why.join("; ") },
                    ]);
                }
                None => {
                    line.extend(["-"; 4].map(str::to_owned));
                    line.push(row.outcome.told());
                }
            }
            cells.push(line);
        }
        text.push_str(&table(&cells));
        text.push('\n');
    }
    if !manifests.is_empty() {
        text.push_str(&format!("the manifests differ in {}\n", shown(&manifests.join(", "))));
    }
    // Where nothing differs any more because of a tolerance, it says so.
    let unequal = |row: &Compared| row.numbers.as_ref().is_some_and(|numbers| numbers.differing > 0);
    let are = if rows.iter().any(unequal) { "within the tolerance" } else { "equal" };
    text.push_str(&match (differing.len(), rows.len()) {
        (0, 1) => format!("the one tensor is {are}\n"),
        (0, all) => format!("all {all} tensors are {are}\n"),
        (1, all) => format!("1 of {} differs\n", count(all as u64, "tensor")),
        (differing, all) => format!("{differing} of {all} tensors differ\n"),
    });
    text
}
