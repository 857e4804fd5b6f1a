//! The levels of a function of two variables, and the outlines of what is above them.

use super::figure::{Frame, Place};
use super::thin::{Point, simplified};
use contour::ContourBuilder;

/// Places at which the function is evaluated, across and down.
const CELLS: (usize, usize) = (140, 110);
/// How far an outline may be from where it should be, in the unit of the picture.
const OFF: f64 = 0.25;

/// What is above a level.
pub struct Above {
    pub level: f64,
    /// Outlines of which the even parts are inside.
    pub outlines: Vec<Vec<Place>>,
}

/// A part of the plane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    pub left: f64,
    pub right: f64,
    pub low: f64,
    pub high: f64,
}

impl View {
    /// Returns the smallest that has all points; that of a point alone is empty.
    pub fn around(points: impl IntoIterator<Item = Point>) -> Option<View> {
        points.into_iter().fold(None, |view: Option<View>, (x, y)| {
            let View { left, right, low, high } = view.unwrap_or(View { left: x, right: x, low: y, high: y });
            Some(View { left: left.min(x), right: right.max(x), low: low.min(y), high: high.max(y) })
        })
    }

    /// Returns the view with room around it: a share of its extent, and at least so much.
    pub fn wider(self, share: f64, least: f64) -> View {
        let across = (share * (self.right - self.left)).max(least);
        let up = (share * (self.high - self.low)).max(least);
        View {
            left: self.left - across,
            right: self.right + across,
            low: self.low - up,
            high: self.high + up,
        }
    }

    /// Returns the view, each side of it at least so long.
    pub fn at_least(self, side: f64) -> View {
        let (across, up) = (self.right - self.left, self.high - self.low);
        let (across, up) = ((0.5 * (side - across)).max(0.0), (0.5 * (side - up)).max(0.0));
        View {
            left: self.left - across,
            right: self.right + across,
            low: self.low - up,
            high: self.high + up,
        }
    }

    /// Returns the parts of a line that are in it, cut at its edges.
    pub fn pieces(&self, line: &[Point]) -> Vec<Vec<Point>> {
        let mut pieces: Vec<Vec<Point>> = Vec::new();
        for pair in line.windows(2) {
            let Some((from, to)) = self.cut(pair[0], pair[1]) else { continue };
            match pieces.last_mut() {
                Some(piece) if piece.last() == Some(&from) => piece.push(to),
                _ => pieces.push(vec![from, to]),
            }
        }
        pieces
    }

    /// Returns the part of a straight line that is in it (Liang and Barsky).
    fn cut(&self, from: Point, to: Point) -> Option<(Point, Point)> {
        let (across, up) = (to.0 - from.0, to.1 - from.1);
        let (mut first, mut last) = (0.0_f64, 1.0_f64);
        for (way, room) in [
            (-across, from.0 - self.left),
            (across, self.right - from.0),
            (-up, from.1 - self.low),
            (up, self.high - from.1),
        ] {
            match way.partial_cmp(&0.0)? {
                std::cmp::Ordering::Less => first = first.max(room / way),
                std::cmp::Ordering::Greater => last = last.min(room / way),
                std::cmp::Ordering::Equal if room < 0.0 => return None,
                std::cmp::Ordering::Equal => {}
            }
        }
        let at = |share: f64| (from.0 + share * across, from.1 + share * up);
        let start = if first > 0.0 { at(first) } else { from };
        let end = if last < 1.0 { at(last) } else { to };
        (first <= last).then_some((start, end))
    }

    /// Returns whether a point is in it.
    pub fn contains(&self, (x, y): Point) -> bool {
        (self.left..=self.right).contains(&x) && (self.low..=self.high).contains(&y)
    }
}

