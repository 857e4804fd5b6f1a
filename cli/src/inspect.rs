//! `fallline inspect`: what a file of tensors holds.

use crate::common::{bytes, count, print, print_json, table};
use crate::error::{Error, Result};
use crate::escape::{shortened, shown};
use crate::tensors::{self, Kind, NamedTensor, TensorFile};
use crate::train;
use fallline::Checkpoint;
use fallline::core::files::read_tensors;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Arguments of `inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file is a checkpoint, a trace or an output of replay, any other safetensors, or what torch saves (of which nothing is \
executed). States that are stored as codes are decoded for their numbers. A checkpoint that cannot be loaded is printed as far \
as it can be read, and the exit code is 1. For that a checkpoint of train is loaded into the run of its configuration. Of others, \
the file, its hashes, its manifest and the steps of every parameter are checked, not whether they fit an optimizer.

Example: fallline inspect runs/digits-1/checkpoint.safetensors")]
pub struct Args {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Do not compare a checkpoint with its hashes
    #[arg(long)]
    no_verify: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Prints what the file holds.
pub fn run(args: Args) -> Result<()> {
    let content = read_tensors(&args.file).map_err(Error::io(&args.file))?;
    let mut file = tensors::read(&args.file, &content)?;
    if let (Kind::Checkpoint, None) = (file.kind, &file.damage) {
        let read = if args.no_verify { Checkpoint::from_bytes_unverified } else { Checkpoint::from_bytes };
        file.damage = match read(&content) {
            Ok(checkpoint) => train::damage(&checkpoint),
            Err(problem) => Some(problem),
        };
    }
    match args.json {
        true => print_json(&as_json(&args, &file, content.len())?)?,
        false => print(&as_text(&args, &file, content.len())?)?,
    }
    match file.damage {
        None => Ok(()),
        Some(problem) => Err(Error::Malformed { path: args.file, problem }),
    }
}

/// What the numbers of a tensor come to.
struct Numbers {
    norm: f64,
    largest: f64,
    non_finite: usize,
}

impl Numbers {
    fn of(tensor: &NamedTensor<'_>) -> Result<Option<Numbers>> {
        let Some(numbers) = tensor.numbers()? else { return Ok(None) };
        let finite = numbers.iter().copied().filter(|x| x.is_finite());
        let largest = finite.clone().fold(0.0, |largest: f64, x| largest.max(x.abs()));
        // Scaled, so that no square overflows.
        let scale = if largest > 0.0 { largest } else { 1.0 };
        // A fold, as the sum of nothing is -0.
        let norm = finite.map(|x| (x / scale).powi(2)).fold(0.0, |sum, square| sum + square).sqrt() * scale;
        let non_finite = numbers.iter().filter(|x| !x.is_finite()).count();
        Ok(Some(Numbers { norm, largest, non_finite }))
    }
}

/// Returns what the first part of a name says; of plain files and of torch's nothing.
fn role(kind: Kind, name: &str) -> Option<&str> {
    match kind {
        Kind::Safetensors | Kind::Torch => None,
        _ => name.split_once('/').map(|(role, _)| role),
    }
}

fn as_json(args: &Args, file: &TensorFile<'_>, size: usize) -> Result<Value> {
    let each = file.tensors.iter().map(|tensor| {
        let numbers = Numbers::of(tensor)?;
        Ok(json!({
            "name": tensor.name,
            "role": role(file.kind, &tensor.name),
            "dtype": tensor.dtype,
            "format": tensor.codes.as_ref().map(|(format, _)| format.name()),
            "shape": tensor.shape,
            "bytes": tensor.bytes,
            "norm": numbers.as_ref().map(|numbers| numbers.norm),
            "largest": numbers.as_ref().map(|numbers| numbers.largest),
            "non_finite": numbers.as_ref().map(|numbers| numbers.non_finite),
        }))
    });
    let opaque = file.opaque.iter().map(|opaque| json!({ "at": opaque.at, "class": opaque.class }));
    Ok(json!({
        "file": args.file.display().to_string(),
        "kind": file.kind.name(),
        "bytes": size,
        "manifest": file.manifest,
        "metadata": file.metadata,
        "tensors": each.collect::<Result<Vec<_>>>()?,
        "opaque": opaque.collect::<Vec<_>>(),
        "damage": file.damage,
    }))
}

fn as_text(args: &Args, file: &TensorFile<'_>, size: usize) -> Result<String> {
    let mut text =
        format!("{}: {}, {}\n", shown(&args.file.to_string_lossy()), file.kind.name(), bytes(size as u64));
    text.push_str(&manifest(file.manifest.as_ref()));
    for (key, value) in &file.metadata {
        text.push_str(&format!("{}: {}\n", shortened(key), shortened(value)));
    }
    let mut rows = vec![
        ["name", "dtype", "shape", "bytes", "norm", "largest", "not finite"].map(str::to_owned).to_vec(),
    ];
    for tensor in &file.tensors {
        let numbers = Numbers::of(tensor)?;
        let number = |get: fn(&Numbers) -> f64| numbers.as_ref().map_or("-".into(), |n| short(get(n)));
        rows.push(vec![
            shortened(&tensor.name),
            tensor.codes.as_ref().map_or(tensor.dtype.clone(), |(format, _)| format.name().to_owned()),
            format!("{:?}", tensor.shape),
            bytes(tensor.bytes as u64),
            number(|numbers| numbers.norm),
            number(|numbers| numbers.largest),
            numbers.as_ref().map_or("-".into(), |numbers| numbers.non_finite.to_string()),
        ]);
    }
    text.push('\n');
    text.push_str(&table(&rows));
    let held: usize = file.tensors.iter().map(|tensor| tensor.bytes).sum();
    text.push_str(&format!("\n{}, {}\n", count(file.tensors.len() as u64, "tensor"), bytes(held as u64)));
    if file.kind == Kind::Checkpoint {
        for (role, word) in [("param", "parameter"), ("state", "state")] {
            let of_role =
                file.tensors.iter().filter(|tensor| self::role(file.kind, &tensor.name) == Some(role));
            // Scales belong to the codes with the same name.
            let own = of_role.clone().filter(|tensor| !tensor.name.ends_with(".scale")).count();
            let held: usize = of_role.map(|tensor| tensor.bytes).sum();
            text.push_str(&format!("{}, {}\n", count(own as u64, word), bytes(held as u64)));
        }
    }
    for opaque in &file.opaque {
        text.push_str(&format!("not built: {} ({})\n", shortened(&opaque.at), shortened(&opaque.class)));
    }
    Ok(text)
}

/// Returns a number with few digits.
pub fn short(number: f64) -> String {
    match number.abs() {
        size if number.fract() == 0.0 && size < 1e15 => format!("{number}"),
        size if (1e-3..1e6).contains(&size) => format!("{number:.6}"),
        _ => format!("{number:.6e}"),
    }
}

/// Returns what a manifest says, in a few lines.
fn manifest(manifest: Option<&Value>) -> String {
    let Some(manifest) = manifest else { return String::new() };
    let mut text = format!("version: {}\n", manifest["version"]);
    let optimizer = &manifest["optimizer"];
    if let Some(name) = optimizer["type"].as_str() {
        text.push_str(&format!("optimizer: {}\n", shortened(name)));
    }
    for (number, group) in optimizer["groups"].as_array().into_iter().flatten().enumerate() {
        let each = group.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={value}"));
        text.push_str(&format!("group {number}: {}\n", shown(&each.collect::<Vec<_>>().join(", "))));
    }
    let progress = &manifest["trainer"]["progress"];
    if let (Some(step), Some(epoch)) = (progress["step"].as_u64(), progress["epoch"].as_u64()) {
        text.push_str(&format!("trained: {}, {}\n", count(epoch, "epoch"), count(step, "step")));
    }
    if let Some(config) = manifest["trainer"]["config"].as_str() {
        text.push_str(&format!("configuration: {}\n", shown(config)));
    }
    text
}
