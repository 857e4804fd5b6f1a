//! A training run: what it is made of, one step after another, and what it keeps.

use super::options::Options;
use crate::common::unmatched;
use crate::digits::data::{Digits, epoch_order};
use crate::digits::network::Network;
use crate::error::{Error, Result};
use crate::plot::loss_and_accuracy;
use crate::run_folder::{CHECKPOINT, Metrics, Record};
use fallline::optim::checkpoint::{Entry, remove_temporaries};
use fallline::optim::schedule::Schedule;
use fallline::optim::{Binding, param};
use fallline::registry::Length;
use fallline::{Backend, Checkpoint, Driver, Optimizer, Recipe, Shape};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const METRICS: &str = "metrics.jsonl";
const PLOT: &str = "loss.svg";
/// What a ReduceOnPlateau may monitor: the loss over the test images, and the share of them that is right.
const METRIC_NAMES: [&str; 2] = ["loss", "accuracy"];

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Progress {
    /// Steps taken.
    step: u64,
    /// Epochs finished.
    epoch: u64,
    /// Batches of this epoch that are done.
    batch: usize,
}

/// What a checkpoint keeps of a run, beside parameters, optimizer and schedule.
#[derive(Debug, Serialize, Deserialize)]
struct Trainer {
    /// The configuration, everything resolved.
    config: String,
    epochs: u64,
    progress: Progress,
}

/// A checkpoint taken apart.
pub struct Kept {
    /// The configuration, everything resolved.
    pub config: String,
    /// The epochs that the run was to have.
    pub epochs: u64,
    progress: Progress,
    checkpoint: Checkpoint,
}

impl Kept {
    /// Takes a checkpoint apart.
    pub fn read(checkpoint: &Checkpoint, folder: &Path) -> Result<Kept> {
        let malformed = |problem: String| Error::Malformed { path: folder.join(CHECKPOINT), problem };
        let trainer = checkpoint.manifest.trainer.as_ref();
        let trainer =
            trainer.ok_or_else(|| malformed("it is not a checkpoint of `fallline train`".into()))?;
        let trainer =
            Trainer::deserialize(trainer).map_err(|e| malformed(format!("its run cannot be read: {e}")))?;
        let Trainer { config, epochs, progress } = trainer;
        Ok(Kept { config, epochs, progress, checkpoint: checkpoint.clone() })
    }
}

/// A run at work.
pub struct Session {
    folder: PathBuf,
    recipe: Recipe,
    options: Options,
    backend: Arc<dyn Backend>,
    digits: Digits,
    network: Network,
    optimizer: Driver,
    schedule: Schedule,
    metrics: Metrics,
    records: Vec<Record>,
    progress: Progress,
}

/// What a run is made of before it has a folder.
struct Parts {
    digits: Digits,
    network: Network,
    optimizer: Driver,
    schedule: Schedule,
}

impl Parts {
    fn new(recipe: &Recipe, options: &Options, backend: &Arc<dyn Backend>) -> Result<Parts> {
        let digits = Digits::bundled().map_err(|error| Error::Other(error.to_string()))?;
        let network = Network::new(&options.hidden, options.seed);
        let names = network.parameters.iter().map(|parameter| parameter.name.as_str());
        unmatched(recipe, names, recipe.allows_unmatched())?;
        let mut optimizer = recipe.optimizer(Arc::clone(backend));
        if let Some(average) = options.average {
            optimizer = optimizer.averaged(average);
        }
        let epoch = digits.train.labels.len().div_ceil(options.batch_size) as u64;
        optimizer.set_iterations(Some(options.epochs * epoch));
        let length = Length { epoch, epochs: (options.epochs > 0).then_some(options.epochs) };
        let schedule = recipe.schedule_over(length, &mut optimizer)?;
        if let Some(monitor) = schedule.monitors(true).find(|name| !METRIC_NAMES.contains(name)) {
            let known = METRIC_NAMES.join(" and ");
            return Err(Error::Usage(format!(
                "param_scheduler: there is no {monitor:?} to monitor: the test set gives {known}"
            )));
        }
        if schedule.monitors(false).next().is_some() {
            let problem = "the test set is looked at once an epoch: monitor with by_epoch=True";
            return Err(Error::Usage(format!("param_scheduler: {problem}")));
        }
        Ok(Parts { digits, network, optimizer, schedule })
    }
}

