//! `fallline minimize`: optimizers on known functions.

mod files;
pub mod problems;
mod run;

use crate::common::{self, count, print, print_json, table, warn};
use crate::error::{Error, Result};
use crate::numbers::{DIGITS, decimal, short};
use crate::output::Output;
use crate::source::{Changes, Source};
use clap::builder::{PathBufValueParser, TypedValueParser};
use fallline::AnyRecipe;
use problems::{Name, Problem};
use run::Run;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

/// Arguments of `minimize`.
#[derive(Debug, clap::Args)]
#[command(
    group(clap::ArgGroup::new("configuration").required(true).multiple(true).args(["optimizer", "config"])),
    after_help = "\
Example: fallline minimize rosenbrock --optimizer 'dict(type=\"LBFGS\", line_search_fn=\"strong_wolfe\")' --steps 10 --plot path.svg
Several in one picture: fallline minimize beale --optimizer AdamW --optimizer Lion --steps 200 --plot both.png"
)]
pub struct Args {
    /// The function
    #[arg(value_enum)]
    problem: Name,
    /// A configuration inline: `AdamW` or `dict(type="AdamW", lr=1e-4)`; several are compared
    #[arg(long, value_name = "TEXT")]
    optimizer: Vec<String>,
    /// A configuration file: .py, .json, .toml or .yaml; several are compared
    #[arg(short, long, value_name = "FILE")]
    config: Vec<PathBuf>,
    #[command(flatten)]
    changes: Changes,
    /// Warn instead of failing if a rule in paramwise_cfg matches no parameter
    #[arg(long)]
    allow_unmatched: bool,
    /// Number of steps
    #[arg(long, allow_hyphen_values = true)]
    steps: u64,
    /// Number of variables (of rosenbrock, quadratic and rastrigin)
    #[arg(long, allow_hyphen_values = true, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    dim: Option<u64>,
    /// Output: x/<t> after each step and the loss before each as .safetensors; a row each step as .csv; .json
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(Output::tensors))]
    out: Option<Output>,
    /// Output: a picture, .svg or .png, of the trajectory of two variables, else of the loss
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(Output::picture))]
    plot: Option<Output>,
    /// Exit with 1 if a loss is not finite at the end
    #[arg(long)]
    check: bool,
    /// Device: cpu, scalar, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Seed of random numbers (reserved: no algorithm of this version uses them)
    #[arg(long, allow_hyphen_values = true, default_value_t = 0)]
    seed: u64,
    /// Print a JSON object; of several optimizers an array of them
    #[arg(long)]
    json: bool,
}

/// The most steps, each of which has a loss.
const MOST_STEPS: u64 = 100_000_000;
/// The most numbers of places that are kept for `--out` and `--plot`: 1 GiB.
const MOST_KEPT: u64 = 1 << 27;

impl Args {
    /// Reads the optimizers: those inline, then those of files.
    fn recipes(&self) -> Result<Vec<AnyRecipe>> {
        let allow_unmatched = self.allow_unmatched;
        let read = |(optimizer, config)| {
            Source { optimizer, config, changes: self.changes.clone(), allow_unmatched }.any_recipe()
        };
        let inline = self.optimizer.iter().map(|text| (Some(text.clone()), None));
        let files = self.config.iter().map(|path| (None, Some(path.clone())));
        inline.chain(files).map(read).collect()
    }
}

/// Minimizes.
pub fn run(args: Args) -> Result<()> {
    let recipes = args.recipes()?;
    let backend = common::device(&args.device, None)?;
    let (problem, start) = Problem::new(args.problem, args.dim.map(|dim| dim as usize))?;
    let keeps = args.out.is_some() || args.plot.is_some() && start.len() == 2;
    if args.steps > MOST_STEPS {
        let steps = args.steps;
        return Err(Error::Usage(format!("--steps: expected at most {MOST_STEPS}, got {steps}")));
    }
    // The place at the start and after each step.
    let kept = (args.steps + 1).saturating_mul((start.len() * recipes.len()) as u64);
    if keeps && kept > MOST_KEPT {
        return Err(Error::Usage(format!(
            "--steps: the places of all steps are {kept} numbers, expected at most {MOST_KEPT} (2^27)"
        )));
    }
    let mut runs = Vec::new();
    for recipe in &recipes {
        runs.push(Run::new((&problem, &start), recipe, Arc::clone(&backend), args.steps, keeps)?);
    }
    if let Some(output) = &args.out {
        files::numbers(output, args.problem, &runs)?;
    }
    if let Some(output) = &args.plot {
        files::picture(output, args.problem, &problem, &runs)?;
    }
    match (args.json, &runs[..]) {
        (true, [run]) => print_json(&summary(run))?,
        (true, runs) => print_json(&runs.iter().map(summary).collect())?,
        (false, [run]) => print(&sentence(run))?,
        (false, runs) => print(&compared(runs))?,
    }
    let diverged = runs.iter().filter_map(|run| Some(told(run, run.diverged_at()?)));
    let diverged: Vec<String> = diverged.collect();
    if args.check && !diverged.is_empty() {
        return Err(Error::Other(diverged.join("; ")));
    }
    diverged.iter().for_each(|told| warn(told));
    Ok(())
}

/// Says of a run that it diverged.
fn told(run: &Run, step: u64) -> String {
    let (name, loss) = (&run.label.name, short(run.last(), DIGITS));
    format!("{name} diverged at step {step}: the loss is {loss} after {}", count(run.steps(), "step"))
}

/// Returns what JSON says of a run. JSON has no number for NaN and infinities: they are null.
fn summary(run: &Run) -> Value {
    json!({
        "steps": run.steps(),
        "first_loss": run.losses.first(),
        "last_loss": run.last(),
        "x": run.x,
        "optimizer": run.label.name,
        "settings": run.label.settings,
        "diverged": run.diverged_at().is_some(),
        "diverged_at": run.diverged_at(),
    })
}

/// Returns a place, of so many variables at most.
fn place(x: &[f64], most: usize, digits: usize) -> String {
    let shown: Vec<String> = x.iter().take(most).map(|x| short(*x, digits)).collect();
    let more = if x.len() > most { ", …" } else { "" };
    format!("({}{more})", shown.join(", "))
}

fn sentence(run: &Run) -> String {
    let diverged = run.diverged_at().map_or_else(String::new, |step| format!(", diverged at step {step}"));
    let (loss, steps, at) = (short(run.last(), 7), count(run.steps(), "step"), place(&run.x, 8, 7));
    format!("loss {loss} after {steps}{diverged}, at {at}\n")
}

/// Returns a table with a row for each run.
fn compared(runs: &[Run]) -> String {
    let lowest = |run: &Run| run.losses.iter().copied().fold(f64::NAN, f64::min);
    let head = ["optimizer", "loss", "lowest loss", "diverged at step", "at", "settings"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for run in runs {
        let (last, least) = (decimal(run.last(), DIGITS), decimal(lowest(run), DIGITS));
        let diverged = run.diverged_at().map_or_else(|| "-".to_owned(), |step| step.to_string());
        let (name, settings) = (run.label.name.clone(), run.label.settings.clone());
        rows.push(vec![name, last, least, diverged, place(&run.x, 2, 4), settings]);
    }
    table(&rows)
}
