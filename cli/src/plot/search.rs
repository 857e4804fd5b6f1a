//! What pictures show of a search: one optimizer's way on a function, or those of several.

use super::legend::Entry;
use super::thin::Point;
use crate::label::Label;
use crate::numbers::short;

/// What an optimizer did.
#[derive(Debug)]
pub struct Trace<'a> {
    pub label: &'a Label,
    /// The place at the start and after each step, of two variables.
    pub way: Vec<Point>,
    /// The loss at the start and after each step.
    pub losses: &'a [f64],
    /// The step after which nothing was finite any more.
    pub diverged_at: Option<u64>,
}

impl Trace<'_> {
    /// Returns how many steps were taken.
    pub fn steps(&self) -> usize {
        self.losses.len().saturating_sub(1)
    }

    /// Returns how it ended, in a few words.
    pub fn end(&self) -> String {
        match (self.diverged_at, self.losses.last()) {
            (Some(step), _) => format!("diverged at step {step}"),
            (None, Some(loss)) => format!("loss {}", short(*loss, 4)),
            (None, None) => String::new(),
        }
    }
}

/// Returns the title, and the lines below it.
pub fn titles(problem: &str, traces: &[Trace<'_>]) -> (String, Vec<String>) {
    let steps = traces.iter().map(Trace::steps).max().unwrap_or(0);
    let told = format!("{steps} step{}", if steps == 1 { "" } else { "s" });
    let first = traces.iter().find_map(|trace| trace.losses.first());
    let from = first.map_or_else(String::new, |loss| format!(", from loss {}", short(*loss, 4)));
    match traces {
        [trace] => {
            let ends = match trace.diverged_at {
                Some(step) => format!("diverged at step {step} of {steps}{from}"),
                None => format!("{} after {told}{from}", trace.end()),
            };
            let lines = [trace.label.settings.clone(), ends].into_iter().filter(|line| !line.is_empty());
            (format!("{} on {problem}", trace.label.name), lines.collect())
        }
        _ => (format!("{} optimizers on {problem}", traces.len()), vec![format!("{told}{from}")]),
    }
}

/// Returns what the legend says of the traces.
pub fn entries<'a>(traces: &'a [Trace<'_>]) -> Vec<Entry<'a>> {
    let entry = |trace: &'a Trace<'_>| {
        let (end, failed) = (trace.end(), trace.diverged_at.is_some());
        Entry { label: trace.label, end, failed }
    };
    traces.iter().map(entry).collect()
}
