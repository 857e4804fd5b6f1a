//! `fallline train`: the main job on real data.

mod changed;
mod loadable;
mod options;
mod plan;
mod progress;
mod ranks;
mod saved;
mod session;

use crate::common::{self, print};
use crate::error::{Error, Result};
use crate::escape::shown;
use crate::run_folder::{CHECKPOINT, FolderLock, METRICS, PLOT, abandoned, newest, next_free};
use crate::source::{Changes, trained};
use clap::builder::TypedValueParser;
use fallline::optim::checkpoint::remove_temporaries;
use fallline::ranks::Communicator;
use fallline::registry::config::Node;
use fallline::{Checkpoint, Recipe};
use options::{MOST, Options};
use progress::diverged_at;
use ranks::Ranks;
use saved::SavedRun;
use session::{RunFolder, Session};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use loadable::damage;

/// The configuration that is used when none is given.
const DEFAULT: &str = include_str!("../data/digits.py");
/// Where runs go.
const RUNS: &str = "runs";

/// Arguments of `train`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --set, --optimizer and --seed a run is changed without editing a file. The run's checkpoint keeps the result, so that \
--resume continues with it. What else the configuration says stays: the schedule, paramwise_cfg, clip_grad.

Example: fallline train --config configs/digits.py --out runs/first

More:
  fallline train --optimizer Lion --set optim_wrapper.optimizer.lr=3e-4 --seed 1
  fallline train --set train.batch_size=64 --set param_scheduler.1.eta_min=1e-5")]
pub struct Args {
    /// A configuration file; by default the built-in configs/digits.py
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The optimizer, in place of the configuration's: `AdamW` or `dict(type="AdamW", lr=1e-4)`
    #[arg(long, value_name = "TEXT")]
    optimizer: Option<String>,
    #[command(flatten)]
    changes: Changes,
    /// Seed of the start values and of the order of the images, in place of train.seed
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i64).range(0..))]
    seed: Option<i64>,
    /// Device of the optimizer: cpu, scalar, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Number of epochs, instead of the configuration's
    #[arg(
        long,
        allow_hyphen_values = true,
        value_parser = clap::value_parser!(i64).range(0..=MOST).map(|epochs| epochs as u64)
    )]
    epochs: Option<u64>,
    /// Scale the schedule from the epochs that it is written for to those of --epochs
    #[arg(long, requires = "epochs")]
    stretch: bool,
    /// Exit with 1 if the loss is not finite at the end
    #[arg(long)]
    check: bool,
    /// Run folder; by default the next free runs/<config>-<n>
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Resume a run: the one in DIR, or the newest
    #[arg(long, value_name = "DIR")]
    resume: Option<Option<PathBuf>>,
    /// Resume without comparing the checkpoint with its hashes
    #[arg(long, requires = "resume")]
    no_verify: bool,
    /// Number of threads; all cores by default
    #[arg(long, allow_hyphen_values = true, value_parser = common::threads)]
    threads: Option<usize>,
    /// Data-parallel ranks: one, threads:N (in this process), or mpi (started by mpirun)
    #[arg(long, default_value = "one", value_parser = ranks::parse)]
    ranks: Ranks,
    /// Seconds after which a rank that others wait for counts as failed
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    rank_timeout: u64,
    /// Warn instead of failing if a rule in paramwise_cfg matches no parameter
    #[arg(long)]
    allow_unmatched: bool,
}

impl Args {
    /// Reads the configuration: that of the file or else `default`, with what other arguments change in it.
    fn recipe(&self, default: &str, changes: &[String]) -> Result<Recipe> {
        let mut set = changes.to_vec();
        set.extend(self.seed.map(|seed| format!("train.seed={seed}")));
        trained(self.config.as_deref(), default, self.optimizer.as_deref(), &Changes { set })
    }

    /// Checks that what is asked for is the configuration of a run.
    fn compare(&self, saved: &str, folder: &Path) -> Result<()> {
        if !self.configures() {
            return Ok(());
        }
        // Without a file, the changes are of what the run has.
        let changes = match self.config {
            Some(_) => self.changes.set.clone(),
            None => changed::laid_out(&self.changes.set, saved),
        };
        match changed::difference(&self.recipe(saved, &changes)?.to_source(), saved) {
            Some(found) => Err(Error::Usage(found.refusal(self, &folder.display().to_string()))),
            None => Ok(()),
        }
    }

