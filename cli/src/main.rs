//! The command line of fallline.

#![deny(unsafe_code)]

mod bench;
mod common;
mod convert;
mod describe;
mod digits;
mod error;
mod explain;
mod label;
mod list;
mod minimize;
mod numbers;
mod output;
mod plot;
mod replay;
mod run_folder;
mod schedule;
mod trace;
mod train;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use error::{Error, Result};
use std::process::ExitCode;

/// Optimizers for training neural networks without a framework.
#[derive(Debug, Parser)]
#[command(
    name = "fallline",
    version,
    max_term_width = 100,
    after_help = "\
Environment:
  FALLLINE_ISA=scalar|baseline|avx2|avx512    force an instruction set

Exit codes: 0 for success, 2 for a usage or configuration error, 130 after Ctrl-C, 1 for any other failure"
)]
struct Cli {
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
    /// Measure optimizers against memory bandwidth
    Bench(bench::Args),
}

fn run() -> Result<()> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let names: Vec<String> =
                Cli::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
            return Err(Error::Usage(format!(
                "a command is missing: {} (see fallline --help)",
                names.join(", ")
            )));
        }
        Err(error) if !error.use_stderr() => return common::print(&error.render().to_string()),
        Err(error) => return Err(Error::Usage(one_line(&error))),
    };
    match cli.command {
        Command::List(args) => list::run(args),
        Command::Describe(args) => describe::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Minimize(args) => minimize::run(args),
        Command::Schedule(args) => schedule::run(args),
        Command::Train(args) => train::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Bench(args) => bench::run(args),
    }
}

/// Returns clap's message without its usage and its pointer to `--help`.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let told =
        lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let joined = told.collect::<Vec<_>>().join(" ");
    joined.trim_start_matches("error: ").to_owned()
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let line = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            match error {
                Error::Interrupted(_) => eprintln!("interrupted: {line}"),
                _ => eprintln!("error: {line}"),
            }
            ExitCode::from(error.code())
        }
    }
}
