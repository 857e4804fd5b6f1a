//! `fallline schedule`: the values of a schedule.

mod series;

use crate::common::{count, from_zero, is_quiet, print, print_json, table, warn, without_end};
use crate::error::{Error, Result};
use crate::escape::shortened;
use crate::label::Label;
use crate::numbers::{DIGITS, column, short};
use crate::output::{Format, Output};
use crate::plot::{self, Heading, Series};
use crate::source::Changes;
use clap::builder::{PathBufValueParser, TypedValueParser};
use fallline::core::fallible;
use fallline::core::files;
use fallline::optim::checkpoint::write_atomically;
use serde_json::{Value, json};
use series::{Source, Values};
use std::path::{Path, PathBuf};

/// Arguments of `schedule`.
#[derive(Debug, clap::Args)]
#[command(
    group(clap::ArgGroup::new("chain").required(true).multiple(true).args(["scheduler", "config"])),
    after_help = "\
Example: fallline schedule --scheduler 'dict(type=\"PolyLR\", power=2, end=100, by_epoch=False)' --steps 100 --plot lr.svg
Several in one picture: fallline schedule --config a.py --config b.py --steps 1800 --plot both.png"
)]
pub struct Args {
    /// One scheduler or a list of them, inline: `dict(type="CosineAnnealingLR", T_max=100, by_epoch=False)`; several are compared
    #[arg(long, value_name = "TEXT")]
    scheduler: Vec<String>,
    /// A configuration file, or one that holds a scheduler or a list of them: .py, .json, .toml or .yaml; several are compared
    #[arg(short, long, value_name = "FILE")]
    config: Vec<PathBuf>,
    #[command(flatten)]
    changes: Changes,
    /// Initial learning rate; by default that of the file's optimizer, or 0.05
    #[arg(long, allow_hyphen_values = true, value_parser = from_zero)]
    lr: Option<f64>,
    /// Initial momentum; by default that (or the first beta) of the file's optimizer, or 0.9
    #[arg(long, allow_hyphen_values = true, value_parser = from_zero)]
    momentum: Option<f64>,
    /// Number of steps: iterations of the loop, as MMEngine counts. With accumulative_counts=4, four of them are one update
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    steps: u64,
    /// Steps of an epoch, micro-steps included
    #[arg(long, value_name = "K", allow_hyphen_values = true, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    iters_per_epoch: u64,
    /// Length of the run in epochs, at which entries without `end` end; by default that of the file (train.epochs, train_cfg)
    #[arg(long, value_name = "E", allow_hyphen_values = true, value_parser = clap::value_parser!(u64).range(1..))]
    epochs: Option<u64>,
    /// The metric that a ReduceOnPlateau monitors: a JSON array, one number an epoch (a step with by_epoch=False)
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// Print JSON: the values of each scheduled hyperparameter; of several schedules an array of such objects
    #[arg(long)]
    json: bool,
    /// Output: a picture of the values, .svg or .png. A summary is printed instead of each step
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(Output::picture))]
    plot: Option<Output>,
    /// Output: the values, .csv (a row each step) or .json. A summary is printed instead of each step
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(Output::numbers))]
    out: Option<Output>,
}

/// Computes the values and prints them.
pub fn run(args: Args) -> Result<()> {
    if args.config.is_empty() && !args.changes.set.is_empty() {
        return Err(Error::Usage("--set changes the values of a file: pass --config FILE".into()));
    }
    let inline = args.scheduler.iter().map(|text| Source::inline(&args, text));
    let files = args.config.iter().map(|path| Source::file(&args, path));
    let sources: Vec<Source> = inline.chain(files).collect::<Result<_>>()?;
    let metrics = args.metrics.as_deref().map(read_metrics).transpose()?;
    let mut all = Vec::new();
    let mut told = Vec::new();
    for source in sources {
        let (chain, length, warnings) = (source.chain.clone(), source.length, source.warnings.clone());
        all.push(source.values(&args, metrics.as_deref())?);
        told.push((chain, length, warnings));
    }
    let given = args.scheduler.iter().map(|text| format!("--scheduler {text}"));
    let given = given.chain(args.config.iter().map(|path| path.display().to_string()));
    for (name, (chain, length, warnings)) in given.zip(&told) {
        // Of several it says which.
        let which = if told.len() > 1 { format!("{}: ", shortened(&name)) } else { String::new() };
        let endless = without_end(chain, *length, "it never ends; --epochs E says how long");
        for warning in warnings.iter().chain(&endless) {
            warn(&format!("{which}{warning}"));
        }
    }
    if let Some(output) = &args.plot {
        let picture = picture(&args, &all);
        plot::write(output, &picture).map_err(|error| Error::Other(error.to_string()))?;
    }
    if let Some(output) = &args.out {
        let bytes = match output.format {
            Format::Json => format!("{:#}\n", as_json(&all)).into_bytes(),
            _ => csv(&output.path, &all)?,
        };
        write_atomically(&output.path, &bytes).map_err(Error::io(&output.path))?;
    }
    let is_written = args.plot.is_some() || args.out.is_some();
    match &all[..] {
        _ if args.json => print_json(&as_json(&all)),
        _ if is_written && is_quiet() => Ok(()),
        [values] if !is_written => print(&each_step(values)?),
        all => print(&summary(all)),
    }
}

