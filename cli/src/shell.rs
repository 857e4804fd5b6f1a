//! `fallline completions` and `fallline man`: what a shell and a manual know of the command.

use crate::common::print;
use crate::error::{Error, Result};
use clap::Command;
use clap_mangen::Man;
use fallline::optim::checkpoint::write_atomically;
use std::path::{Path, PathBuf};

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: fallline completions bash > ~/.local/share/bash-completion/completions/fallline"
)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Prints the completions of a shell.
pub fn completions(args: Completions, mut command: Command) -> Result<()> {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: fallline man ~/.local/share/man/man1")]
pub struct Manual {
    /// Write a page of each command into this folder, instead of printing that of fallline
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// Prints the manual page, or writes those of all commands.
pub fn manual(args: Manual, command: Command) -> Result<()> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let Some(folder) = args.folder else {
        let page = page(command).map_err(Error::io(Path::new("standard output")))?;
        return print(&String::from_utf8_lossy(&page.1));
    };
    if folder.exists() && !folder.is_dir() {
        return Err(Error::Malformed { path: folder, problem: "is not a folder".into() });
    }
    std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    let commands: Vec<Command> = command.get_subcommands().cloned().collect();
    let count = commands.len() + 1;
    for command in [command].into_iter().chain(commands) {
        let (name, page) = page(command).map_err(Error::io(&folder))?;
        let path = folder.join(name);
        write_atomically(&path, &page).map_err(Error::io(&path))?;
    }
    print(&format!("{}: {count} pages\n", folder.display()))
}

/// Returns the name and the text of a command's page.
fn page(command: Command) -> std::io::Result<(String, Vec<u8>)> {
    let page = Man::new(command);
    let mut text = Vec::new();
    page.render(&mut text)?;
    Ok((page.get_filename(), text))
}