    /// Returns whether anything on the command line says what is trained.
    fn configures(&self) -> bool {
        let changes = self.optimizer.is_some() || self.seed.is_some() || !self.changes.set.is_empty();
        changes || self.config.is_some()
    }
}

/// Trains, and prints the test accuracy last: an error after it where `--check` finds that the loss is not finite.
pub fn run(args: Args) -> Result<()> {
    if let (Some(Some(folder)), Some(_)) = (&args.resume, &args.out) {
        let folder = folder.display();
        return Err(Error::Usage(format!("--out: a run resumes in its own folder, --resume {folder}")));
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    // Where there is no way to catch Ctrl-C, it ends the program, and the last epoch's checkpoint remains.
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)).ok();
    let trained = ranks::on_each(&args, |ranks| {
        let mut session = open(&args, ranks)?;
        let nothing_left = (args.resume.is_some() && session.is_finished()).then(|| session.lengths());
        let accuracy = session.train(&interrupted).inspect_err(|_| session.discard())?;
        Ok((session.folder().to_owned(), accuracy, nothing_left, session.diverged().map(diverged_at)))
    })?;
    let Some((folder, accuracy, nothing_left, diverged)) = trained else { return Ok(()) };
    if let Some((done, epochs)) = nothing_left {
        let told = match done == epochs {
            true => format!("nothing is left to train: {done} epochs are done"),
            false => format!("{done} of {epochs} epochs are done: nothing is left to train"),
        };
        print(&format!("{told} (--epochs N with a larger N continues)\n"))?;
    }
    let told = diverged.iter().map(|diverged| format!("{diverged}\n")).collect::<String>();
    let folder = folder.display().to_string();
    print(&format!("run folder: {}\n{told}test accuracy: {:.1}%\n", shown(&folder), 100.0 * accuracy))?;
    match diverged.filter(|_| args.check) {
        Some(diverged) => Err(Error::Other(diverged)),
        None => Ok(()),
    }
}

/// A new run, or one to resume, as a rank has it.
fn open(args: &Args, ranks: Arc<dyn Communicator>) -> Result<Session> {
    let backend = common::device(&args.device, args.threads.or(args.ranks.threads_of_each()))?;
    if let Some(folder) = &args.resume {
        let named = folder.as_deref().or(args.out.as_deref());
        let folder = resumed_folder(named, &*ranks)?;
        let read = if args.no_verify { Checkpoint::read_unverified } else { Checkpoint::read };
        let saved = SavedRun::read(&read(folder.path.join(CHECKPOINT))?, &folder.path)?;
        let recipe = saved.recipe(&folder.path)?.allow_unmatched(args.allow_unmatched);
        args.compare(&saved.config, &folder.path)?;
        let mut options = options(&recipe)?;
        let checked = saved.progress.check(saved.epochs, plan::steps_of_epoch(&options));
        checked.map_err(|problem| Error::Malformed { path: folder.path.join(CHECKPOINT), problem })?;
        options.epochs = args.epochs.unwrap_or(saved.epochs);
        options.written_for = saved.written_for;
        let is_left = saved.progress.epoch < options.epochs;
        let tells = is_left && options.epochs != saved.epochs && ranks.rank() == 0;
        let recipe = planned(args, recipe, &mut options, tells)?;
        return Session::resume(folder, recipe, options, backend, ranks, saved);
    }
    let name = match &args.config {
        Some(path) => path.file_stem().unwrap_or_default().to_string_lossy(),
        None => "digits".into(),
    };
    let recipe = args.recipe(DEFAULT, &args.changes.set)?.allow_unmatched(args.allow_unmatched);
    let mut options = options(&recipe).map_err(|error| error.within(args.changes.texts().collect()))?;
    if ranks.rank() == 0 {
        recipe.warnings().iter().for_each(|warning| common::warn(warning));
        args.changes.warn_unread(recipe.keys().1);
    }
    options.epochs = match args.epochs {
        Some(epochs) => epochs,
        None => plan::epochs(&recipe, &options, ranks.rank() == 0)?,
    };
    let recipe = planned(args, recipe, &mut options, ranks.rank() == 0)?;
    Session::begin(|| new_folder(args.out.as_deref(), &name), recipe, options, backend, ranks)
}