impl Session {
    /// Begins a run in an empty folder, which is made once everything else is known to be right.
    pub fn begin(
        folder: impl FnOnce() -> Result<PathBuf>,
        recipe: Recipe,
        options: Options,
        backend: Arc<dyn Backend>,
    ) -> Result<Session> {
        let parts = Parts::new(&recipe, &options, &backend)?;
        let folder = folder()?;
        let metrics = Metrics::create(&folder.join(METRICS)).map_err(Error::io(&folder))?;
        Ok(Session::assemble(folder, recipe, options, backend, parts, metrics))
    }

    /// Goes on with a run.
    pub fn resume(
        folder: PathBuf,
        recipe: Recipe,
        options: Options,
        backend: Arc<dyn Backend>,
        kept: Kept,
    ) -> Result<Session> {
        let parts = Parts::new(&recipe, &options, &backend)?;
        let (metrics, records) =
            Metrics::resume(&folder.join(METRICS), kept.progress.step).map_err(Error::io(&folder))?;
        // What a run that was killed while it wrote has left behind.
        remove_temporaries(&folder).map_err(Error::io(&folder))?;
        let mut session = Session::assemble(folder, recipe, options, backend, parts, metrics);
        session.records = records;
        session.progress = kept.progress;
        let mismatch = |problem: String| Error::Malformed { path: session.folder.join(CHECKPOINT), problem };
        for parameter in &mut session.network.parameters {
            let name = &parameter.name;
            let entry =
                kept.checkpoint.param(name).ok_or_else(|| mismatch(format!("param/{name} is missing")))?;
            if entry.shape != Shape::from(parameter.value.shape()) {
                let expected = Shape::from(parameter.value.shape());
                return Err(mismatch(format!("param/{name} has shape {}, expected {expected}", entry.shape)));
            }
            parameter.value.iter_mut().zip(entry.values::<f32>()).for_each(|(to, from)| *to = from);
        }
        session.optimizer.load(&kept.checkpoint)?;
        if let Some(saved) = &kept.checkpoint.manifest.schedule {
            session.schedule.load(saved)?;
        }
        Ok(session)
    }

    fn assemble(
        folder: PathBuf,
        recipe: Recipe,
        options: Options,
        backend: Arc<dyn Backend>,
        parts: Parts,
        metrics: Metrics,
    ) -> Session {
        let Parts { digits, network, optimizer, schedule } = parts;
        let (records, progress) = (Vec::new(), Progress::default());
        Session {
            folder,
            recipe,
            options,
            backend,
            digits,
            network,
            optimizer,
            schedule,
            metrics,
            records,
            progress,
        }
    }

    /// Whether a folder holds a run.
    pub fn is_in(folder: &Path) -> bool {
        folder.join(METRICS).exists() || folder.join(CHECKPOINT).exists()
    }

    /// The run's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Trains to the end, and returns the test accuracy, 0 to 1.
    pub fn train(&mut self, interrupted: &AtomicBool) -> Result<f64> {
        let batches = self.digits.train.labels.len().div_ceil(self.options.batch_size);
        let bar = ProgressBar::new(self.options.epochs * batches as u64);
        let style = "{elapsed_precise} {wide_bar} {pos}/{len} steps, {msg}, {eta} left";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(format!("{} on {}", self.optimizer.name(), self.backend.describe()));
        bar.set_position(self.progress.step);
        while self.progress.epoch < self.options.epochs {
            let order = epoch_order(self.options.seed, self.progress.epoch);
            for batch in order.chunks(self.options.batch_size).skip(self.progress.batch) {
                if interrupted.load(Ordering::Relaxed) {
                    bar.abandon();
                    self.keep()?;
                    self.plot()?;
                    let (folder, step) = (self.folder.display(), self.progress.step);
                    let how = format!("step {step} is kept; go on with `fallline train --resume {folder}`");
                    return Err(Error::Interrupted(how));
                }
                self.step(batch)?;
                bar.inc(1);
            }
            let (accuracy, loss) = self.finish_epoch()?;
            let epoch = self.progress.epoch;
            bar.set_message(format!("epoch {epoch}, test accuracy {:.1}%, loss {loss:.4}", 100.0 * accuracy));
        }
        bar.finish_and_clear();
        self.plot()?;
        Ok(self.tested()?.accuracy(self.digits.test.images.view(), &self.digits.test.labels))
    }

