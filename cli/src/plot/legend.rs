//! Which curve is whose, where several are compared.

use super::colour::{GREY, INK, RED, series};
use super::figure::{Anchor, Figure, Frame, Stroke};
use super::raster::{fitted, width, wrapped};
use crate::label::Label;

/// The left edge of a legend next to curves, where their frame ends.
pub const LEGEND_LEFT: f64 = 748.0;
/// Where they are listed.
pub const COLUMN: Frame = Frame { left: 772.0, top: 104.0, right: 940.0, bottom: 640.0 };
/// The most and the least height of an entry.
const ENTRY: (f64, f64) = (66.0, 32.0);
/// The height of a line of what is written small.
const LINE: f64 = 13.0;

/// An entry: a name, its settings, and what came of it.
#[derive(Debug)]
pub struct Entry<'a> {
    pub label: &'a Label,
    pub end: String,
    /// Whether that is bad news.
    pub failed: bool,
}

/// Returns the line of a curve among several.
pub fn stroke(index: usize, width: f64) -> Stroke {
    let (colour, dashes) = series(index);
    Stroke { dashes, ..Stroke::new(colour, width) }
}

/// Lists curves in a column, as far as there is room. Returns where the next thing may stand.
pub fn list(figure: &mut Figure, entries: &[Entry<'_>], column: Frame) -> f64 {
    let tall = column.bottom - column.top;
    let entry_tall = (tall / entries.len().max(1) as f64).clamp(ENTRY.1, ENTRY.0);
    let room = (tall / entry_tall) as usize;
    let shown = if entries.len() > room { room.saturating_sub(1) } else { entries.len() };
    let wide = column.right - column.left;
    let is_repeated = |name: &str| entries.iter().filter(|entry| entry.label.name == name).count() > 1;
    let mut y = column.top;
    for (index, entry) in entries.iter().take(shown).enumerate() {
        figure.line(&[(column.left, y + 9.0), (column.left + 26.0, y + 9.0)], &stroke(index, 3.0));
        let name = fitted(&entry.label.name, 13.0, wide - 34.0);
        figure.text((column.left + 34.0, y + 14.0), &name, 13.0, INK, Anchor::Start);
        let colour = if entry.failed { RED } else { GREY };
        let end = Some((entry.end.clone(), colour)).filter(|(words, _)| !words.is_empty());
        // Where many share the room, settings are the first to be cut; but not where they alone tell entries apart.
        let lines = ((entry_tall - 18.0) / LINE) as usize - end.iter().count().min(1);
        let settings = match lines {
            0 if is_repeated(&entry.label.name) => {
                let taken = end.as_ref().map_or(0.0, |(words, _)| width(words, 11.0) + 8.0);
                let settings = fitted(&entry.label.settings, 11.0, wide - taken);
                figure.text((column.left, y + 29.0), &settings, 11.0, GREY, Anchor::Start);
                if let Some((words, colour)) = end {
                    figure.text((column.right, y + 29.0), &words, 11.0, colour, Anchor::End);
                }
                y += entry_tall;
                continue;
            }
            0 => Vec::new(),
            1 => vec![fitted(&entry.label.settings, 11.0, wide)],
            _ => wrapped(&entry.label.settings, 11.0, wide),
        };
        let settings = settings.into_iter().filter(|words| !words.is_empty()).map(|words| (words, GREY));
        for (row, (words, colour)) in settings.chain(end).enumerate() {
            let at = (column.left, y + 29.0 + LINE * row as f64);
            figure.text(at, &words, 11.0, colour, Anchor::Start);
        }
        y += entry_tall;
    }
    if shown < entries.len() {
        let more = format!("and {} more", entries.len() - shown);
        figure.text((column.left, y + 14.0), &more, 12.0, GREY, Anchor::Start);
        y += 24.0;
    }
    y
}
