//! The values of scheduled hyperparameters, a panel each.

use super::axis::Axis;
use super::{
    BLUE, Failure, GRID, INK, PlotError, Point, downsampled, extremes, heading, panel, text, written,
};
use plotters::prelude::*;
use std::path::Path;

/// Draws each series over its steps, as an SVG.
///
/// # Errors
/// [`PlotError`] where the picture cannot be drawn or written.
pub fn values(file: &Path, names: &[String], series: &[Vec<f64>]) -> Result<(), PlotError> {
    written(file, |svg| draw(svg, names, series))
}

fn draw(svg: &mut String, names: &[String], series: &[Vec<f64>]) -> Result<(), Failure> {
    let root = SVGBackend::with_string(svg, GRID).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw_text("Schedule", &text(44, &INK), (48, 64))?;
    let (_, area) = root.split_vertically(110);
    let areas = area.split_evenly((names.len().max(1), 1));
    for (area, (name, series)) in areas.iter().zip(names.iter().zip(series)) {
        let points = series.iter().enumerate().filter(|(_, value)| value.is_finite());
        let points: Vec<Point> = points.map(|(step, value)| (step as f64, *value)).collect();
        let (least, most) = extremes(&points);
        // A value that never changes has room above and below it.
        let room = if most > least { 0.05 * (most - least) } else { most.abs().max(1e-3) };
        let values = Axis::even(least.min(0.0), most + room, 4.0, "");
        let steps = Axis::even(0.0, series.len().max(1) as f64 * 1.015, 8.0, "").whole();
        let mut chart = panel(area, steps, values, "step", 100)?;
        chart.draw_series(LineSeries::new(downsampled(&points), BLUE.stroke_width(4)))?;
        heading(area, name, &[("of each step".to_owned(), BLUE)], points.is_empty())?;
    }
    root.present()?;
    Ok(())
}
