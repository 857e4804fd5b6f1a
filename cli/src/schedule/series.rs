//! The values of one schedule.

use super::Args;
use crate::error::{Error, Result, Text};
use crate::label::Label;
use crate::registry::registry;
use fallline::core::fallible;
use fallline::optim::schedule::Numbers;
use fallline::registry::Plan;
use fallline::registry::config::load;
use fallline::registry::schedulers::{Chain, Length};
use std::path::Path;

/// A schedule, before it is followed.
pub struct Source {
    pub label: Label,
    pub chain: Chain,
    pub length: Length,
    pub warnings: Vec<String>,
    numbers: Numbers,
}

/// The values that a schedule gives, a list for each hyperparameter.
pub struct Values {
    pub label: Label,
    /// `lr` and `momentum` first, then whatever else is scheduled.
    pub names: Vec<String>,
    pub series: Vec<Vec<f64>>,
    /// The names that an entry changes.
    pub scheduled: Vec<String>,
}

impl Source {
    /// Reads an inline text.
    pub fn inline(args: &Args, text: &str) -> Result<Source> {
        let chain = Chain::from_text(text)
            .map_err(|error| Error::from(error).within(vec![Text::inline("--scheduler", text)]))?;
        let length = Length::new(args.iters_per_epoch);
        let numbers = Numbers::default();
        let label = Label::of_schedulers(text);
        Ok(Source { label, chain, length, warnings: Vec::new(), numbers }.started(args))
    }

    /// Reads a file.
    pub fn file(args: &Args, path: &Path) -> Result<Source> {
        let read = || {
            let mut entries = load(path).map_err(fallline::registry::Error::from)?;
            args.changes.apply(&mut entries)?;
            Ok(Plan::from_entries_with(&entries, registry())?)
        };
        let plan = read().map_err(|error: Error| error.within(args.changes.texts().collect()))?;
        let (chain, length) = (plan.chain().clone(), plan.length(args.iters_per_epoch));
        let curves: Vec<&str> =
            chain.schedulers(length).iter().map(|scheduler| scheduler.curve.name()).collect();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let label = Label { name, settings: curves.join(" + ") };
        let (warnings, numbers) = (plan.warnings().to_vec(), plan.numbers().clone());
        Ok(Source { label, chain, length, warnings, numbers }.started(args))
    }

    /// Takes the length and the first values that are given on the command line.
    fn started(mut self, args: &Args) -> Source {
        self.length = args.epochs.map_or(self.length, |epochs| self.length.of_epochs(epochs));
        for (name, given, default) in [("lr", args.lr, 0.05), ("momentum", args.momentum, 0.9)] {
            if let Some(value) = given.or(self.numbers.get(name).is_none().then_some(default)) {
                self.numbers.insert(name, value);
            }
        }
        self
    }

    /// Follows the schedule, with the metrics that it monitors.
    pub fn values(mut self, args: &Args, metrics: Option<&[f64]>) -> Result<Values> {
        let numbers = &mut self.numbers;
        let mut schedule = self.chain.schedule(self.length, numbers)?;
        let monitored =
            [false, true].map(|by_epoch| schedule.monitors(by_epoch).map(str::to_owned).collect::<Vec<_>>());
        if let (None, Some(monitor)) = (metrics, monitored.iter().flatten().next()) {
            return Err(Error::Usage(format!("--metrics is required: the schedule monitors {monitor:?}")));
        }
        let metrics = metrics.unwrap_or_default();
        // One number stands for every metric.
        let observed = |by_epoch: bool, at: u64| -> Result<Vec<(&str, f64)>> {
            let monitored = &monitored[usize::from(by_epoch)];
            let metric = metrics.get(at as usize).copied();
            if let (None, Some(_)) = (metric, monitored.first()) {
                let (count, steps) = (metrics.len(), args.steps);
                return Err(Error::Usage(format!(
                    "--metrics: {count} numbers are too few for {steps} steps"
                )));
            }
            Ok(metric
                .map(|metric| monitored.iter().map(|name| (name.as_str(), metric)).collect())
                .unwrap_or_default())
        };
        let mut names = vec!["lr".to_owned(), "momentum".to_owned()];
        let scheduled: Vec<String> = schedule.targets().map(str::to_owned).collect();
        for name in &scheduled {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        let steps = usize::try_from(args.steps).unwrap_or(usize::MAX);
        let series = names.iter().map(|_| fallible::with_room(steps, "the values of --steps"));
        let mut series = series.collect::<fallline::core::Result<Vec<Vec<f64>>>>()?;
        for step in 0..args.steps {
            for (series, name) in series.iter_mut().zip(&names) {
                series.push(numbers[name.as_str()]);
            }
            if step + 1 == args.steps {
                break;
            }
            schedule.after_iteration(numbers)?;
            schedule.observe(false, &observed(false, step)?, numbers)?;
            if (step + 1).is_multiple_of(args.iters_per_epoch) {
                schedule.after_epoch(numbers)?;
                schedule.observe(true, &observed(true, step / args.iters_per_epoch)?, numbers)?;
            }
        }
        Ok(Values { label: self.label, names, series, scheduled })
    }
}

impl Values {
    /// Returns what is worth looking at: what is scheduled, or else the learning rate.
    pub fn shown(&self) -> impl Iterator<Item = (&str, &[f64])> {
        let named = self.names.iter().map(String::as_str).zip(self.series.iter().map(Vec::as_slice));
        let is_shown = |name: &str| match self.scheduled.is_empty() {
            true => name == "lr",
            false => self.scheduled.iter().any(|scheduled| scheduled == name),
        };
        named.filter(move |(name, _)| is_shown(name))
    }
}
