//! The way of a search over the contours of a function of two variables, and the loss of one of more.

use super::axis::Axis;
use super::{BLUE, Failure, GREY, GRID, INK, PlotError, Point, draw_loss, extremes, text, written};
use plotters::prelude::*;
use std::path::Path;

/// Cells of the picture of the function, across and down.
const CELLS: (usize, usize) = (160, 120);
/// Shades of the function's values.
const SHADES: usize = 24;

/// Draws the way over the function's values, darker where they are higher, as an SVG.
///
/// # Errors
/// [`PlotError`] where the picture cannot be drawn or written.
pub fn path(
    file: &Path,
    title: &str,
    way: &[Point],
    value: impl Fn(f64, f64) -> f64,
) -> Result<(), PlotError> {
    written(file, |svg| draw_path(svg, title, way, value))
}

/// Draws the loss before each step, as an SVG.
///
/// # Errors
/// [`PlotError`] where the picture cannot be drawn or written.
pub fn loss(file: &Path, title: &str, losses: &[f64]) -> Result<(), PlotError> {
    let points = losses.iter().enumerate().filter(|(_, loss)| loss.is_finite());
    let points: Vec<Point> = points.map(|(step, loss)| (step as f64, *loss)).collect();
    written(file, |svg| {
        let root = SVGBackend::with_string(svg, GRID).into_drawing_area();
        root.fill(&WHITE)?;
        root.draw_text(title, &text(44, &INK), (48, 64))?;
        let (_, area) = root.split_vertically(150);
        let steps = Axis::even(0.0, losses.len().max(1) as f64 * 1.015, 8.0, "").whole();
        draw_loss(&area, &points, steps)?;
        root.present()?;
        Ok(())
    })
}

fn draw_path(
    svg: &mut String,
    title: &str,
    way: &[Point],
    value: impl Fn(f64, f64) -> f64,
) -> Result<(), Failure> {
    let way: Vec<Point> = way.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let flipped: Vec<Point> = way.iter().map(|&(x, y)| (y, x)).collect();
    // Room around the way, at least one unit.
    let around = |(least, most): Point| {
        let room = (0.2 * (most - least)).max(0.5);
        (least - room, most + room)
    };
    let ((left, right), (low, high)) = (around(extremes(&flipped)), around(extremes(&way)));
    let root = SVGBackend::with_string(svg, GRID).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw_text(title, &text(44, &INK), (48, 64))?;
    let (_, area) = root.split_vertically(110);
    let mut builder = ChartBuilder::on(&area);
    builder.margin(24).margin_right(56).y_label_area_size(148).x_label_area_size(100);
    let mut chart =
        builder.build_cartesian_2d(Axis::even(left, right, 7.0, ""), Axis::even(low, high, 6.0, ""))?;
    let (wide, tall) = ((right - left) / CELLS.0 as f64, (high - low) / CELLS.1 as f64);
    let at = |i: usize, j: usize| value(left + wide * (i as f64 + 0.5), low + tall * (j as f64 + 0.5));
    let values: Vec<Point> = (0..CELLS.0 * CELLS.1)
        .map(|k| (0.0, at(k % CELLS.0, k / CELLS.0)))
        .filter(|v| v.1.is_finite())
        .collect();
    // Shades by the logarithm of the height above the lowest cell: valleys are long and flat.
    let (least, most) = extremes(&values);
    let unit = ((most - least) * 1e-4).max(f64::MIN_POSITIVE);
    let depth = |v: f64| ((v - least).max(0.0) / unit).ln_1p();
    let shade = |v: f64| {
        let share = if v.is_finite() { depth(v) / depth(most).max(f64::MIN_POSITIVE) } else { 1.0 };
        let step = (share * SHADES as f64).floor() / SHADES as f64;
        let part = |light: f64, dark: f64| (light + (dark - light) * step.clamp(0.0, 1.0)) as u8;
        RGBColor(part(250.0, 120.0), part(252.0, 150.0), part(254.0, 185.0))
    };
    // Neighbours of one shade in a row are one rectangle.
    for j in 0..CELLS.1 {
        let mut start = 0;
        while start < CELLS.0 {
            let colour = shade(at(start, j));
            let end = (start + 1..CELLS.0).find(|&i| shade(at(i, j)) != colour).unwrap_or(CELLS.0);
            let corner = |i: usize, j: usize| (left + wide * i as f64, low + tall * j as f64);
            chart.draw_series([Rectangle::new([corner(start, j), corner(end, j + 1)], colour.filled())])?;
            start = end;
        }
    }
    chart
        .configure_mesh()
        .disable_mesh()
        .axis_style(GREY.stroke_width(2))
        .label_style(text(30, &GREY))
        .draw()?;
    chart.draw_series(LineSeries::new(way.iter().copied(), BLUE.stroke_width(3)))?;
    chart.draw_series(way.iter().map(|&place| Circle::new(place, 5, BLUE.filled())))?;
    if let (Some(&first), Some(&last)) = (way.first(), way.last()) {
        chart.draw_series([Circle::new(first, 10, INK.stroke_width(4))])?;
        chart.draw_series([Circle::new(last, 11, RED.filled())])?;
    }
    root.present()?;
    Ok(())
}
