//! A panel: two axes, the curves between them, and a line of words above.

use super::axis::Axis;
use super::colour::{FAINT, GREY, INK, RED};
use super::figure::{Anchor, Figure, Frame, Place, Stroke};
use super::raster::{fitted, width};
use super::thin::Point;

/// The height of the words at marks.
const MARK: f64 = 13.0;

/// Two axes, and where they are.
pub struct Panel {
    pub frame: Frame,
    pub across: Axis,
    pub up: Axis,
}

impl Panel {
    /// Returns the place of a point. What is outside of the panel is at most a little outside.
    pub fn place(&self, (x, y): Point) -> Place {
        let Frame { left, top, right, bottom } = self.frame;
        let near = |share: f64| share.clamp(-0.2, 1.2);
        (left + near(self.across.share(x)) * (right - left), bottom - near(self.up.share(y)) * (bottom - top))
    }

    /// Draws the lines at the marks.
    pub fn grid(&self, figure: &mut Figure) {
        let Frame { left, top, right, bottom } = self.frame;
        let stroke = Stroke::new(FAINT, 1.0);
        for (share, _) in self.up.marks() {
            let y = bottom - share * (bottom - top);
            figure.line(&[(left, y), (right, y)], &stroke);
        }
        for (share, _) in self.across.marks() {
            let x = left + share * (right - left);
            figure.line(&[(x, top), (x, bottom)], &stroke);
        }
    }

    /// Draws both axes with their marks and names; the lower one's words are left out without a name.
    pub fn axes(&self, figure: &mut Figure, across: Option<&str>, up: Option<&str>) {
        let Frame { left, top, right, bottom } = self.frame;
        let stroke = Stroke::new(GREY, 1.0);
        figure.line(&[(left, top), (left, bottom), (right, bottom)], &stroke);
        let mut widest = 0.0_f64;
        for (share, words) in self.up.marks() {
            let y = bottom - share * (bottom - top);
            figure.line(&[(left - 4.0, y), (left, y)], &stroke);
            figure.text((left - 8.0, y + 0.36 * MARK), words, MARK, INK, Anchor::End);
            widest = widest.max(width(words, MARK));
        }
        if let Some(name) = up {
            let x = (left - widest - 16.0).max(14.0);
            figure.upward((x, 0.5 * (top + bottom)), name, MARK, GREY);
        }
        for (share, words) in self.across.marks() {
            let x = left + share * (right - left);
            figure.line(&[(x, bottom), (x, bottom + 4.0)], &stroke);
            if across.is_some() {
                figure.text((x, bottom + 18.0), words, MARK, INK, Anchor::Middle);
            }
        }
        if let Some(name) = across {
            figure.text((0.5 * (left + right), bottom + 38.0), name, MARK, GREY, Anchor::Middle);
        }
    }

    /// Draws a curve, as far as it is within the panel.
    pub fn curve(&self, figure: &mut Figure, points: &[Point], stroke: &Stroke) {
        let places: Vec<Place> = points.iter().map(|point| self.place(*point)).collect();
        figure.line(&places, stroke);
    }

    /// Draws a point for each that is within the panel.
    pub fn dots(&self, figure: &mut Figure, points: &[Point], radius: f64, colour: &str) {
        for point in points {
            figure.circle(self.place(*point), radius, colour, None);
        }
    }

    /// Draws a cross at the upper edge: from this step on there is nothing finite to draw.
    pub fn diverged(&self, figure: &mut Figure, step: u64) {
        let (x, _) = self.place((step as f64, 0.0));
        let y = self.frame.top + 10.0;
        let stroke = Stroke::new(RED, 2.5);
        figure.line(&[(x - 5.0, y - 5.0), (x + 5.0, y + 5.0)], &stroke);
        figure.line(&[(x - 5.0, y + 5.0), (x + 5.0, y - 5.0)], &stroke);
    }

    /// Writes what a panel shows above it, and at the right what its lines are.
    pub fn heading(&self, figure: &mut Figure, name: &str, lines: &[(String, Stroke)]) {
        let y = self.frame.top - 10.0;
        let mut x = self.frame.right;
        let named = self.frame.left + width(name, 14.0) + 24.0;
        for (words, stroke) in lines.iter().rev() {
            let words = fitted(words, MARK, x - named - 34.0);
            figure.text((x, y), &words, MARK, INK, Anchor::End);
            x -= width(&words, MARK) + 8.0;
            figure.line(&[(x - 26.0, y - 4.5), (x, y - 4.5)], &Stroke { width: 3.0, ..stroke.clone() });
            x -= 44.0;
        }
        figure.text((self.frame.left, y), name, 14.0, GREY, Anchor::Start);
    }

    /// Writes in the panel that it is empty.
    pub fn empty(&self, figure: &mut Figure) {
        let Frame { left, top, right, bottom } = self.frame;
        let middle = (0.5 * (left + right), 0.5 * (top + bottom));
        figure.text(middle, "nothing to draw yet", 14.0, GREY, Anchor::Middle);
    }
}
