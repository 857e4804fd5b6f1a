//! `fallline convert`: optimizer states to and from files of other frameworks.

mod folder;

use crate::common;
use crate::error::{Error, Result};
use crate::escape::{message, shown};
use crate::registry::registry;
use crate::source::inline;
use fallline::convert::{
    self, Container, ExportOptions, ImportOptions, Limits, Named, Report, archive, deepspeed, from_torch,
    safetensors, to_torch,
};
use fallline::core::files::read_tensors;
use fallline::optim::checkpoint::write_atomically;
use fallline::{AnyRecipe, Checkpoint, Method};
use std::path::{Path, PathBuf};

/// Arguments of `convert`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A torch file is the state_dict of an optimizer, or a checkpoint dict that has one anywhere in it; --key says which if there \
are several. Nothing in it is executed, and values of unknown classes are never built. IN may be a folder of Accelerate, of \
Hugging Face's Trainer or of DeepSpeed (ZeRO stages 1 and 2, whose shards are joined). Hyperparameters come from the groups; \
--optimizer gives those that they lack.

8-bit states of bitsandbytes stay quantized under a name with the same codebook, such as AdamW8bit.

Example: fallline convert run.pth run.safetensors --optimizer AdamW

More:
  fallline convert bnb.pt run.safetensors --optimizer 'dict(type=\"LAMB\", max_unorm=0.5)' --params names.json
  fallline convert run.safetensors run.pth --layout mmengine
  fallline convert run.pth run.safetensors --to safetensors")]
pub struct Args {
    /// The file to convert, or a folder that a trainer saved
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// The format of IN; detected by default
    #[arg(long, value_enum)]
    from: Option<Kind>,
    /// The format of OUT; by default a fallline checkpoint, or a torch file if IN is one
    #[arg(long, value_enum)]
    to: Option<Kind>,
    /// The algorithm, and hyperparameters that IN lacks: `AdamW` or `dict(type="AdamW", …)`
    #[arg(long, value_name = "TEXT", conflicts_with = "config")]
    optimizer: Option<String>,
    /// The same from a configuration file: .py, .json, .toml or .yaml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The parameters' names in the optimizer's order: a torch file, JSON, or text with one name a line
    #[arg(long, value_name = "FILE")]
    params: Option<PathBuf>,
    /// Name the parameters 0, 1, 2, … if IN has no names; for torch, sort them by name if IN has no order
    #[arg(long, conflicts_with_all = ["params", "rename"])]
    number: bool,
    /// Replace the prefix OLD of the names in IN by NEW: module.= strips it
    #[arg(long, value_name = "OLD=NEW", value_parser = rule)]
    rename: Vec<(String, String)>,
    /// The dotted path of the optimizer's state in IN: optimizer.generator, optimizer_states.0
    #[arg(long, value_name = "PATH")]
    key: Option<String>,
    /// The checkpoint format that encloses the optimizer's state in a torch file
    #[arg(long, value_enum, default_value_t = Layout::Bare)]
    layout: Layout,
    /// Drop what has no counterpart or does not fit instead of refusing it
    #[arg(long)]
    lenient: bool,
    /// Do not compare a fallline checkpoint with its hashes
    #[arg(long)]
    no_verify: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Kind {
    /// A fallline checkpoint
    Fallline,
    /// A file of torch.save
    Torch,
    /// The tree of a torch file, as safetensors
    Safetensors,
}

/// The checkpoint format that encloses an optimizer's state.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Layout {
    /// None: the bare result of optimizer.state_dict()
    Bare,
    /// A dict with model and optimizer
    Training,
    /// A checkpoint that MMEngine's runner resumes from
    Mmengine,
}

