//! `loss.svg`: the training loss of every step above the test accuracy of every epoch.

mod axis;
mod trajectory;
mod values;

pub use trajectory::{loss, path};
pub use values::values;

use crate::run_folder::{Record, replace};
use axis::Axis;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

/// Width and height of the grid that the picture is drawn on, two points to a pixel: the library only has whole ones.
const GRID: (u32, u32) = (1920, 1360);
/// The points of a curve that are drawn at most: beyond them, the extremes of as many stretches.
const MOST_POINTS: usize = 2400;
/// The colour of titles and numbers.
const INK: RGBColor = RGBColor(38, 43, 51);
/// The colour of what explains.
const GREY: RGBColor = RGBColor(99, 107, 118);
/// The colour of the lines at the marks.
const FAINT: RGBColor = RGBColor(229, 232, 236);
/// The colour of the loss of a step beside the smoothed loss.
const PALE: RGBColor = RGBColor(158, 197, 232);
/// The colour of the loss.
const BLUE: RGBColor = RGBColor(23, 92, 164);
/// The colour of the accuracy.
const GREEN: RGBColor = RGBColor(15, 124, 88);

/// Why a plot was not written.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// The plotting library refused.
    #[error("the plot cannot be drawn: {0}")]
    Draw(String),
    /// The file cannot be written; the error names it.
    #[error(transparent)]
    Write(#[from] std::io::Error),
}

/// Draws the records as an SVG, which replaces the file at `path` when it is whole.
///
/// The loss has a logarithmic axis where its mean changes by a factor of 30 or more. Numbers that are not finite
/// are left out and counted below the title.
///
/// # Errors
/// [`PlotError`] where the picture cannot be drawn or written.
pub fn loss_and_accuracy(path: &Path, records: &[Record]) -> Result<(), PlotError> {
    written(path, |svg| draw(svg, &Curves::new(records)))
}

/// Draws a picture and writes it, at half the size of its grid.
fn written(path: &Path, draw: impl FnOnce(&mut String) -> Result<(), Failure>) -> Result<(), PlotError> {
    let mut svg = String::new();
    draw(&mut svg).map_err(|error| PlotError::Draw(error.to_string()))?;
    let size = |(width, height): (u32, u32)| format!("<svg width=\"{width}\" height=\"{height}\"");
    let svg = svg.replacen(&size(GRID), &size((GRID.0 / 2, GRID.1 / 2)), 1);
    replace(path, svg.as_bytes())?;
    Ok(())
}

/// Why a piece was not drawn.
type Failure = Box<dyn std::error::Error>;
/// A part of the picture.
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// A step and a value there.
type Point = (f64, f64);

/// What is drawn.
#[derive(Debug, Default)]
struct Curves {
    /// The finite losses.
    loss: Vec<Point>,
    /// The finite accuracies, in percent.
    accuracy: Vec<Point>,
    /// How many numbers were not finite.
    skipped: u64,
    /// The last step of all.
    last_step: u64,
    /// The epochs that ended.
    epochs: u64,
}

impl Curves {
    /// Sorts the records into curves.
    fn new(records: &[Record]) -> Self {
        let mut curves = Curves::default();
        for record in records {
            curves.last_step = curves.last_step.max(record.step());
            let (curve, value) = match record {
                Record::Step { loss, .. } => (&mut curves.loss, f64::from(*loss)),
                Record::Epoch { test_accuracy, .. } => {
                    curves.epochs += 1;
                    (&mut curves.accuracy, 100.0 * test_accuracy)
                }
            };
            if value.is_finite() { curve.push((record.step() as f64, value)) } else { curves.skipped += 1 }
        }
        curves
    }

    /// Returns the line below the title.
    fn summary(&self) -> String {
        let count = |n: u64, thing: &str| format!("{n} {thing}{}", if n == 1 { "" } else { "s" });
        let mut parts = vec![count(self.last_step, "step"), count(self.epochs, "epoch")];
        parts.extend(self.accuracy.last().map(|(_, percent)| format!("test accuracy {percent:.1}%")));
        if self.skipped > 0 {
            parts.push(count(self.skipped, "value") + " not finite, left out");
        }
        parts.join("  ·  ")
    }
}

