//! The values of scheduled hyperparameters, a panel each.

use super::axis::Axis;
use super::figure::{Figure, Frame, HEIGHT};
use super::legend::{self, COLUMN, Entry, LEGEND_LEFT, stroke};
use super::panel::Panel;
use super::thin::{Point, downsampled, extremes, finite, stepped};
use crate::label::Label;

/// The values that a schedule gives a hyperparameter.
#[derive(Debug)]
pub struct Series<'a> {
    /// Which schedule, among those of the picture.
    pub index: usize,
    pub values: &'a [f64],
}

/// The heading of the picture of schedules.
#[derive(Debug)]
pub struct Heading {
    pub title: String,
    pub lines: Vec<String>,
    /// What the picture calls the lower axis.
    pub across: String,
}

/// Returns the picture of hyperparameters: of each its name, and a curve for each schedule.
pub fn draw(heading: &Heading, labels: &[&Label], panels: &[(String, Vec<Series<'_>>)]) -> String {
    let mut figure = Figure::new(&heading.title, &heading.lines);
    let first = 88.0 + 20.0 * heading.lines.len().saturating_sub(1) as f64;
    let tall = (HEIGHT - 56.0 - first) / panels.len().max(1) as f64;
    let right = if labels.len() > 1 { LEGEND_LEFT } else { 932.0 };
    for (index, (name, series)) in panels.iter().enumerate() {
        let top = first + tall * index as f64 + 24.0;
        let frame = Frame { left: 92.0, top, right, bottom: first + tall * (index + 1) as f64 - 8.0 };
        let lowest = index + 1 == panels.len();
        panel(&mut figure, frame, name, series, lowest.then_some(heading.across.as_str()));
    }
    if labels.len() > 1 {
        let entry = |label| Entry { label, end: String::new(), failed: false };
        let entries: Vec<Entry<'_>> = labels.iter().copied().map(entry).collect();
        legend::list(&mut figure, &entries, Frame { top: first + 16.0, ..COLUMN });
    }
    figure.into_svg()
}

fn panel(figure: &mut Figure, frame: Frame, name: &str, series: &[Series<'_>], across: Option<&str>) {
    let curves: Vec<Vec<Point>> = series.iter().map(|series| finite(series.values)).collect();
    let (least, most) = extremes(&curves.concat());
    // A value that never changes has room above and below it.
    let room = if most > least { 0.06 * (most - least) } else { most.abs().max(1e-3) };
    // A change that is small compared with the value is seen better without the zero.
    let bottom = if least > 0.6 * most && most > least { least - room } else { least.min(0.0) };
    let steps = series.iter().map(|series| series.values.len()).max().unwrap_or(1) as u64;
    let panel = Panel {
        frame,
        across: Axis::count(steps.saturating_sub(1)),
        up: Axis::even(bottom, most + room, 6.0, ""),
    };
    panel.grid(figure);
    figure.clipped(frame.with_dots(), |figure| {
        for (curve, series) in curves.iter().zip(series) {
            let stroke = stroke(series.index, 2.4);
            panel.curve(figure, &downsampled(&stepped(curve)), &stroke);
            if curve.len() <= 40 {
                panel.dots(figure, curve, 3.2, &stroke.colour);
            }
        }
    });
    panel.axes(figure, across, None);
    panel.heading(figure, name, &[]);
    if curves.iter().all(Vec::is_empty) {
        panel.empty(figure);
    }
}
