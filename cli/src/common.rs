//! Configurations, devices and output, for several commands.

use crate::error::{Error, Result};
use crate::escape::{self, shortened};
use fallline::registry::schedulers::{Chain, Length};
use fallline::{Backend, Cpu, Cuda, Recipe};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether `--quiet` was given.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Silences warnings and progress.
pub fn silence() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Returns whether only results and errors are printed.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Tells what is no error, and what nobody may overlook.
pub fn warn(text: &str) {
    if !is_quiet() {
        crate::report::warning(text);
    }
}

/// Tells which entries of a schedule nothing ends; `how` says what would.
pub fn warn_without_end(chain: &Chain, length: Length, how: &str) {
    without_end(chain, length, how).iter().for_each(|told| warn(told));
}

/// Returns which entries of a schedule nothing ends; `how` says what would.
pub fn without_end(chain: &Chain, length: Length, how: &str) -> Option<String> {
    let endless = chain.without_end(length);
    let (has, names) = (if endless.len() == 1 { "has" } else { "have" }, endless.join(", "));
    (!endless.is_empty())
        .then(|| format!("{names} {has} no `end`, and the length of training is not known: {how}"))
}

/// Reads a first value of a schedule, a tolerance: a finite number from 0.
pub fn from_zero(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x: &f64| x.is_finite() && *x >= 0.0).ok_or("expected a number from 0".into())
}

/// Refuses keys of `custom_keys` that match none of the names, or warns where they are allowed.
pub fn unmatched<'n>(
    recipe: &Recipe,
    names: impl Iterator<Item = &'n str> + Clone,
    allowed: bool,
) -> Result<()> {
    for (rule, at) in recipe.unmatched_at(names) {
        if !allowed {
            let error = Error::Usage(format!("{rule} matches no parameter (see --allow-unmatched)"));
            return Err(Error::Within { error: error.into(), texts: Vec::new(), at: Some(at) });
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
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Error::io(Path::new("standard output"))),
    }
}

/// Writes JSON to the standard output.
pub fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&escape::json(&format!("{value:#}\n")))
}

/// How heads of tables are marked.
pub const HEAD: anstyle::Style = anstyle::Style::new().bold();

/// Returns rows as a table with aligned columns, those of numbers at the right; the first row is the head.
pub fn table(rows: &[Vec<String>]) -> String {
    let safe = |row: &Vec<String>| row.iter().map(|cell| shortened(cell)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(safe).collect();
    let Some((head, below)) = rows.split_first() else { return String::new() };
    let columns = Columns::of(&rows);
    format!("{HEAD}{}{HEAD:#}\n{}", columns.line(head), columns.lines(below))
}

/// The columns of a table: how wide each is, and whether its cells stand at the right.
#[derive(Debug)]
pub struct Columns(pub Vec<(usize, bool)>);

impl Columns {
    /// Returns those of rows; below the first one, cells say whether they are numbers.
    pub fn of(rows: &[Vec<String>]) -> Columns {
        let cells = |column: usize| rows.iter().filter_map(move |row| row.get(column));
        let width = |column: usize| cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0);
        let numbers = |column: usize| {
            let mut below = cells(column).skip(1).filter(|cell| *cell != "-").peekable();
            below.peek().is_some() && below.all(|cell| is_number(cell))
        };
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        Columns((0..columns).map(|column| (width(column), numbers(column))).collect())
    }

    /// Returns a row, without the end of a line.
    pub fn line(&self, row: &[String]) -> String {
        let cells = row.iter().zip(&self.0).map(|(cell, &(width, right))| {
            if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }

    /// Returns rows, each on a line.
    pub fn lines(&self, rows: &[Vec<String>]) -> String {
        rows.iter().map(|row| self.line(row) + "\n").collect()
    }
}

/// Returns whether a cell is a number, maybe with a unit.
fn is_number(cell: &str) -> bool {
    let (number, unit) = cell.split_once(' ').unwrap_or((cell, ""));
    number.parse::<f64>().is_ok() && (unit.is_empty() || UNITS.contains(&unit))
}

/// Units of sizes.
const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];

/// Returns how many there are of what a word names.
pub fn count(number: u64, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

/// Returns a number of bytes for people.
pub fn bytes(count: u64) -> String {
    let mut size = count as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{size:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_unit_that_fits() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(131_072_000), "125.0 MiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn a_row_is_a_line() {
        let told = table(&[vec!["name".into()], vec!["a\nb".into()]]);
        assert_eq!(told.lines().count(), 2, "{told}");
    }

    #[test]
    fn numbers_stand_at_the_right() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows =
            [row(["name", "bytes", "norm"]), row(["a", "1.5 KiB", "-"]), row(["long name", "7 B", "0.25"])];
        let told = anstream::adapter::strip_str(&table(&rows)).to_string();
        assert_eq!(told, "name         bytes  norm\na          1.5 KiB     -\nlong name      7 B  0.25\n");
    }
}