/// Converts.
pub fn run(args: Args) -> Result<()> {
    let input = if args.input.is_dir() { folder::in_folder(&args.input)? } else { args.input.clone() };
    let bytes = read_tensors(&input).map_err(Error::io(&input))?;
    if let Some(whole) = safetensors::cut_short(&bytes) {
        let problem = format!("the safetensors file is cut short: {} of {whole} bytes or more", bytes.len());
        return Err(Error::Malformed { path: input, problem });
    }
    let from = args.from.unwrap_or_else(|| kind_of(&bytes));
    let to = args.to.unwrap_or(if from == Kind::Fallline { Kind::Torch } else { Kind::Fallline });
    let wrong = |path: &Path| {
        let path = path.to_owned();
        move |error: convert::Error| Error::Malformed { path, problem: error.to_string() }
    };
    let limits = Limits::default();
    let tree = || match from {
        Kind::Torch => archive::read(&bytes, &limits).map_err(wrong(&args.input)),
        _ => safetensors::read(&bytes, &limits).map_err(wrong(&args.input)),
    };
    let written = |tree: &convert::Value<'_>| match to {
        Kind::Torch => archive::write(tree).map_err(wrong(&args.output)),
        _ => safetensors::write(tree).map_err(wrong(&args.output)),
    };
    let (out, report) = match (from == Kind::Fallline, to == Kind::Fallline) {
        (true, true) => {
            return Err(Error::Usage("--to: IN is a fallline checkpoint already".into()));
        }
        (false, false) => {
            let tree = tree()?;
            let mut report = Report::default();
            report.left_out = tree.skipped_keys();
            report.opaque = tree.opaque_values();
            report.copied = Some(tree.count_tensors());
            (written(&tree)?, report)
        }
        (false, true) => {
            let base = args.method()?.ok_or_else(|| {
                let problem = "the file does not name its algorithm: pass --optimizer NAME or --config FILE";
                Error::Usage(format!("{}: {problem}", args.input.display()))
            })?;
            let options = ImportOptions {
                key: args.key.clone(),
                names: args.names()?,
                number: args.number,
                rename: args.rename.clone(),
                lenient: args.lenient,
            };
            let tree = tree()?;
            let (checkpoint, mut report) = match deepspeed::is_shard(&tree) {
                true => {
                    let joined = folder::joined(&input, &tree, options.names.as_deref())?;
                    // The names are the shards' own.
                    from_torch(&joined, &base, &ImportOptions { names: None, ..options })
                }
                false => from_torch(&tree, &base, &options),
            }
            .map_err(|error| args.hinted(error))?;
            if report.opaque.is_empty() {
                report.opaque = tree.opaque_values();
            }
            (checkpoint.to_bytes()?, report)
        }
        (true, false) => {
            let read =
                if args.no_verify { Checkpoint::from_bytes_unverified } else { Checkpoint::from_bytes };
            let checkpoint =
                read(&bytes).map_err(|problem| Error::Malformed { path: args.input.clone(), problem })?;
            let groups = args.groups(&checkpoint)?;
            let names = args.names()?.map(|names| names.into_iter().map(|(name, _)| name).collect());
            let (number, rename) = (args.number, args.rename.clone());
            let options = ExportOptions { names, number, rename, container: args.layout.container() };
            let (tree, report) =
                to_torch(&checkpoint, &groups, &options).map_err(|error| args.hinted(error))?;
            (written(&tree)?, report)
        }
    };
    write_atomically(&args.output, &out).map_err(Error::io(&args.output))?;
    args.tell(&report)
}

/// Reads a rule of `--rename`.
fn rule(text: &str) -> std::result::Result<(String, String), String> {
    let (old, new) = text.split_once('=').ok_or("expected OLD=NEW")?;
    match old.is_empty() {
        true => Err("OLD is empty".into()),
        false => Ok((old.to_owned(), new.to_owned())),
    }
}

/// Returns what bytes look like.
fn kind_of(bytes: &[u8]) -> Kind {
    let header = bytes.get(..8).and_then(|length| {
        let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
        bytes.get(8..length.checked_add(8)?)
    });
    let has =
        |key: &str| header.is_some_and(|header| header.windows(key.len()).any(|at| at == key.as_bytes()));
    match (header.is_some_and(|header| header.starts_with(b"{")), has("\"torch\":")) {
        (true, true) => Kind::Safetensors,
        (true, false) => Kind::Fallline,
        _ => Kind::Torch,
    }
}

