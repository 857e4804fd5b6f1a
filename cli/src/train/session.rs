//! A training run: what it is made of, one step after another, and what it keeps.

mod ends;

use super::loadable::Run;
use super::options::Options;
use super::plan;
use super::progress::{Clock, Progress as Shown, diverged_at, stopped, throughput};
use super::ranks::sync_metrics;
use super::saved::{Progress, SavedRun, Trainer};
use crate::common::{is_quiet, unmatched, warn};
use crate::digits::data::{Digits, epoch_order};
use crate::digits::network::{self, Network, Parameter};
use crate::error::{Error, Result};
use crate::run_folder::{CHECKPOINT, FolderLock, Kind, METRICS, Metrics, Record};
use fallline::core::fallible;
use fallline::optim::checkpoint::{Entry, remove_temporaries};
use fallline::optim::schedule::Schedule;
use fallline::optim::{Binding, Mode, frozen, param};
use fallline::ranks::{Communicator, GradientReducer, Reduction, check_equal};
use fallline::{Backend, Driver, Optimizer, Recipe};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A run's folder.
pub struct RunFolder {
    pub path: PathBuf,
    /// Whether it was made for this run.
    pub is_new: bool,
    /// Of rank 0, which alone writes there.
    pub lock: Option<FolderLock>,
}

/// A run at work.
pub struct Session {
    folder: PathBuf,
    /// Whether this process has made the folder; none where the run was there before.
    made: Option<bool>,
    recipe: Recipe,
    options: Options,
    backend: Arc<dyn Backend>,
    digits: Digits,
    network: Network,
    optimizer: Driver,
    schedule: Schedule,
    ranks: Arc<dyn Communicator>,
    /// Where there are several ranks.
    reducer: Option<GradientReducer>,
    /// Written by rank 0 alone.
    metrics: Option<Metrics>,
    /// Of rank 0. It is released after the metrics are written.
    lock: Option<FolderLock>,
    records: Vec<Record>,
    progress: Progress,
    clock: Clock,
}

/// What a run is made of before it has a folder.
struct Parts {
    digits: Digits,
    network: Network,
    optimizer: Driver,
    reducer: Option<GradientReducer>,
    schedule: Schedule,
}

impl Parts {
    fn new(
        recipe: &Recipe,
        options: &Options,
        backend: &Arc<dyn Backend>,
        ranks: &Arc<dyn Communicator>,
    ) -> Result<Parts> {
        let digits = Digits::bundled().map_err(|error| Error::Other(error.to_string()))?;
        let states = recipe.algorithm().states().len() + usize::from(options.average.is_some());
        let bytes = network::bytes(&options.hidden, states, options.batch_size, digits.test.labels.len());
        fallible::check(bytes, format_args!("training with hidden={:?}", options.hidden))?;
        let network = Network::new(&options.hidden, options.seed)?;
        let names = network.parameters.iter().map(|parameter| parameter.name.as_str());
        unmatched(recipe, names, recipe.allows_unmatched())?;
        let mut optimizer = recipe.optimizer(Arc::clone(backend)).with_ranks(Arc::clone(ranks));
        let reducer =
            (ranks.world_size() > 1).then(|| GradientReducer::new(Arc::clone(ranks))).transpose()?;
        if let Some(average) = options.average {
            optimizer = optimizer.averaged(average);
        }
        let length = plan::length(options);
        optimizer.set_iterations(Some(options.epochs * length.epoch));
        let schedule = recipe.schedule_over(length, &mut optimizer)?;
        if let Some(monitor) = schedule.monitors(true).find(|name| !plan::METRIC_NAMES.contains(name)) {
            let known = plan::METRIC_NAMES.join(" and ");
            return Err(Error::Usage(format!(
                "param_scheduler: there is no metric {monitor:?}: the test set gives {known}"
            )));
        }
        if schedule.monitors(false).next().is_some() {
            let problem = "the test set is evaluated once an epoch: monitor with by_epoch=True";
            return Err(Error::Usage(format!("param_scheduler: {problem}")));
        }
        Ok(Parts { digits, network, optimizer, reducer, schedule })
    }
}

impl Session {
    /// Begins a run in a folder, which is made on rank 0 once everything else is known to be right.
    pub fn begin(
        folder: impl FnOnce() -> Result<RunFolder>,
        recipe: Recipe,
        options: Options,
        backend: Arc<dyn Backend>,
        ranks: Arc<dyn Communicator>,
    ) -> Result<Session> {
        let parts = Parts::new(&recipe, &options, &backend, &ranks)?;
        let mut session = Session::assemble(PathBuf::new(), recipe, options, backend, ranks, parts);
        session.compare()?;
        if session.ranks.rank() == 0 {
            let folder = folder()?;
            (session.folder, session.made, session.lock) = (folder.path, Some(folder.is_new), folder.lock);
            let metrics = Metrics::create(&session.folder.join(METRICS));
            session.metrics = Some(metrics.map_err(Error::io(&session.folder))?);
        }
        Ok(session)
    }

