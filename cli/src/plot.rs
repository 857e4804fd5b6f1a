//! Pictures: of training runs, of searches, of schedules.
//!
//! A picture is SVG, from which a PNG is rendered. Everything is drawn as paths; what is above a level of a function lies over
//! what is below it.

mod axis;
mod colour;
mod contour;
mod curves;
mod figure;
mod landscape;
mod legend;
mod panel;
mod raster;
mod search;
mod thin;
mod training;
mod values;

pub use curves::draw as losses;
pub use landscape::draw as landscape;
pub use search::Trace;
pub use training::draw as training;
pub use values::{Heading, Series, draw as values};

use crate::output::{Format, Output};
use crate::run_folder::replace;

/// Why a picture was not written.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// The library that renders refused.
    #[error("the plot cannot be drawn: {0}")]
    Draw(String),
    /// The file cannot be written; the error names it.
    #[error(transparent)]
    Write(#[from] std::io::Error),
}

/// Writes a picture, which replaces the file when it is whole.
///
/// # Errors
/// [`PlotError`] where the picture cannot be drawn or written.
pub fn write(output: &Output, svg: &str) -> Result<(), PlotError> {
    match output.format {
        Format::Png => replace(&output.path, &raster::png(svg)?)?,
        _ => replace(&output.path, svg.as_bytes())?,
    };
    Ok(())
}

#[cfg(test)]
mod tests;
