//! The command line of fallline, as a library: a binary of your own is the same command with your algorithms in it.
//!
//! ```no_run
//! use fallline::{Registry, algorithms::AdamW, alias};
//!
//! alias! {
//!     /// AdamW, slower.
//!     pub MyAdamW as "MyAdamW" is AdamW, with { lr = 1e-4 }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     match Registry::standard().with::<MyAdamW>() {
//!         Ok(registry) => fallline_cli::main(registry),
//!         Err(error) => {
//!             eprintln!("error: {error}");
//!             std::process::ExitCode::FAILURE
//!         }
//!     }
//! }
//! ```
//!
//! `cli/examples/own_command.rs` is such a binary, with a rule of its own.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]

mod bench;
mod common;
mod convert;
mod describe;
mod diff;
mod digits;
mod error;
mod escape;
mod explain;
mod inspect;
mod label;
mod list;
mod minimize;
mod numbers;
mod output;
mod plot;
mod registry;
mod replay;
mod report;
mod run_folder;
mod schedule;
mod schema;
mod shell;
mod source;
mod tensors;
mod trace;
mod train;
mod version;

use clap::error::ErrorKind;
use clap::{ArgMatches, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand};
use error::{Error, Result};
use fallline::Registry;
use std::process::ExitCode;

/// Optimizers for training neural networks without a framework.
#[derive(Debug, Parser)]
#[command(
    name = "fallline",
    max_term_width = 100,
    after_help = "\
Environment:
  FALLLINE_ISA=scalar|baseline|avx2|avx512    force an instruction set
  NO_COLOR=1                                  no colours
  FALLLINE_EMULATOR=checked                   check memory and races on an emulated CUDA device

Exit codes:
  0    success
  1    any other failure; diff: the files differ
  2    a usage or configuration error, or a device that is not there
  130  after Ctrl-C"
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print every name in the registry
    List(list::Args),
    /// Print an algorithm's update rule, hyperparameters, states and references
    Describe(describe::Args),
    /// Print each parameter's optimizer, learning rate and state bytes, and the rule that decided
    Explain(explain::Args),
    /// Apply an optimizer to recorded gradients
    Replay(replay::Args),
    /// Minimize a known function
    Minimize(minimize::Args),
    /// Print the learning rate and momentum of each step of a schedule
    Schedule(schedule::Args),
    /// Train a network on the bundled handwritten digits
    Train(train::Args),
    /// Convert optimizer states to and from torch, bitsandbytes and MMEngine
    Convert(convert::Args),
    /// Print what a checkpoint, a trace or a torch file holds
    Inspect(inspect::Args),
    /// Compare two files of tensors: replays, checkpoints, any safetensors
    Diff(diff::Args),
    /// Measure optimizers against memory bandwidth
    Bench(bench::Args),
    /// Print the JSON schema of a command's --json
    Schema(schema::Args),
    /// Print the completions of a shell
    Completions(shell::Completions),
    /// Print the manual page, or write those of all commands
    Man(shell::Manual),
}

/// What every command takes.
#[derive(Debug, clap::Args)]
struct Global {
    /// When to colour: auto (on a terminal, unless NO_COLOR is set), always or never
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value_t,
        hide_possible_values = true
    )]
    color: ColorChoice,
    /// Print only results and errors: no warnings, no progress
    #[arg(short, long, global = true)]
    quiet: bool,
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::List(args) => list::run(args),
        Command::Describe(args) => describe::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Minimize(args) => minimize::run(args),
        Command::Schedule(args) => schedule::run(args),
        Command::Train(args) => train::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Schema(args) => schema::run(args),
        Command::Completions(args) => shell::completions(args, command_line()),
        Command::Man(args) => shell::manual(args, command_line()),
    }
}

/// Returns the command line, with the versions.
fn command_line() -> clap::Command {
    Cli::command().version(version::SHORT.as_str()).long_version(version::LONG.as_str())
}

/// Reads the command line. None where its parser has printed what was asked for.
fn parse() -> Result<Option<ArgMatches>> {
    let arguments: Vec<_> = std::env::args_os().collect();
    // Before there are matches, for what the parser itself prints.
    let asked = |choice: &str| {
        let apart = arguments.windows(2).any(|pair| pair[0] == "--color" && pair[1] == choice);
        apart || arguments.iter().any(|argument| argument.to_str() == Some(&format!("--color={choice}")))
    };
    let choice = [("always", ColorChoice::Always), ("never", ColorChoice::Never)];
    let choice =
        choice.into_iter().find(|(name, _)| asked(name)).map_or(ColorChoice::Auto, |(_, choice)| choice);
    colour(choice);
    match command_line().color(choice).try_get_matches_from(arguments) {
        Ok(matches) => Ok(Some(matches)),
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let names: Vec<String> =
                Cli::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
            let names = names.join(", ");
            Err(Error::Usage(format!("a command is missing: {names} (see fallline --help)")))
        }
        Err(error) if !error.use_stderr() => common::print(&error.render().ansi().to_string()).map(|()| None),
        Err(error) => Err(Error::Arguments(error)),
    }
}

fn colour(choice: ColorChoice) {
    let choice = match choice {
        ColorChoice::Always => anstream::ColorChoice::Always,
        ColorChoice::Never => anstream::ColorChoice::Never,
        ColorChoice::Auto => anstream::ColorChoice::Auto,
    };
    choice.write_global();
}

/// Runs the command that the process's arguments ask for. Configurations, checkpoints, `list`, `describe`, `bench` and
/// all others know the algorithms of this registry. The first call in a process decides on it.
pub fn main(registry: Registry) -> ExitCode {
    registry::use_for_process(registry);
    let mut with_line = true;
    let done = parse().and_then(|matches| {
        let Some(matches) = matches else { return Ok(()) };
        // Whoever reads JSON reads one line of an error, too.
        let json = |(_, matches): (_, &ArgMatches)| matches.try_get_one("json").ok().flatten().copied();
        with_line = !matches.subcommand().and_then(json).unwrap_or(false);
        let Cli { command, global } = Cli::from_arg_matches(&matches).map_err(Error::Arguments)?;
        if global.quiet {
            common::silence();
        }
        run(command)
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error, Error::Different) {
                report::failure(&error, with_line);
            }
            ExitCode::from(error.code())
        }
    }
}