    /// Resumes a run.
    pub fn resume(
        RunFolder { path: folder, lock, .. }: RunFolder,
        recipe: Recipe,
        options: Options,
        backend: Arc<dyn Backend>,
        ranks: Arc<dyn Communicator>,
        saved: SavedRun,
    ) -> Result<Session> {
        let mut parts = Parts::new(&recipe, &options, &backend, &ranks)?;
        let caught_up = plan::caught_up(
            (&recipe, &options),
            (&saved, &folder.join(METRICS)),
            (&mut parts.schedule, &mut parts.optimizer),
            ranks.rank() == 0,
        )?;
        let mut session = Session::assemble(folder, recipe, options, backend, ranks, parts);
        session.progress = saved.progress;
        session.lock = lock;
        let path = session.folder.join(CHECKPOINT);
        let mismatch = |problem: String| Error::Malformed { path: path.clone(), problem };
        let Session { network, optimizer, schedule, options, .. } = &mut session;
        let run = Run { network, optimizer, schedule };
        run.load(&saved.checkpoint, options, saved.progress, caught_up.is_none()).map_err(
            |error| match error {
                fallline::optim::Error::Mismatch(problem) => mismatch(problem),
                other => other.into(),
            },
        )?;
        if let Some(values) = caught_up {
            plan::set(&values, &mut session.optimizer)?;
        }
        session.compare()?;
        session.restore()?;
        if session.ranks.rank() == 0 {
            let folder = &session.folder;
            let (metrics, records) =
                Metrics::resume(&folder.join(METRICS), saved.progress.step).map_err(Error::io(folder))?;
            // What a run that was killed while it wrote has left behind.
            remove_temporaries(folder).map_err(Error::io(folder))?;
            session.clock = Clock::from(records.iter().rev().find_map(Record::time).unwrap_or(0.0));
            (session.metrics, session.records) = (Some(metrics), records);
        }
        Ok(session)
    }

    fn assemble(
        folder: PathBuf,
        recipe: Recipe,
        options: Options,
        backend: Arc<dyn Backend>,
        ranks: Arc<dyn Communicator>,
        parts: Parts,
    ) -> Session {
        let Parts { digits, network, optimizer, reducer, schedule } = parts;
        let (metrics, lock, records, progress) = (None, None, Vec::new(), Progress::default());
        Session {
            folder,
            made: None,
            recipe,
            options,
            backend,
            digits,
            network,
            optimizer,
            schedule,
            ranks,
            reducer,
            metrics,
            lock,
            records,
            progress,
            clock: Clock::from(0.0),
        }
    }

    /// Returns the run's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the epochs that are done, and those that the run has.
    pub fn lengths(&self) -> (u64, u64) {
        (self.progress.epoch, self.options.epochs)
    }

    /// Returns whether nothing is left to train.
    pub fn is_finished(&self) -> bool {
        self.progress.epoch >= self.options.epochs
    }

    /// Trains to the end, and returns the test accuracy, 0 to 1.
    pub fn train(&mut self, interrupted: &AtomicBool) -> Result<f64> {
        let batches = self.digits.train.labels.len().div_ceil(self.options.batch_size);
        let steps = self.options.epochs * batches as u64;
        let mut where_to = self.backend.describe();
        if self.ranks.world_size() > 1 {
            where_to = format!("{}, {where_to}", self.ranks.describe());
        }
        let message = format!("{} on {where_to}", self.optimizer.name());
        let mut shown = Shown::new(steps, self.progress.step, message, self.ranks.rank() == 0 && !is_quiet());
        let mut told = false;
        while !self.is_finished() {
            let order = epoch_order(self.options.seed, self.progress.epoch);
            for batch in order.chunks(self.options.batch_size).skip(self.progress.batch) {
                if !self.step(batch, interrupted)? {
                    shown.finish();
                    self.save_checkpoint()?;
                    self.plot()?;
                    return Err(stopped(self.progress.step, &self.folder));
                }
                shown.step();
                if !told && let Some(diverged) = self.diverged() {
                    told = true;
                    shown.aside(|| warn(&diverged_at(diverged)));
                }
            }
            let (accuracy, loss) = self.finish_epoch()?;
            shown.tested(self.progress.epoch, accuracy, loss);
        }
        shown.finish();
        if self.progress.step == 0 {
            self.save_checkpoint()?;
        }
        self.plot()?;
        let evaluated = self.evaluated()?;
        Ok(self.tested(evaluated)?.accuracy(self.digits.test.images.view(), &self.digits.test.labels))
    }

