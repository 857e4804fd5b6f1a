//! `fallline schedule`: the values of a schedule.

use crate::common::{print, print_json, table, warn, warn_without_end};
use crate::error::{Error, Result};
use crate::plot;
use fallline::optim::schedule::Numbers;
use fallline::registry::Plan;
use fallline::registry::schedulers::{Chain, Length};
use std::path::{Path, PathBuf};

/// Arguments of `schedule`.
#[derive(Debug, clap::Args)]
#[command(
    group(clap::ArgGroup::new("chain").required(true).args(["scheduler", "config"])),
    after_help = "Example: fallline schedule --scheduler 'dict(type=\"PolyLR\", power=2, end=100, by_epoch=False)' --steps 100 --plot lr.svg"
)]
pub struct Args {
    /// One scheduler or a list of them, inline: `dict(type="CosineAnnealingLR", T_max=100, by_epoch=False)`
    #[arg(long, value_name = "TEXT")]
    scheduler: Option<String>,
    /// A configuration file, or one that holds a scheduler or a list of them: .py, .json, .toml or .yaml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Initial learning rate; by default that of the file's optimizer, or 0.05
    #[arg(long)]
    lr: Option<f64>,
    /// Initial momentum; by default that (or the first beta) of the file's optimizer, or 0.9
    #[arg(long)]
    momentum: Option<f64>,
    /// Number of steps: iterations of the loop, as MMEngine counts. With accumulative_counts=4, four of them are one update
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    steps: u64,
    /// Steps of an epoch, micro-steps included
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    iters_per_epoch: u64,
    /// Length of the run in epochs, at which entries without `end` end; by default that of the file (train.epochs, train_cfg)
    #[arg(long, value_name = "E", value_parser = clap::value_parser!(u64).range(1..))]
    epochs: Option<u64>,
    /// The metric that a ReduceOnPlateau monitors: a JSON array, one number an epoch (a step with by_epoch=False)
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// Print JSON: the values of each scheduled hyperparameter
    #[arg(long)]
    json: bool,
    /// Output: an SVG plot of the values
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// Computes the values and prints them.
pub fn run(args: Args) -> Result<()> {
    let mut warnings = Vec::new();
    let (chain, length, mut numbers) = match (&args.scheduler, &args.config) {
        (Some(text), _) => (Chain::from_text(text)?, Length::new(args.iters_per_epoch), Numbers::default()),
        (None, Some(path)) => {
            let plan = Plan::from_file(path)?;
            warnings.extend_from_slice(plan.warnings());
            (plan.chain().clone(), plan.length(args.iters_per_epoch), plan.numbers().clone())
        }
        (None, None) => return Err(Error::Usage("pass --scheduler TEXT or --config FILE".into())),
    };
    let length = args.epochs.map_or(length, |epochs| length.of_epochs(epochs));
    for (name, given, default) in [("lr", args.lr, 0.05), ("momentum", args.momentum, 0.9)] {
        if let Some(value) = given.or(numbers.get(name).is_none().then_some(default)) {
            numbers.insert(name, value);
        }
    }
    let mut schedule = chain.schedule(length, &mut numbers)?;
    let monitored =
        [false, true].map(|by_epoch| schedule.monitors(by_epoch).map(str::to_owned).collect::<Vec<String>>());
    let metrics = match (&args.metrics, monitored.iter().flatten().next()) {
        (Some(path), _) => read_metrics(path)?,
        (None, None) => Vec::new(),
        (None, Some(monitor)) => {
            return Err(Error::Usage(format!("--metrics is required: the schedule monitors {monitor:?}")));
        }
    };
    // One number stands for every metric.
    let observed = |by_epoch: bool, at: u64| -> Result<Vec<(&str, f64)>> {
        let monitored = &monitored[usize::from(by_epoch)];
        let metric = metrics.get(at as usize).copied();
        if let (None, Some(_)) = (metric, monitored.first()) {
            let (count, steps) = (metrics.len(), args.steps);
            return Err(Error::Usage(format!("--metrics: {count} numbers are too few for {steps} steps")));
        }
        Ok(metric
            .map(|metric| monitored.iter().map(|name| (name.as_str(), metric)).collect())
            .unwrap_or_default())
    };
    let mut names = vec!["lr".to_owned(), "momentum".to_owned()];
    for name in schedule.targets() {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    let mut series = vec![Vec::new(); names.len()];
    for step in 0..args.steps {
        for (series, name) in series.iter_mut().zip(&names) {
            series.push(numbers[name.as_str()]);
        }
        if step + 1 == args.steps {
            break;
        }
        schedule.after_iteration(&mut numbers)?;
        schedule.observe(false, &observed(false, step)?, &mut numbers)?;
        if (step + 1).is_multiple_of(args.iters_per_epoch) {
            schedule.after_epoch(&mut numbers)?;
            schedule.observe(true, &observed(true, step / args.iters_per_epoch)?, &mut numbers)?;
        }
    }
    warnings.iter().for_each(|warning| warn(warning));
    warn_without_end(&chain, length, "it never ends; --epochs E says how long");
    if let Some(path) = &args.plot {
        plot::values(path, &names, &series).map_err(|error| Error::Other(error.to_string()))?;
    }
    if args.json {
        let object = names.into_iter().zip(series).map(|(name, values)| (name, values.into()));
        return print_json(&serde_json::Value::Object(object.collect()));
    }
    let mut rows = vec![[vec!["step".to_owned()], names].concat()];
    for step in 0..args.steps as usize {
        let values = series.iter().map(|values| format!("{:?}", values[step]));
        rows.push([step.to_string()].into_iter().chain(values).collect());
    }
    print(&table(&rows))
}

fn read_metrics(path: &Path) -> Result<Vec<f64>> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::Malformed {
        path: path.to_owned(),
        problem: format!("expected a JSON array of numbers: {error}"),
    })
}
