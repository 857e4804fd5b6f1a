//! `loss.svg`: the losses of a training run, the accuracy on the test set, and the learning rate.

use super::axis::Axis;
use super::colour::{BLUE, GREEN, ORANGE, PALE, PURPLE};
use super::figure::{Figure, Frame, Stroke};
use super::panel::Panel;
use super::thin::{Point, downsampled, extremes, smoothed};
use crate::label::Label;
use crate::run_folder::Record;
use std::time::Duration;

/// The panels, from above.
const LOSS: Frame = Frame { left: 92.0, top: 122.0, right: 932.0, bottom: 336.0 };
const ACCURACY: Frame = Frame { left: 92.0, top: 376.0, right: 932.0, bottom: 488.0 };
const RATE: Frame = Frame { left: 92.0, top: 528.0, right: 932.0, bottom: 628.0 };

/// What is drawn.
#[derive(Debug, Default)]
struct Curves {
    /// The finite losses of batches.
    loss: Vec<Point>,
    /// The finite losses over the test set.
    test_loss: Vec<Point>,
    /// The finite accuracies on the test set, in percent.
    accuracy: Vec<Point>,
    /// The finite learning rates.
    rate: Vec<Point>,
    /// How many numbers were not finite.
    skipped: u64,
    /// The last step of all.
    last_step: u64,
    /// The epochs that ended.
    epochs: u64,
    /// The seconds that it took.
    time: Option<f64>,
}

impl Curves {
    /// Sorts the records into curves.
    fn new(records: &[Record]) -> Self {
        let mut curves = Curves::default();
        for record in records {
            let step = record.step();
            curves.last_step = curves.last_step.max(step);
            curves.time = record.time().or(curves.time);
            let mut add = |curve: fn(&mut Curves) -> &mut Vec<Point>, value: f64| match value.is_finite() {
                true => curve(&mut curves).push((step as f64, value)),
                false => curves.skipped += 1,
            };
            match record {
                Record::Step { loss, lr, .. } => {
                    add(|curves| &mut curves.loss, f64::from(*loss));
                    add(|curves| &mut curves.rate, *lr);
                }
                Record::Epoch { test_accuracy, test_loss, .. } => {
                    add(|curves| &mut curves.accuracy, 100.0 * test_accuracy);
                    add(|curves| &mut curves.test_loss, f64::from(*test_loss));
                    curves.epochs += 1;
                }
            }
        }
        curves
    }

    /// Returns the line that says how it went.
    fn summary(&self) -> String {
        let count = |n: u64, thing: &str| format!("{n} {thing}{}", if n == 1 { "" } else { "s" });
        let mut parts = vec![count(self.last_step, "step"), count(self.epochs, "epoch")];
        parts.extend(self.time.map(|seconds| format!("{:.1?}", Duration::from_secs_f64(seconds))));
        parts.extend(self.test_loss.last().map(|(_, loss)| format!("test loss {loss:.4}")));
        parts.extend(self.accuracy.last().map(|(_, percent)| format!("test accuracy {percent:.1}%")));
        if self.skipped > 0 {
            parts.push(count(self.skipped, "value") + " not finite, left out");
        }
        parts.join("  ·  ")
    }
}

/// Returns the picture of a run: what trains on what, and its records.
///
/// The loss has a logarithmic axis where its mean changes by a factor of 30 or more. Numbers that are not finite
/// are left out and counted below the title.
pub fn draw(label: &Label, data: &str, records: &[Record]) -> String {
    let curves = Curves::new(records);
    let lines = [label.settings.clone(), curves.summary()];
    let lines: Vec<String> = lines.into_iter().filter(|line| !line.is_empty()).collect();
    let mut figure = Figure::new(&format!("{} on {data}", label.name), &lines);
    let steps = Axis::count(curves.last_step);
    losses(&mut figure, &curves, steps.clone());
    accuracy(&mut figure, &curves.accuracy, steps.clone());
    rate(&mut figure, &curves.rate, steps);
    figure.into_svg()
}

