//! Configurations, devices and output, for several commands.

use crate::error::{Error, Result};
use fallline::registry::schedulers::{Chain, Length};
use fallline::{AnyRecipe, Backend, Cpu, Cuda, Recipe};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where an optimizer's configuration comes from.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("configuration").required(true).args(["optimizer", "config"])))]
pub struct Source {
    /// A configuration inline: `AdamW` or `dict(type="AdamW", lr=1e-4)`
    #[arg(long, value_name = "TEXT")]
    pub optimizer: Option<String>,
    /// A configuration file: .py, .json, .toml or .yaml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Warn instead of failing if a rule in paramwise_cfg matches no parameter
    #[arg(long)]
    pub allow_unmatched: bool,
}

impl Source {
    /// Reads it, for an optimizer that steps on gradients.
    pub fn recipe(&self) -> Result<Recipe> {
        Ok(self.any_recipe()?.stepping()?)
    }

    /// Reads it, for any optimizer.
    pub fn any_recipe(&self) -> Result<AnyRecipe> {
        let recipe = match (&self.optimizer, &self.config) {
            (Some(text), _) => AnyRecipe::from_text(text)?,
            (None, Some(path)) => AnyRecipe::from_file(path)?,
            (None, None) => return Err(Error::Usage("pass --optimizer TEXT or --config FILE".into())),
        };
        recipe.warnings().iter().for_each(|warning| warn(warning));
        Ok(recipe.allow_unmatched(self.allow_unmatched))
    }
}

/// Tells what is no error, and what nobody may overlook.
pub fn warn(text: &str) {
    eprintln!("warning: {text}");
}

/// Tells which entries of a schedule nothing ends; `how` says what would.
pub fn warn_without_end(chain: &Chain, length: Length, how: &str) {
    let endless = chain.without_end(length);
    if !endless.is_empty() {
        let (has, names) = (if endless.len() == 1 { "has" } else { "have" }, endless.join(", "));
        warn(&format!("{names} {has} no `end`, and the length of training is not known: {how}"));
    }
}

/// Refuses keys of `custom_keys` that match none of the names, or warns where they are allowed.
pub fn unmatched<'n>(
    recipe: &Recipe,
    names: impl Iterator<Item = &'n str> + Clone,
    allowed: bool,
) -> Result<()> {
    for rule in recipe.unmatched(names) {
        if !allowed {
            return Err(Error::Usage(format!("{rule} matches no parameter (see --allow-unmatched)")));
        }
        warn(&format!("{rule} matches no parameter"));
    }
    Ok(())
}

/// Returns the backend of a `--device`.
pub fn device(name: &str, threads: Option<usize>) -> Result<Arc<dyn Backend>> {
    match name {
        "cpu" => Ok(cpu(threads)?.shared()),
        "scalar" => Ok(Cpu::scalar().shared()),
        "cuda" => Ok(Cuda::new(0)?.shared()),
        _ if let Some(index) = name.strip_prefix("cuda:").and_then(|index| index.parse().ok()) => {
            Ok(Cuda::new(index)?.shared())
        }
        _ => Err(Error::Usage(format!("--device: expected cpu, scalar, cuda or cuda:N, got {name:?}"))),
    }
}

/// Returns the CPU with a number of threads; all of them without one.
pub fn cpu(threads: Option<usize>) -> Result<Cpu> {
    Ok(match threads {
        Some(threads) => Cpu::with_threads(threads)?,
        None => Cpu::new()?,
    })
}

/// Reads a number of threads on the command line.
pub fn threads(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|threads| (1..=1024).contains(threads)).ok_or("expected 1 to 1024".into())
}

/// Writes to the standard output. A reader that has gone away is no failure.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Error::io(Path::new("standard output"))),
    }
}

/// Writes JSON to the standard output.
pub fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value:#}\n"))
}

/// Returns rows as a table with aligned columns; the first row is the head.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}
