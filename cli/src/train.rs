//! `fallline train`: the main job on real data.

mod options;
mod plan;
mod progress;
mod ranks;
mod saved;
mod session;

use crate::common::{self, print};
use crate::error::{Error, Result};
use crate::run_folder::{CHECKPOINT, newest, next_free};
use crate::source::{Changes, trained};
use fallline::ranks::Communicator;
use fallline::registry::config::Node;
use fallline::{Checkpoint, Recipe};
use options::Options;
use ranks::Ranks;
use saved::SavedRun;
use session::Session;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The configuration that is used when none is given.
const DEFAULT: &str = include_str!("../../configs/digits.py");
/// Where runs go.
const RUNS: &str = "runs";

/// Arguments of `train`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --set, --optimizer and --seed a run is changed without editing a file. The run's checkpoint keeps the result, so that \
--resume goes on with it. What else the configuration says stays: the schedule, paramwise_cfg, clip_grad.

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
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    seed: Option<i64>,
    /// Device of the optimizer: cpu, scalar, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Number of epochs, instead of the configuration's
    #[arg(long)]
    epochs: Option<u64>,
    /// Scale the schedule from the epochs that it is written for to those of --epochs
    #[arg(long, requires = "epochs")]
    stretch: bool,
    /// Run folder; by default the next free runs/<config>-<n>
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Resume a run: the one in DIR, or the newest
    #[arg(long, value_name = "DIR")]
    resume: Option<Option<PathBuf>>,
    /// Number of threads; all cores by default
    #[arg(long, value_parser = common::threads)]
    threads: Option<usize>,
    /// Data-parallel ranks: one, threads:N (in this process), or mpi (started by mpirun)
    #[arg(long, default_value = "one", value_parser = ranks::parse)]
    ranks: Ranks,
    /// Seconds after which a rank that others wait for counts as failed
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    rank_timeout: u64,
    /// Warn instead of failing if a rule in paramwise_cfg matches no parameter
    #[arg(long)]
    allow_unmatched: bool,
}

impl Args {
    /// Reads the configuration: that of the file or else `default`, with what other arguments change in it.
    fn recipe(&self, default: &str) -> Result<Recipe> {
        let mut set = self.changes.set.clone();
        set.extend(self.seed.map(|seed| format!("train.seed={seed}")));
        trained(self.config.as_deref(), default, self.optimizer.as_deref(), &Changes { set })
    }

    /// Returns whether anything on the command line says what is trained.
    fn configures(&self) -> bool {
        let changes = self.optimizer.is_some() || self.seed.is_some() || !self.changes.set.is_empty();
        changes || self.config.is_some()
    }
}

/// Trains, and prints the test accuracy last.
pub fn run(args: Args) -> Result<()> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    // Where there is no way to catch Ctrl-C, it ends the program, and the last epoch's checkpoint remains.
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)).ok();
    let trained = ranks::on_each(&args, |ranks| {
        let mut session = open(&args, ranks)?;
        let nothing_left = (args.resume.is_some() && session.is_finished()).then(|| session.epochs());
        let accuracy = session.train(&interrupted)?;
        Ok((session.folder().to_owned(), accuracy, nothing_left))
    })?;
    let Some((folder, accuracy, nothing_left)) = trained else { return Ok(()) };
    if let Some(epochs) = nothing_left {
        print(&format!(
            "nothing is left to train: {epochs} epochs are done (--epochs N with a larger N goes on)\n"
        ))?;
    }
    print(&format!("run folder: {}\ntest accuracy: {:.1}%\n", folder.display(), 100.0 * accuracy))
}

/// A new run, or one to resume, as a rank has it.
fn open(args: &Args, ranks: Arc<dyn Communicator>) -> Result<Session> {
    let backend = common::device(&args.device, args.threads.or(args.ranks.threads_of_each()))?;
    if let Some(folder) = &args.resume {
        let folder = resumed_folder(folder.as_deref().or(args.out.as_deref()))?;
        let saved = SavedRun::read(&Checkpoint::read(folder.join(CHECKPOINT))?, &folder)?;
        let recipe = Recipe::from_text(&saved.config)?.allow_unmatched(args.allow_unmatched);
        if args.configures() && !plan::is_same(&args.recipe(&saved.config)?.to_source(), &saved.config) {
            let given = match &args.config {
                Some(path) => path.display().to_string(),
                None => "what --optimizer, --set and --seed ask for".into(),
            };
            let folder = folder.display();
            return Err(Error::Usage(format!(
                "{given} is not the configuration that {folder} was started with"
            )));
        }
        let mut options = options(&recipe)?;
        options.epochs = args.epochs.unwrap_or(saved.epochs);
        options.written_for = saved.written_for;
        let tells = options.epochs != saved.epochs && ranks.rank() == 0;
        let recipe = planned(args, recipe, &mut options, tells)?;
        return Session::resume(folder, recipe, options, backend, ranks, saved);
    }
    let name = match &args.config {
        Some(path) => path.file_stem().unwrap_or_default().to_string_lossy(),
        None => "digits".into(),
    };
    let recipe = args.recipe(DEFAULT)?.allow_unmatched(args.allow_unmatched);
    let mut options = options(&recipe).map_err(|error| error.within(args.changes.texts().collect()))?;
    if ranks.rank() == 0 {
        recipe.warnings().iter().for_each(|warning| common::warn(warning));
        args.changes.warn_unread(recipe.keys().1);
    }
    options.epochs = args.epochs.unwrap_or_else(|| plan::epochs(&recipe, &options, ranks.rank() == 0));
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

/// Returns the folder of a run to resume.
fn resumed_folder(named: Option<&Path>) -> Result<PathBuf> {
    let folder = match named {
        Some(folder) => folder.to_owned(),
        None => newest(Path::new(RUNS)).ok_or_else(|| {
            Error::Usage(format!(
                "--resume: no folder in {RUNS}/ has a {CHECKPOINT}; name one, or start a run"
            ))
        })?,
    };
    match folder.join(CHECKPOINT).is_file() {
        true => Ok(folder),
        false => Err(Error::Usage(format!("--resume: {} has no {CHECKPOINT}", folder.display()))),
    }
}

/// A folder for a new run.
fn new_folder(out: Option<&Path>, name: &str) -> Result<PathBuf> {
    let Some(folder) = out else {
        return next_free(Path::new(RUNS), name).map_err(Error::io(Path::new(RUNS)));
    };
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    if Session::is_in(folder) {
        let folder = folder.display();
        return Err(Error::Usage(format!(
            "--out: {folder} has a run already; continue it with --resume {folder}"
        )));
    }
    Ok(folder.to_owned())
}