    /// Restores the diverged replicas of ranks, if any.
    fn restore(&mut self) -> Result<()> {
        let parameters = self.network.parameters.iter_mut();
        let mut bindings: Vec<Binding<'_>> = parameters.map(|p| frozen(&p.name, &mut p.value)).collect();
        Ok(self.optimizer.restore_params(&mut bindings)?)
    }

    /// Returns the network of all ranks: the mean of diverged replicas.
    fn common(&self) -> Result<Cow<'_, Network>> {
        let mut network = Cow::Borrowed(&self.network);
        for place in 0..self.network.parameters.len() {
            if self.optimizer.has_diverged(&self.network.parameters[place].name) {
                let value = &mut network.to_mut().parameters[place].value;
                let mut mean: Vec<f32> = value.iter().copied().collect();
                let reduced = self.ranks.all_reduce(mean.as_mut_slice().into(), Reduction::Mean);
                reduced.map_err(fallline::core::Error::from)?;
                value.iter_mut().zip(mean).for_each(|(to, from)| *to = from);
            }
        }
        Ok(network)
    }

    /// Returns a copy of the network with the evaluation weights, if they differ from the training weights, which stay
    /// bitwise as they are.
    fn evaluated(&mut self) -> Result<Option<Network>> {
        if !self.optimizer.has_modes() {
            return Ok(None);
        }
        let mut copy = self.common()?.into_owned();
        let copies = copy.parameters.iter_mut().map(|p| frozen(&p.name, &mut p.value));
        self.optimizer.weights_of(Mode::Evaluation, &mut copies.collect::<Vec<_>>())?;
        Ok(Some(copy))
    }

    /// Returns the network that is tested: with the averaged weights if any, else with the evaluation weights.
    fn tested(&self, evaluated: Option<Network>) -> Result<Cow<'_, Network>> {
        let mut network = match evaluated {
            Some(network) => Cow::Owned(network),
            None => self.common()?,
        };
        for place in 0..self.network.parameters.len() {
            if let Some(average) = self.optimizer.average(&self.network.parameters[place].name)? {
                let values = &mut network.to_mut().parameters[place].value;
                values.iter_mut().zip(average).for_each(|(to, from)| *to = from as f32);
            }
        }
        Ok(network)
    }

    /// Checks that all ranks are about to train the same.
    fn compare(&self) -> Result<()> {
        let mut lines: Vec<String> = self.recipe.to_source().split(", ").map(str::to_owned).collect();
        lines.push(format!("{:?}", self.options));
        lines.push(format!("{:?}", self.progress));
        check_equal(&*self.ranks, "the run", &lines).map_err(fallline::core::Error::from)?;
        self.compare_parameters(&self.network)
    }

    /// Checks that all ranks have the same parameters.
    fn compare_parameters(&self, network: &Network) -> Result<()> {
        if self.ranks.world_size() == 1 {
            return Ok(());
        }
        let line = |p: &Parameter| {
            let values: Vec<f32> = p.value.iter().copied().collect();
            // NaNs of several ranks may differ in what they carry.
            let hash = Entry::new(p.value.shape().into(), (&values).into()).hash();
            format!("{} of shape {:?} with hash {hash:016x}", p.name, p.value.shape())
        };
        let lines: Vec<String> = network.parameters.iter().map(line).collect();
        Ok(check_equal(&*self.ranks, "the parameters", &lines).map_err(fallline::core::Error::from)?)
    }

    /// Takes a step, of which every rank computes its part; none and false when a rank is to stop.
    fn step(&mut self, batch: &[u32], interrupted: &AtomicBool) -> Result<bool> {
        let began = Instant::now();
        let (rank, world) = (self.ranks.rank(), self.ranks.world_size());
        let own = &batch[rank * batch.len() / world..(rank + 1) * batch.len() / world];
        let examples = self.digits.train.batch(own);
        let share = own.len() as f64 / batch.len() as f64;
        let Session { network, reducer, optimizer, .. } = self;
        network.loss_scale = optimizer.loss_scale() as f32;
        let mut reducer = reducer.as_mut().filter(|_| optimizer.averages());
        // Ranks that step on gradients of their own weigh the same, so that their parts must be made up for.
        let weight = share * world as f64;
        let mut given = Ok(());
        let loss = network.loss_and_each_gradient(examples.images.view(), &examples.labels, |p| {
            if let (Some(reducer), Ok(())) = (reducer.as_deref_mut(), &given) {
                given = reducer.push(&p.name, &p.grad, share);
            }
        });
        given?;
        let averaged = reducer.map(GradientReducer::wait).transpose()?;
        let stops = interrupted.load(Ordering::Relaxed);
        let (loss, stops) =
            sync_metrics(&*self.ranks, if own.is_empty() { 0.0 } else { loss }, share, stops)?;
        if stops {
            return Ok(false);
        }
        if averaged.is_none() && weight != 1.0 {
            network.parameters.iter_mut().for_each(|p| p.grad *= weight as f32);
        }
        let lr = optimizer.get(0, "lr").and_then(|lr| lr.as_f64()).unwrap_or(f64::NAN);
        let parameters = network.parameters.iter_mut();
        let mut bindings: Vec<Binding<'_>> = match averaged {
            Some(averaged) => {
                parameters.map(|p| param(&p.name, &mut p.value, averaged.get(&p.name))).collect()
            }
            None => parameters.map(|p| param(&p.name, &mut p.value, &p.grad)).collect(),
        };
        let report = optimizer.step(&mut bindings)?;
        drop(bindings);
        self.schedule.after_iteration(&mut self.optimizer)?;
        self.progress.step += 1;
        self.progress.batch += 1;
        let record = Record::Step {
            step: self.progress.step,
            epoch: self.progress.epoch,
            loss,
            lr,
            skipped: report.skipped(),
            kind: Kind::Train,
            time: Some(self.clock.seconds()),
            examples_per_second: throughput(batch.len(), began),
            grad_norm: report.grad_norm().or_else(|| self.grad_norm(report.accumulated.is_none())),
        };
        self.record(record)?;
        Ok(true)
    }

    /// Returns the norm of all gradients where this rank has them and they are those of a `whole` batch.
    fn grad_norm(&self, whole: bool) -> Option<f64> {
        let square = |p: &Parameter| p.grad.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        let norm = || self.network.parameters.iter().map(square).sum::<f64>().sqrt();
        (whole && self.ranks.world_size() == 1).then(|| norm() / f64::from(self.network.loss_scale))
    }

    /// Evaluates, writes the epoch's record, then its checkpoint: a checkpoint is never ahead of the metrics.
    fn finish_epoch(&mut self) -> Result<(f64, f32)> {
        let evaluated = self.evaluated()?;
        let (network, test) = (self.tested(evaluated)?, &self.digits.test);
        let test_accuracy = network.accuracy(test.images.view(), &test.labels);
        let test_loss = network.loss(test.images.view(), &test.labels);
        self.schedule.after_epoch(&mut self.optimizer)?;
        self.schedule.observe(true, &plan::metrics(test_loss, test_accuracy), &mut self.optimizer)?;
        let (step, epoch) = (self.progress.step, self.progress.epoch);
        let (kind, time) = (Kind::Test, Some(self.clock.seconds()));
        self.record(Record::Epoch { step, epoch, test_accuracy, test_loss, kind, time })?;
        self.progress.epoch += 1;
        self.progress.batch = 0;
        self.save_checkpoint()?;
        Ok((test_accuracy, test_loss))
    }

    fn record(&mut self, record: Record) -> Result<()> {
        if let Some(metrics) = &mut self.metrics {
            metrics.append(&record).map_err(Error::io(&self.folder))?;
            self.records.push(record);
        }
        Ok(())
    }

    /// Writes the checkpoint: rank 0 does, but all have a part in it.
    fn save_checkpoint(&mut self) -> Result<()> {
        let mut checkpoint = self.optimizer.save()?;
        let network = self.common()?.into_owned();
        self.compare_parameters(&network)?;
        let Some(metrics) = &mut self.metrics else { return Ok(()) };
        metrics.flush().map_err(Error::io(&self.folder))?;
        for parameter in &network.parameters {
            let values: Vec<f32> = parameter.value.iter().copied().collect();
            checkpoint
                .insert_param(&parameter.name, Entry::new(parameter.value.shape().into(), (&values).into()));
        }
        checkpoint.manifest.schedule = Some(self.schedule.save());
        let (config, epochs) = (self.recipe.to_source(), self.options.epochs);
        let (written_for, progress) = (self.options.written_for, self.progress);
        let trainer = serde_json::to_value(Trainer { config, epochs, written_for, progress });
        checkpoint.manifest.trainer = Some(trainer.map_err(|error| Error::Other(error.to_string()))?);
        Ok(checkpoint.write(self.folder.join(CHECKPOINT))?)
    }
}
