//! Pictures in pixels, and the width of words: both with a font that is part of the program.

use super::PlotError;
use crate::escape::{shortened, shown};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::fontdb::Database;
use resvg::usvg::{Options, Tree};
use std::sync::{Arc, LazyLock};

/// Pixels of a PNG for each unit of the picture.
const SCALE: f32 = 2.0;

/// The one font: a machine may have none.
static FONTS: LazyLock<Arc<Database>> = LazyLock::new(|| {
    let mut fonts = Database::new();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    fonts.set_sans_serif_family("DejaVu Sans");
    Arc::new(fonts)
});

/// Reads a picture.
pub fn tree(svg: &str) -> Result<Tree, PlotError> {
    let options =
        Options { fontdb: Arc::clone(&FONTS), font_family: "DejaVu Sans".into(), ..Options::default() };
    Tree::from_str(svg, &options).map_err(|error| PlotError::Draw(error.to_string()))
}

/// Returns a picture as PNG.
///
/// # Errors
/// [`PlotError`] where it cannot be drawn.
pub fn png(svg: &str) -> Result<Vec<u8>, PlotError> {
    let tree = tree(svg)?;
    let pixels = |length: f32| (length * SCALE).ceil() as u32;
    let (width, height) = (pixels(tree.size().width()), pixels(tree.size().height()));
    let failed = || PlotError::Draw(format!("{width} by {height} pixels do not fit into memory"));
    let mut pixmap = Pixmap::new(width, height).ok_or_else(failed)?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixmap.as_mut());
    pixmap.encode_png().map_err(|error| PlotError::Draw(error.to_string()))
}

/// Returns the width of words of a size. The font is a wide one: in most others they are narrower.
pub fn width(words: &str, size: f64) -> f64 {
    let body = svg::node::element::Text::new(shown(words)).set("font-size", 100).set("y", 100);
    let document = svg::Document::new().set("width", 100_000).set("height", 200).add(body);
    let whole = tree(&document.to_string()).map(|tree| f64::from(tree.root().abs_bounding_box().right()));
    whole.unwrap_or(0.0) * size / 100.0
}

/// Returns as much of the words as fits, with an ellipsis where something is left out.
pub fn fitted(words: &str, size: f64, room: f64) -> String {
    // No line has room for more.
    let words = &shortened(words);
    if width(words, size) <= room {
        return words.clone();
    }
    let ends: Vec<usize> = words.char_indices().map(|(end, _)| end).collect();
    let cut = |end: usize| format!("{}…", words[..end].trim_end());
    let count = ends.partition_point(|&end| width(&cut(end), size) <= room);
    cut(ends[count.saturating_sub(1)])
}

/// Returns the words in two lines at most, with an ellipsis where something is left out.
pub fn wrapped(words: &str, size: f64, room: f64) -> Vec<String> {
    let words = &shortened(words);
    let ends = words.match_indices(' ').map(|(end, _)| end).chain([words.len()]);
    let first = ends.take_while(|&end| width(&words[..end], size) <= room).last().unwrap_or(0);
    let (first, second) = words.split_at(first);
    let lines = [first, second].map(|line| fitted(line.trim(), size, room));
    lines.into_iter().filter(|line| !line.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_a_width_and_fit() {
        assert!((width("mm", 20.0) / width("m", 10.0) - 4.0).abs() < 0.3);
        assert!(width("<&>", 10.0) > 10.0);
        let fitting = fitted("AdamW lr=0.001, weight_decay=0.01", 14.0, 120.0);
        assert!(fitting.starts_with("AdamW") && fitting.ends_with('…') && width(&fitting, 14.0) <= 120.0);
        assert_eq!(fitted("SGD", 14.0, 120.0), "SGD");
        assert_eq!(wrapped("lr=0.001, weight_decay=0.01", 14.0, 150.0), ["lr=0.001,", "weight_decay=0.01"]);
        assert_eq!(wrapped("lr=1", 14.0, 120.0), ["lr=1"]);
        assert!(
            wrapped("", 14.0, 120.0).is_empty() && wrapped(&"m".repeat(99), 14.0, 120.0)[0].ends_with('…')
        );
    }
}