/// Refuses training options that a run would refuse.
pub fn check(train: Option<&Node>) -> Result<()> {
    Options::read(train).map(drop)
}

/// Returns what a configuration asks for of the run.
fn options(recipe: &Recipe) -> Result<Options> {
    let mut options = Options::read(recipe.train.as_ref())?;
    options.average = options.average.or(recipe.average());
    Ok(options)
}

/// A recipe with the schedule of a run; one that `tells` says so where it is of another length.
fn planned(args: &Args, recipe: Recipe, options: &mut Options, tells: bool) -> Result<Recipe> {
    if args.stretch {
        options.written_for = Some(plan::written_for(&recipe)?);
    }
    if tells {
        plan::warn_of_length(&recipe, options);
        // That of a hook is the recipe's own.
        let own = recipe.train.as_ref().and_then(|train| train.value.as_dict()?.get("average"));
        if let Some(node) = own.filter(|node| !node.value.is_none())
            && let Some(warning) = options.average.and_then(|average| average.warning())
        {
            let place = node.at.file.as_ref().map(|_| format!("{}: ", node.at)).unwrap_or_default();
            common::warn(&format!("{place}{warning}"));
        }
    }
    Ok(plan::scaled(recipe, options))
}

/// Returns the folder of a run to resume. Rank 0 locks it before anyone reads there.
fn resumed_folder(named: Option<&Path>, ranks: &dyn Communicator) -> Result<RunFolder> {
    let found = || match named {
        Some(folder) => Ok(folder.to_owned()),
        None => newest(Path::new(RUNS)).ok_or_else(|| {
            Error::Usage(format!(
                "--resume: no folder in {RUNS}/ has a {CHECKPOINT}; name one, or start a run"
            ))
        }),
    };
    let missing = |folder: &Path, hint: &str| {
        Err(Error::Usage(format!("--resume: {} has no {CHECKPOINT}{hint}", folder.display())))
    };
    if ranks.rank() > 0 {
        ranks.barrier().map_err(fallline::core::Error::from)?;
        let path = found()?;
        return match path.join(CHECKPOINT).is_file() {
            true => Ok(RunFolder { path, is_new: false, lock: None }),
            false => missing(&path, ""),
        };
    }
    let path = found()?;
    if !path.is_dir() {
        return missing(&path, "");
    }
    let lock = FolderLock::take(&path, "--resume")?;
    if !path.join(CHECKPOINT).is_file() {
        let hint = abandoned(&path).map(|_| format!(": --out {} begins the run again", path.display()));
        return missing(&path, &hint.unwrap_or_default());
    }
    ranks.barrier().map_err(fallline::core::Error::from)?;
    Ok(RunFolder { path, is_new: false, lock: Some(lock) })
}

/// Returns a folder for a new run.
fn new_folder(out: Option<&Path>, name: &str) -> Result<RunFolder> {
    let Some(folder) = out else {
        let path = next_free(Path::new(RUNS), name).map_err(Error::io(Path::new(RUNS)))?;
        let lock = FolderLock::take(&path, "--out")?;
        return Ok(RunFolder { path, is_new: true, lock: Some(lock) });
    };
    let (shown, is_new) = (folder.display(), !folder.exists());
    if !is_new && !folder.is_dir() {
        return Err(Error::Usage(format!("--out: {shown} is not a folder")));
    }
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let lock = FolderLock::take(folder, "--out")?;
    if folder.join(CHECKPOINT).exists() {
        return Err(Error::Usage(format!(
            "--out: {shown} has a run already; continue it with --resume {shown}"
        )));
    }
    if folder.join(METRICS).exists() {
        let Some(records) = abandoned(folder) else {
            let problem = "has a run without a checkpoint, and other files, too";
            return Err(Error::Usage(format!("--out: {shown} {problem}: name another folder")));
        };
        common::warn(&format!(
            "--out: {shown} has {records} records and no checkpoint: the run begins again"
        ));
        for name in [METRICS, PLOT].map(|name| folder.join(name)).iter().filter(|path| path.exists()) {
            std::fs::remove_file(name).map_err(Error::io(name))?;
        }
    }
    remove_temporaries(folder).map_err(Error::io(folder))?;
    Ok(RunFolder { path: folder.to_owned(), is_new, lock: Some(lock) })
}