/// Returns what is above each level, from the lowest level up, as it is seen in a frame. Levels are round numbers, with
/// about even ratios between them.
pub fn levels(value: impl Fn(f64, f64) -> f64, view: View, frame: Frame) -> Vec<Above> {
    // A place more at each side: at its edges an outline is no nearer than half of the distance between places.
    let (columns, rows) = (CELLS.0 + 2, CELLS.1 + 2);
    let (wide, tall) =
        ((frame.right - frame.left) / CELLS.0 as f64, (frame.bottom - frame.top) / CELLS.1 as f64);
    let at = |index: usize, count: usize| (index as f64 - 0.5) / count as f64;
    let values: Vec<f64> = (0..columns * rows)
        .map(|k| (at(k % columns, CELLS.0), at(k / columns, CELLS.1)))
        .map(|(right, down)| {
            value(view.left + right * (view.right - view.left), view.high - down * (view.high - view.low))
        })
        .collect();
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite() && *v > 0.0).collect();
    sorted.sort_by(f64::total_cmp);
    let Some((&low, &high)) = sorted.get(sorted.len() / 50).zip(sorted.last()) else { return Vec::new() };
    let levels = rounded(low, high);
    // Between places the logarithm is more even than the value. It has a floor, and infinities a ceiling.
    let floor = levels.first().map_or(low, |first| first * 1e-3);
    let logs: Vec<f64> =
        values.iter().map(|v| if v.is_nan() { high } else { v.clamp(floor, high) }.ln()).collect();
    let builder = ContourBuilder::new(columns, rows, true)
        .x_origin(frame.left - wide)
        .y_origin(frame.top - tall)
        .x_step(wide)
        .y_step(tall);
    let thresholds: Vec<f64> = levels.iter().map(|level| level.ln()).collect();
    let rings = builder.lines(&logs, &thresholds).unwrap_or_default();
    let outline = |ring: &[Place]| simplified(ring, OFF);
    levels
        .into_iter()
        .zip(rings)
        .map(|(level, rings)| {
            let rings = rings.into_inner().0.0.into_iter();
            let places = rings.map(|ring| ring.0.iter().map(|c| (c.x, c.y)).collect::<Vec<_>>());
            Above { level, outlines: places.map(|ring| outline(&ring)).collect() }
        })
        .collect()
}

/// Returns round numbers between two positive ones: at most 14, and if it can be at least 6.
fn rounded(low: f64, high: f64) -> Vec<f64> {
    let within = |parts: &[f64], gap: i32| {
        let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let powers = powers.filter(move |power| power.rem_euclid(gap) == 0);
        let levels = powers.flat_map(|power| {
            parts.iter().map(move |part| format!("{part}e{power}").parse().unwrap_or(f64::NAN))
        });
        levels.filter(|level| *level > low && *level < high).collect::<Vec<f64>>()
    };
    let ways: [(&[f64], i32); 6] = [
        (&[1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0], 1),
        (&[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0], 1),
        (&[1.0, 2.0, 5.0], 1),
        (&[1.0, 3.0], 1),
        (&[1.0], 1),
        (&[1.0], 2),
    ];
    let fits = ways.into_iter().map(|(parts, gap)| within(parts, gap)).find(|levels| levels.len() <= 14);
    fits.unwrap_or_else(|| within(&[1.0], ((high.log10() - low.log10()) / 12.0).ceil() as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_the_edges() {
        let view = View { left: 0.0, right: 2.0, low: 0.0, high: 2.0 };
        let line = [(1.0, 1.0), (3.0, 1.0), (3.0, 5.0), (1.0, 1.0), (1e200, 1e200), (1e308, -1e308)];
        let pieces = view.pieces(&line);
        assert_eq!(pieces[0], [(1.0, 1.0), (2.0, 1.0)]);
        assert_eq!(pieces[1][0], (1.5, 2.0));
        assert_eq!(pieces.len(), 2);
        assert!((pieces[1][2].0 - 2.0).abs() < 1e-9 && (pieces[1][2].1 - 2.0).abs() < 1e-9);
        assert!(view.pieces(&[(5.0, 5.0), (6.0, 7.0)]).is_empty());
    }

    #[test]
    fn levels_are_round_and_few() {
        assert_eq!(rounded(0.4, 60.0), [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
        assert_eq!(rounded(0.05, 3000.0)[..4], [0.1, 0.2, 0.5, 1.0]);
        assert_eq!(rounded(2.0, 3.2), [2.5, 3.0]);
        assert!((5..=14).contains(&rounded(1e-200, 1e200).len()));
    }

    /// The outlines of a cone are circles, to within a place of the grid; the region above the lowest is all but a disc.
    #[test]
    fn outlines_are_where_the_levels_are() {
        let view = View { left: -3.0, right: 3.0, low: -3.0, high: 3.0 };
        let frame = Frame { left: 0.0, top: 0.0, right: 600.0, bottom: 600.0 };
        let above = levels(|x, y| x.hypot(y), view, frame);
        assert!(above.len() > 4);
        for Above { level, outlines } in &above {
            assert!(!outlines.is_empty(), "{level}");
            for &(x, y) in outlines.iter().flatten() {
                let edge = |c: f64| !(0.0..=600.0).contains(&c);
                let radius = (x - 300.0).hypot(y - 300.0) / 100.0;
                assert!(edge(x) || edge(y) || (radius - level).abs() < 0.03, "{level}: {x}, {y}");
            }
        }
        assert!(levels(|_, _| f64::NAN, view, frame).is_empty());
        assert!(levels(|_, _| 1.0, view, frame).is_empty());
        assert!(!levels(|x, _| if x > 0.0 { f64::INFINITY } else { -x }, view, frame).is_empty());
    }
}