impl Layout {
    fn container(self) -> Container {
        match self {
            Layout::Bare => Container::Bare,
            Layout::Training => Container::Training,
            Layout::Mmengine => Container::MmEngine,
        }
    }
}

/// How the library says that names are to be renamed.
const RENAME: &str = ": rename ";

impl Args {
    fn method(&self) -> Result<Option<Method>> {
        Ok(match (&self.optimizer, &self.config) {
            (Some(text), _) => Some(inline("--optimizer", text)?.method()),
            (None, Some(path)) => Some(AnyRecipe::from_file_with(path, registry())?.method()),
            (None, None) => None,
        })
    }

    fn names(&self) -> Result<Option<Vec<Named>>> {
        let Some(path) = &self.params else { return Ok(None) };
        let bytes = read_tensors(path).map_err(Error::io(path))?;
        let names = convert::names(&bytes, &Limits::default());
        names.map(Some).map_err(|error| Error::Malformed { path: path.clone(), problem: error.to_string() })
    }

    /// Returns what a checkpoint's groups are stepped by.
    fn groups(&self, checkpoint: &Checkpoint) -> Result<Vec<Method>> {
        let malformed = |problem: String| Error::Malformed { path: self.input.clone(), problem };
        let manifest = checkpoint.manifest.optimizer.as_ref();
        let manifest = manifest.ok_or_else(|| malformed("it has no optimizer state".into()))?;
        let name = manifest.name();
        if let Some(asked) = self.method()?
            && asked.name() != name
        {
            let asked = asked.name();
            return Err(Error::Usage(format!(
                "{}: it is a checkpoint of {name}, not of {asked}",
                self.input.display()
            )));
        }
        let entry =
            registry().find(name).ok_or_else(|| malformed(format!("there is no optimizer {name:?}")))?;
        // A schedule may have set what a new optimizer would be refused.
        let group = |values: Vec<(&str, fallline::Value)>| {
            let mut method = entry.defaults();
            method.set(&values).map_err(|error| malformed(error.to_string()))?;
            Ok(method)
        };
        manifest.groups().map(group).collect()
    }

    /// Returns an error of the conversion, with what helps on the command line.
    fn hinted(&self, error: convert::Error) -> Error {
        let path = self.input.clone();
        let problem = match &error {
            // What a hint says to rename is said by an option here.
            convert::Error::Names(text) if !self.rename.is_empty() && text.contains("renamed") => {
                format!("{error} (--rename)")
            }
            convert::Error::Names(text) if text.contains(RENAME) => text.replace(RENAME, ": --rename "),
            convert::Error::Names(text) if text.contains("of the names given") => {
                format!("{error} (--lenient takes them all the same)")
            }
            convert::Error::Names(_) if self.params.is_none() && !self.number => {
                format!("{error} (--params FILE, or --number)")
            }
            convert::Error::Value { problem, .. } if problem.contains("several optimizers") => {
                format!("{error} (--key PATH)")
            }
            convert::Error::Value { problem, .. }
                if ["no such state", "no hyper", "it has shape"]
                    .iter()
                    .any(|part| problem.contains(part)) =>
            {
                format!("{error} (--lenient drops it)")
            }
            _ => error.to_string(),
        };
        Error::Malformed { path, problem }
    }

    fn tell(&self, report: &Report) -> Result<()> {
        let warnings: Vec<String> =
            report.warnings.iter().map(|warning| warning.replace(RENAME, ": --rename ")).collect();
        if self.json {
            let opaque = report.opaque.iter();
            let opaque = opaque.map(|opaque| serde_json::json!({ "at": opaque.at, "class": opaque.class }));
            return common::print_json(&serde_json::json!({
                "parameters": report.parameters,
                "states": report.states,
                "decoded": report.decoded,
                "weights": report.weights,
                "left_out": report.left_out,
                "widened": report.widened,
                "opaque": opaque.collect::<Vec<_>>(),
                "warnings": warnings,
            }));
        }
        let output = self.output.display().to_string();
        common::print(&format!("{}: {}\n", shown(&output), message(&report.to_string())))?;
        warnings.iter().for_each(|warning| common::warn(warning));
        Ok(())
    }
}