/// Draws the whole picture.
fn draw(svg: &mut String, curves: &Curves) -> Result<(), Failure> {
    let root = SVGBackend::with_string(svg, GRID).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw_text("Training loss and test accuracy", &text(44, &INK), (48, 64))?;
    root.draw_text(&curves.summary(), &text(32, &GREY), (48, 118))?;
    let (_, panels) = root.split_vertically(150);
    let (upper, lower) = panels.split_vertically(646);
    let steps = Axis::even(0.0, curves.last_step.max(1) as f64 * 1.015, 8.0, "").whole();
    draw_loss(&upper, &curves.loss, steps.clone().bare())?;
    draw_accuracy(&lower, &curves.accuracy, steps)?;
    root.present()?;
    Ok(())
}

/// Draws the upper panel.
fn draw_loss(area: &Area<'_>, loss: &[Point], steps: Axis) -> Result<(), Failure> {
    let half = loss.len() / 80;
    let smooth = smoothed(loss, half);
    let ((least, most), (lowest, highest)) = (extremes(&smooth), extremes(loss));
    let logarithmic = least > 0.0 && lowest >= 0.0 && most >= 30.0 * least;
    // A batch may be all but certain: a loss far below every mean is drawn at the lower edge.
    let floor = least / 100.0;
    let height = |value: f64| if logarithmic { value.max(floor).log10() } else { value };
    let bottom = lowest.min(0.0);
    let values = match highest > bottom {
        true if logarithmic => Axis::logarithmic(lowest.max(floor), highest),
        true => Axis::even(bottom, highest + 0.04 * (highest - bottom), 5.0, ""),
        false => Axis::even(0.0, 1.0, 5.0, ""),
    };
    let mut chart = panel(area, steps, values, "", 24)?;
    let placed = |curve: Vec<Point>| curve.into_iter().map(move |(step, value)| (step, height(value)));
    let (colour, width) = if half > 0 { (PALE, 2) } else { (BLUE, 4) };
    chart.draw_series(LineSeries::new(placed(downsampled(loss)), colour.stroke_width(width)))?;
    if loss.len() <= 40 {
        chart.draw_series(placed(loss.to_vec()).map(|place| Circle::new(place, 7, BLUE.filled())))?;
    }
    let mut lines = vec![("loss of each step".to_owned(), colour)];
    if half > 0 {
        chart.draw_series(LineSeries::new(placed(smooth), BLUE.stroke_width(5)))?;
        lines.push((format!("mean over {} steps", 2 * half + 1), BLUE));
    }
    let name = if logarithmic { "Training loss, logarithmic" } else { "Training loss" };
    heading(area, name, &lines, loss.is_empty())
}

/// Draws the lower panel.
fn draw_accuracy(area: &Area<'_>, accuracy: &[Point], steps: Axis) -> Result<(), Failure> {
    let least = extremes(accuracy).0;
    let bottom = [95.0, 90.0, 80.0, 50.0].into_iter().find(|bottom| least >= *bottom).unwrap_or(0.0);
    let values = Axis::even(bottom, 100.0 + (100.0 - bottom) * 0.05, 5.3, "%");
    let mut chart = panel(area, steps, values, "step", 100)?;
    let curve = downsampled(accuracy);
    chart.draw_series(LineSeries::new(curve.clone(), GREEN.stroke_width(4)))?;
    if curve.len() <= 80 {
        chart.draw_series(curve.into_iter().map(|place| Circle::new(place, 7, GREEN.filled())))?;
    }
    heading(area, "Test accuracy", &[("after each epoch".to_owned(), GREEN)], accuracy.is_empty())
}

