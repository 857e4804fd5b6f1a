//! What `bench` shows while it measures, and what it says at the end.

use super::Row;
use crate::common::{Columns, HEAD, is_quiet, print};
use crate::error::Result;
use crate::escape::shortened;
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The columns below which there are numbers, and room for them.
const NUMBERS: [(&str, usize); 8] = [
    ("elements", 12),
    ("threads", 7),
    ("bytes/element", 13),
    ("state bytes/param", 17),
    ("ns/element", 10),
    ("GB/s", 7),
    ("roofline", 8),
    ("huge pages", 10),
];

/// Others that the summary names one by one.
const NAMED: usize = 5;

/// A bar on standard error, and rows on standard output as they come.
pub struct Progress {
    bar: ProgressBar,
    interrupted: Arc<AtomicBool>,
    columns: Columns,
    /// Rows are printed at the end, as JSON.
    json: bool,
}

impl Progress {
    /// Starts the bar, and waits for Ctrl-C.
    pub fn new(names: &[String], json: bool) -> Progress {
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&interrupted);
        // Where there is no way to catch Ctrl-C, it ends the program; the rows that are printed remain.
        ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)).ok();
        let bar = if is_quiet() { ProgressBar::hidden() } else { ProgressBar::new(names.len() as u64) };
        let style = ProgressStyle::with_template("{pos}/{len} {bar:30} {eta} left, {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let widest = names.iter().map(|name| shortened(name).chars().count()).max().unwrap_or(0);
        let numbers = NUMBERS.map(|(_, width)| (width, true));
        let columns = Columns([(widest.max(4), false)].into_iter().chain(numbers).collect());
        Progress { bar, interrupted, columns, json }
    }

    /// Returns whether Ctrl-C was pressed.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Prints the head of the table.
    pub fn head(&self) -> Result<()> {
        if self.json {
            return Ok(());
        }
        let head = ["name"].into_iter().chain(NUMBERS.map(|(name, _)| name));
        let line = self.columns.line(&head.map(str::to_owned).collect::<Vec<_>>());
        self.bar.suspend(|| print(&format!("{HEAD}{line}{HEAD:#}\n")))
    }

    /// Says what is measured now.
    pub fn begins(&self, name: &str) {
        self.bar.set_message(shortened(name));
        self.bar.tick();
    }

    /// Prints a row.
    pub fn ends(&self, row: &Row) -> Result<()> {
        self.bar.inc(1);
        match self.json {
            true => Ok(()),
            false => self.bar.suspend(|| print(&format!("{}\n", self.columns.line(&cells(row))))),
        }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn cells(row: &Row) -> Vec<String> {
    vec![
        shortened(&row.name),
        row.elements.to_string(),
        row.threads.map_or("-".into(), |threads| threads.to_string()),
        format!("{:.1}", row.bytes_per_element),
        format!("{:.2}", row.state_bytes_per_param),
        format!("{:.4}", row.ns_per_element),
        format!("{:.1}", row.gb_per_s()),
        format!("{:.3}", row.roofline()),
        row.roofline_huge().map_or("-".into(), |share| format!("{share:.3}")),
    ]
}

/// Returns a sentence that compares the rows with the fastest of them.
pub fn summary(rows: &[Row]) -> String {
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by(|a, b| a.ns_per_element.total_cmp(&b.ns_per_element));
    let Some((fastest, others)) = sorted.split_first() else { return String::new() };
    // An optimizer is not compared with itself.
    let others: Vec<&Row> = others.iter().copied().filter(|row| row.name != fastest.name).collect();
    let ratio = |row: &Row| {
        let ratio = row.ns_per_element / fastest.ns_per_element;
        (ratio, ratio * row.spread.hypot(fastest.spread))
    };
    let is_same = |row: &Row| {
        let (ratio, error) = ratio(row);
        ratio - error <= 1.0
    };
    let faster = |row: &Row| match (ratio(row), shortened(&row.name)) {
        ((ratio, error), name) if is_same(row) => {
            format!("no difference from {name} ({ratio:.2} ± {error:.2})")
        }
        ((ratio, error), name) => format!("{ratio:.2} ± {error:.2} times as fast as {name}"),
    };
    let is = match others.iter().any(|row| is_same(row)) {
        true => "is among the fastest",
        false => "is the fastest",
    };
    let told = match &others[..] {
        [] if sorted.len() > 1 => return String::new(),
        [] => format!("runs at {:.0}% of the speed of a plain pass", 100.0 * fastest.roofline()),
        [next, .., last] if others.len() > NAMED => {
            format!("{is}: {}, the next one, and {}, the slowest", faster(next), faster(last))
        }
        few => {
            let each = few.iter().map(|row| faster(row)).collect::<Vec<_>>();
            format!("{is}: {}", each.join(", "))
        }
    };
    format!("\n{} {told}\n", shortened(&fastest.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, ns_per_element: f64) -> Row {
        Row {
            name: name.into(),
            elements: 1,
            threads: None,
            isa: None,
            device: "cpu".into(),
            emulated: false,
            layout: "flat",
            dtype: "f32",
            bytes_per_element: 28.0,
            state_bytes_per_param: 8.0,
            ns_per_element,
            spread: 0.01,
            plain_ns_per_element: 0.5,
            pages: None,
            huge_ns_per_element: None,
        }
    }

    #[test]
    fn the_fastest_is_compared_with_the_others() {
        assert_eq!(summary(&[]), "");
        assert_eq!(summary(&[row("SGD", 1.0)]), "\nSGD runs at 50% of the speed of a plain pass\n");
        let told = summary(&[row("LAMB", 3.0), row("SGD", 1.0)]);
        assert_eq!(told, "\nSGD is the fastest: 3.00 ± 0.04 times as fast as LAMB\n");
        assert_eq!(summary(&[row("SGD", 1.0), row("SGD", 1.2)]), "");
        let told = summary(&[row("SGD", 1.0), row("Lion", 1.01), row("LAMB", 3.0)]);
        let both = "no difference from Lion (1.01 ± 0.01), 3.00 ± 0.04 times as fast as LAMB";
        assert_eq!(told, format!("\nSGD is among the fastest: {both}\n"));
        let many: Vec<Row> = (1..=9).map(|i| row(&format!("O{i}"), f64::from(i))).collect();
        let told = summary(&many);
        assert!(told.contains("as fast as O2, the next one, and 9.00 ± 0.13 times as fast as O9"), "{told}");
    }
}
