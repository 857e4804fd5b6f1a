//! The losses of searches over their steps.

use super::axis::Axis;
use super::colour::BLUE;
use super::figure::{Figure, Frame, Stroke};
use super::legend::{self, COLUMN, LEGEND_LEFT, stroke};
use super::panel::Panel;
use super::search::{Trace, entries, titles};
use super::thin::{Point, downsampled, finite};

/// Where the curve of one search is.
const FRAME: Frame = Frame { left: 92.0, top: 112.0, right: 932.0, bottom: 622.0 };
/// A loss above the start's by more than this factor is outside of the picture.
const RISE: f64 = 1e3;

/// Returns the picture of the losses at the start and after each step.
pub fn draw(problem: &str, traces: &[Trace<'_>]) -> String {
    let (title, lines) = titles(problem, traces);
    let mut figure = Figure::new(&title, &lines);
    let alone = traces.len() == 1;
    let frame = if alone { FRAME } else { Frame { right: LEGEND_LEFT, ..FRAME } };
    let curves: Vec<Vec<Point>> = traces.iter().map(|trace| finite(trace.losses)).collect();
    let steps = traces.iter().map(Trace::steps).max().unwrap_or(0) as u64;
    let panel = Panel { frame, across: Axis::count(steps), up: scale(&curves) };
    panel.grid(&mut figure);
    figure.clipped(frame.with_dots(), |figure| {
        for (index, curve) in curves.iter().enumerate() {
            let stroke = if alone { Stroke::new(BLUE, 2.4) } else { stroke(index, 2.4) };
            panel.curve(figure, &downsampled(curve), &stroke);
            if steps <= 40 {
                panel.dots(figure, curve, 3.5, &stroke.colour);
            }
        }
        for step in traces.iter().filter_map(|trace| trace.diverged_at) {
            panel.diverged(figure, step);
        }
    });
    let name = if panel.up.is_logarithmic() { "loss, logarithmic" } else { "loss" };
    panel.axes(&mut figure, Some("step"), Some(name));
    if !alone {
        legend::list(&mut figure, &entries(traces), COLUMN);
    }
    if curves.iter().all(Vec::is_empty) {
        panel.empty(&mut figure);
    }
    figure.into_svg()
}

/// Returns the scale of the losses: logarithmic where they change by a factor of 30 or more and none is negative. What
/// rises far above the start is cut off.
fn scale(curves: &[Vec<Point>]) -> Axis {
    let values = || curves.iter().flatten().map(|(_, value)| *value);
    let first = curves.iter().filter_map(|curve| curve.first()).map(|(_, value)| value.abs());
    let ceiling = RISE * first.fold(f64::MIN_POSITIVE, f64::max);
    let highest = values().fold(f64::NEG_INFINITY, f64::max).min(ceiling);
    let lowest = values().fold(f64::INFINITY, f64::min).max(-ceiling);
    let positive = values().filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
    if lowest >= 0.0 && highest >= 30.0 * positive {
        return Axis::logarithmic(positive, highest);
    }
    let bottom = lowest.min(0.0);
    match highest > bottom {
        true => Axis::even(bottom, highest + 0.04 * (highest - bottom), 6.0, ""),
        false => Axis::even(0.0, 1.0, 5.0, ""),
    }
}