fn losses(figure: &mut Figure, curves: &Curves, across: Axis) {
    let loss = &curves.loss;
    let half = loss.len() / 80;
    let smooth = smoothed(loss, half);
    let means: Vec<Point> = smooth.iter().chain(&curves.test_loss).copied().collect();
    let ((least, most), (lowest, highest)) = (extremes(&means), extremes(&[loss, &means[..]].concat()));
    let logarithmic = least > 0.0 && lowest >= 0.0 && most >= 30.0 * least;
    let bottom = lowest.min(0.0);
    let up = match highest > bottom {
        // A batch may be all but certain: a loss far below every mean is drawn at the lower edge.
        true if logarithmic => Axis::logarithmic(lowest.max(least / 100.0), highest),
        true => Axis::even(bottom, highest + 0.04 * (highest - bottom), 5.0, ""),
        false => Axis::even(0.0, 1.0, 5.0, ""),
    };
    let panel = Panel { frame: LOSS, across, up };
    panel.grid(figure);
    let raw = if half > 0 { Stroke::new(PALE, 1.0) } else { Stroke::new(BLUE, 2.0) };
    let tested = Stroke::new(ORANGE, 2.0);
    figure.clipped(LOSS.with_dots(), |figure| {
        panel.curve(figure, &downsampled(loss), &raw);
        if loss.len() <= 40 {
            panel.dots(figure, loss, 3.5, BLUE);
        }
        if half > 0 {
            panel.curve(figure, &smooth, &Stroke::new(BLUE, 2.4));
        }
        panel.curve(figure, &downsampled(&curves.test_loss), &tested);
        if curves.test_loss.len() <= 80 {
            panel.dots(figure, &curves.test_loss, 3.2, ORANGE);
        }
    });
    panel.axes(figure, None, None);
    let mut lines = vec![("training loss of each step".to_owned(), raw)];
    if half > 0 {
        lines.push((format!("its mean over {} steps", 2 * half + 1), Stroke::new(BLUE, 2.4)));
    }
    if !curves.test_loss.is_empty() {
        lines.push(("test loss".to_owned(), tested));
    }
    let shown = if loss.is_empty() { &[][..] } else { &lines };
    panel.heading(figure, if logarithmic { "loss, logarithmic" } else { "loss" }, shown);
    if means.is_empty() {
        panel.empty(figure);
    }
}

fn accuracy(figure: &mut Figure, accuracy: &[Point], across: Axis) {
    let least = extremes(accuracy).0;
    let bottom = [95.0, 90.0, 80.0, 50.0].into_iter().find(|bottom| least >= *bottom).unwrap_or(0.0);
    let up = Axis::even(bottom, 100.0 + (100.0 - bottom) * 0.05, 4.2, "%");
    let panel = Panel { frame: ACCURACY, across, up };
    panel.grid(figure);
    figure.clipped(ACCURACY.with_dots(), |figure| {
        let curve = downsampled(accuracy);
        panel.curve(figure, &curve, &Stroke::new(GREEN, 2.0));
        if curve.len() <= 80 {
            panel.dots(figure, &curve, 3.2, GREEN);
        }
    });
    panel.axes(figure, None, None);
    panel.heading(figure, "test accuracy after each epoch", &[]);
    if accuracy.is_empty() {
        panel.empty(figure);
    }
}

fn rate(figure: &mut Figure, rate: &[Point], across: Axis) {
    let most = extremes(rate).1;
    let up = Axis::even(0.0, if most > 0.0 { 1.06 * most } else { 1.0 }, 3.0, "");
    let panel = Panel { frame: RATE, across, up };
    panel.grid(figure);
    figure.clipped(RATE.with_dots(), |figure| {
        panel.curve(figure, &downsampled(rate), &Stroke::new(PURPLE, 2.0))
    });
    panel.axes(figure, Some("step"), None);
    panel.heading(figure, "learning rate", &[]);
    if rate.is_empty() {
        panel.empty(figure);
    }
}