    /// The network that is tested: with the average of the weights, where one is kept.
    fn tested(&self) -> Result<Cow<'_, Network>> {
        let mut network = Cow::Borrowed(&self.network);
        for place in 0..self.network.parameters.len() {
            if let Some(average) = self.optimizer.average(&self.network.parameters[place].name)? {
                let values = &mut network.to_mut().parameters[place].value;
                values.iter_mut().zip(average).for_each(|(to, from)| *to = from as f32);
            }
        }
        Ok(network)
    }

    fn step(&mut self, batch: &[u32]) -> Result<()> {
        let examples = self.digits.train.batch(batch);
        self.network.loss_scale = self.optimizer.loss_scale() as f32;
        let loss = self.network.loss_and_gradients(examples.images.view(), &examples.labels);
        let lr = self.optimizer.get(0, "lr").and_then(|lr| lr.as_f64()).unwrap_or(f64::NAN);
        let mut bindings: Vec<Binding<'_>> =
            self.network.parameters.iter_mut().map(|p| param(&p.name, &mut p.value, &p.grad)).collect();
        self.optimizer.step(&mut bindings)?;
        drop(bindings);
        self.schedule.after_iteration(&mut self.optimizer)?;
        self.progress.step += 1;
        self.progress.batch += 1;
        self.record(Record::Step { step: self.progress.step, epoch: self.progress.epoch, loss, lr })
    }

    /// Evaluates, writes the epoch's record, then its checkpoint: a checkpoint is never ahead of the metrics.
    fn finish_epoch(&mut self) -> Result<(f64, f32)> {
        let (network, test) = (self.tested()?, &self.digits.test);
        let test_accuracy = network.accuracy(test.images.view(), &test.labels);
        let test_loss = network.loss(test.images.view(), &test.labels);
        self.schedule.after_epoch(&mut self.optimizer)?;
        let metrics = [(METRIC_NAMES[0], f64::from(test_loss)), (METRIC_NAMES[1], test_accuracy)];
        self.schedule.observe(true, &metrics, &mut self.optimizer)?;
        let (step, epoch) = (self.progress.step, self.progress.epoch);
        self.record(Record::Epoch { step, epoch, test_accuracy, test_loss })?;
        self.progress.epoch += 1;
        self.progress.batch = 0;
        self.keep()?;
        Ok((test_accuracy, test_loss))
    }

    fn record(&mut self, record: Record) -> Result<()> {
        self.metrics.append(&record).map_err(Error::io(&self.folder))?;
        self.records.push(record);
        Ok(())
    }

    /// Writes the checkpoint.
    fn keep(&mut self) -> Result<()> {
        self.metrics.flush().map_err(Error::io(&self.folder))?;
        let mut checkpoint = self.optimizer.save()?;
        for parameter in &self.network.parameters {
            let values: Vec<f32> = parameter.value.iter().copied().collect();
            checkpoint
                .insert_param(&parameter.name, Entry::new(parameter.value.shape().into(), (&values).into()));
        }
        checkpoint.manifest.schedule = Some(self.schedule.save());
        let (config, epochs) = (self.recipe.to_source(), self.options.epochs);
        let trainer = serde_json::to_value(Trainer { config, epochs, progress: self.progress });
        checkpoint.manifest.trainer = Some(trainer.map_err(|error| Error::Other(error.to_string()))?);
        Ok(checkpoint.write(self.folder.join(CHECKPOINT))?)
    }

    fn plot(&self) -> Result<()> {
        let path = self.folder.join(PLOT);
        loss_and_accuracy(&path, &self.records).map_err(|error| Error::Other(error.to_string()))
    }
}