/// An empty panel with its marks, and the name of the lower axis in so much room below.
fn panel<'a, 'b>(
    area: &'b Area<'a>,
    steps: Axis,
    values: Axis,
    name: &str,
    below: u32,
) -> Result<ChartContext<'b, SVGBackend<'a>, Cartesian2d<Axis, Axis>>, Failure> {
    let mut builder = ChartBuilder::on(area);
    builder.margin_right(56).margin_top(72).margin_bottom(12).y_label_area_size(148).x_label_area_size(below);
    let mut chart = builder.build_cartesian_2d(steps, values)?;
    chart
        .configure_mesh()
        .bold_line_style(FAINT.stroke_width(2))
        .axis_style(GREY.stroke_width(2))
        .set_all_tick_mark_size(8)
        .label_style(text(30, &INK))
        .axis_desc_style(text(32, &GREY))
        .x_desc(name)
        .draw()?;
    Ok(chart)
}

/// What stands above a panel: its name and its lines', or in the panel a word that there are none.
fn heading(area: &Area<'_>, name: &str, lines: &[(String, RGBColor)], empty: bool) -> Result<(), Failure> {
    area.draw_text(name, &text(32, &GREY), (148, 38))?;
    if empty {
        let (width, height) = area.dim_in_pixel();
        let centred = text(32, &GREY).pos(Pos::new(HPos::Center, VPos::Center));
        area.draw_text("nothing to draw yet", &centred, (width as i32 / 2 + 46, height as i32 / 2))?;
        return Ok(());
    }
    // The last is at the right, the one before it as far to the left as the longest text needs.
    for ((line, colour), x) in lines.iter().rev().zip([1436, 1036]) {
        area.draw(&PathElement::new(vec![(x, 38), (x + 60, 38)], colour.stroke_width(6)))?;
        area.draw_text(line, &text(30, &INK), (x + 76, 38))?;
    }
    Ok(())
}

/// Text of this height and colour, placed by the left end of its middle line.
fn text(height: u32, colour: &RGBColor) -> TextStyle<'_> {
    // The library divides by 1.24.
    (FontFamily::SansSerif, f64::from(height) * 1.24)
        .with_color(colour)
        .into_text_style(&GRID)
        .pos(Pos::new(HPos::Left, VPos::Center))
}

/// Returns the smallest and the largest value; an empty range of 0 where there are none.
fn extremes(curve: &[Point]) -> Point {
    let values = curve.iter().map(|(_, value)| *value);
    values
        .fold(None, |ends: Option<Point>, value| {
            Some(ends.map_or((value, value), |(least, most)| (least.min(value), most.max(value))))
        })
        .unwrap_or_default()
}

/// Means of each value with the `half` values before and after it, as far as there are any; at about
/// [`MOST_POINTS`] places at most.
fn smoothed(curve: &[Point], half: usize) -> Vec<Point> {
    let places = (0..curve.len()).step_by(curve.len().div_ceil(MOST_POINTS).max(1));
    let last = curve.len().checked_sub(1);
    let mean = |place: usize| {
        let near = &curve[place.saturating_sub(half)..curve.len().min(place + half + 1)];
        (curve[place].0, near.iter().map(|(_, value)| value).sum::<f64>() / near.len() as f64)
    };
    places.filter(|place| Some(*place) != last).chain(last).map(mean).collect()
}

/// Returns the curve with at most about [`MOST_POINTS`]: of each stretch, its lowest and its highest point.
fn downsampled(curve: &[Point]) -> Vec<Point> {
    if curve.len() <= MOST_POINTS {
        return curve.to_vec();
    }
    let stretches = curve.chunks(curve.len().div_ceil(MOST_POINTS / 2));
    stretches
        .flat_map(|stretch| {
            let by_value = |a: &&Point, b: &&Point| a.1.total_cmp(&b.1);
            let ends = [stretch.iter().min_by(by_value), stretch.iter().max_by(by_value)];
            let mut ends: Vec<Point> = ends.into_iter().flatten().copied().collect();
            ends.sort_by(|a, b| a.0.total_cmp(&b.0));
            ends
        })
        .collect()
}

#[cfg(test)]
mod tests;