/// Returns the values by name: an object, of several schedules an array of objects with a name.
fn as_json(all: &[Values]) -> Value {
    let object = |values: &Values| -> serde_json::Map<String, Value> {
        let each = values.names.iter().zip(&values.series);
        each.map(|(name, values)| (name.clone(), values.as_slice().into())).collect()
    };
    let named = |values: &Values| {
        let mut object = object(values);
        object.insert("schedule".into(), json!(values.label.name));
        object.insert("settings".into(), json!(values.label.settings));
        Value::Object(object)
    };
    match all {
        [values] => Value::Object(object(values)),
        _ => all.iter().map(named).collect(),
    }
}

/// Returns a row for each step of each schedule.
fn csv(path: &Path, all: &[Values]) -> Result<Vec<u8>> {
    let failed = |error: csv::Error| Error::Other(format!("{}: {error}", path.display()));
    let mut writer = csv::Writer::from_writer(Vec::new());
    let names = names(all, |values| values.names.iter().map(String::as_str).collect());
    let head = ["schedule", "settings", "step"].into_iter().chain(names.iter().copied());
    writer.write_record(head).map_err(failed)?;
    for values in all {
        let series = |name: &&str| values.names.iter().position(|own| own == name);
        let series: Vec<Option<usize>> = names.iter().map(series).collect();
        for step in 0..values.series.first().map_or(0, Vec::len) {
            let first = [values.label.name.clone(), values.label.settings.clone(), step.to_string()];
            let value = |place: &Option<usize>| {
                place.map_or_else(String::new, |place| format!("{:?}", values.series[place][step]))
            };
            writer.write_record(first.into_iter().chain(series.iter().map(value))).map_err(failed)?;
        }
    }
    writer.into_inner().map_err(|error| Error::Other(format!("{}: {error}", path.display())))
}

/// Returns the names that any of the schedules has, each once.
fn names<'v>(all: &'v [Values], of: impl Fn(&'v Values) -> Vec<&'v str>) -> Vec<&'v str> {
    let mut names = Vec::new();
    for name in all.iter().flat_map(of) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Returns a table with a row for each step.
fn each_step(values: &Values) -> Result<String> {
    /// Bytes of a cell: its text, with that of its row, twice.
    const CELL: usize = 128;
    let cells = values.series.iter().map(Vec::len).sum::<usize>();
    let cells = cells + values.series.first().map_or(0, Vec::len);
    fallible::check(cells.checked_mul(CELL), "a table of --steps")?;
    let columns: Vec<Vec<String>> = values.series.iter().map(|series| column(series, DIGITS)).collect();
    let mut rows = vec![[vec!["step".to_owned()], values.names.clone()].concat()];
    for step in 0..values.series.first().map_or(0, Vec::len) {
        rows.push([step.to_string()].into_iter().chain(columns.iter().map(|c| c[step].clone())).collect());
    }
    Ok(table(&rows))
}

/// Returns a table with a row for each hyperparameter that a schedule changes.
fn summary(all: &[Values]) -> String {
    let head = ["schedule", "value", "first", "lowest", "highest", "last", "settings"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for values in all {
        for (name, series) in values.shown() {
            let by = |by: fn(f64, f64) -> f64| series.iter().copied().fold(f64::NAN, by);
            let (first, last) = (series.first().copied(), series.last().copied());
            let numbers = [first.unwrap_or(f64::NAN), by(f64::min), by(f64::max), last.unwrap_or(f64::NAN)];
            let numbers = numbers.map(|number| short(number, DIGITS));
            let named = [values.label.name.clone(), name.to_owned()].into_iter();
            rows.push(named.chain(numbers).chain([values.label.settings.clone()]).collect());
        }
    }
    table(&rows)
}

/// Returns a picture with a panel for each hyperparameter that a schedule changes.
fn picture(args: &Args, all: &[Values]) -> String {
    let panels: Vec<(String, Vec<Series<'_>>)> =
        names(all, |values| values.shown().map(|(name, _)| name).collect())
            .into_iter()
            .map(|name| {
                let series = all.iter().enumerate().filter_map(|(index, values)| {
                    let (_, values) = values.shown().find(|(own, _)| *own == name)?;
                    Some(Series { index, values })
                });
                (name.to_owned(), series.collect())
            })
            .collect();
    let labels: Vec<&Label> = all.iter().map(|values| &values.label).collect();
    let length = match args.iters_per_epoch {
        1 => count(args.steps, "step"),
        epoch => format!("{}, {epoch} an epoch", count(args.steps, "step")),
    };
    let (title, lines) = match labels[..] {
        [label] => (label.name.clone(), [label.settings.clone(), length].to_vec()),
        _ => (format!("{} schedules", labels.len()), vec![length]),
    };
    let lines = lines.into_iter().filter(|line| !line.is_empty()).collect();
    plot::values(&Heading { title, lines, across: "step".into() }, &labels, &panels)
}

fn read_metrics(path: &Path) -> Result<Vec<f64>> {
    let bytes = files::read(path, files::MAX_TEXT).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::Malformed {
        path: path.to_owned(),
        problem: format!("expected a JSON array of numbers: {error}"),
    })
}
