//! What a run shows of itself while it trains: one line, which fits into any terminal.

use crate::error::Error;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::path::Path;
use std::time::Instant;

/// The bar, and how long training takes.
pub struct Progress {
    bar: ProgressBar,
    /// What the line says after the steps.
    message: String,
}

impl Progress {
    /// Begins a bar of so many steps, of which `done` are taken; one that is not `shown` draws nothing.
    pub fn new(steps: u64, done: u64, message: String, shown: bool) -> Progress {
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Progress::on(target, steps, done, message)
    }

    fn on(target: ProgressDrawTarget, steps: u64, done: u64, message: String) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(steps), target);
        // The bar first, and in `wide_msg` everything that may be cut off: a line that wraps leaves rubbish behind.
        let style = ProgressStyle::with_template("{bar:12} {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position(done);
        let progress = Progress { bar, message };
        progress.tell();
        progress
    }

    /// Counts a step.
    pub fn step(&self) {
        self.bar.inc(1);
        self.tell();
    }

    /// Says how the last test went.
    pub fn tested(&mut self, epoch: u64, accuracy: f64, loss: f32) {
        self.message = format!("test accuracy {:.1}%, test loss {loss:.4}, epoch {epoch}", 100.0 * accuracy);
        self.tell();
    }

    /// Writes the line.
    fn tell(&self) {
        if self.bar.is_hidden() {
            return;
        }
        let (done, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let left = self.bar.eta().as_secs();
        let left = if left >= 60 { format!("{}m{:02}s", left / 60, left % 60) } else { format!("{left}s") };
        self.bar.set_message(format!("{done}/{all}, {left} left, {}", self.message));
    }

    /// Does something that may write lines of its own.
    pub fn aside(&self, writes: impl FnOnce()) {
        self.bar.suspend(writes);
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Returns what is told where the loss is not finite since a step.
pub fn diverged_at((step, loss): (u64, f32)) -> String {
    format!("diverged at step {step}: the loss is {loss}")
}

/// Returns what is told where a run was stopped.
pub fn stopped(step: u64, folder: &Path) -> Error {
    let folder = folder.display();
    Error::Interrupted(format!("stopped at step {step}; resume with `fallline train --resume {folder}`"))
}

/// The time that a run has taken since its first step, with that of the runs that it resumes.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    before: f64,
    started: Instant,
}

impl Clock {
    /// Starts a clock at so many seconds.
    pub fn from(before: f64) -> Clock {
        Clock { before, started: Instant::now() }
    }

    /// Returns the seconds, in whole microseconds.
    pub fn seconds(&self) -> f64 {
        rounded(self.before + self.started.elapsed().as_secs_f64(), 1e6)
    }
}

/// Returns how many examples a step takes in a second, where it began then; in tenths.
pub fn throughput(examples: usize, began: Instant) -> Option<f64> {
    let seconds = began.elapsed().as_secs_f64();
    (seconds > 0.0).then(|| rounded(examples as f64 / seconds, 10.0))
}

fn rounded(number: f64, unit: f64) -> f64 {
    (number * unit).round() / unit
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::InMemoryTerm;

    /// The line fits into terminals of any width, the bar is its beginning, and losses are named.
    #[test]
    fn the_line_never_wraps() {
        for width in [16, 20, 40, 60, 80, 200] {
            let terminal = InMemoryTerm::new(10, width);
            let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
            let mut progress = Progress::on(target, 1800, 3, "AdamW on cpu (avx512, 64 threads)".into());
            for step in 0..1400 {
                progress.step();
                if step % 45 == 44 {
                    progress.tested(step / 45, 0.9722, 0.0911);
                }
            }
            // Draws in any case, however often it has drawn just now.
            progress.bar.abandon();
            let shown = terminal.contents();
            assert_eq!(shown.lines().count(), 1, "{width}: {shown}");
            assert!(
                shown.starts_with('█') && shown.chars().count() <= usize::from(width),
                "{width}: {shown}"
            );
            if width >= 80 {
                assert!(shown.contains("test loss 0.0911") && shown.contains("/1800"), "{shown}");
            }
            progress.finish();
            assert_eq!(terminal.contents(), "", "{width}: nothing stays behind");
        }
    }
}
