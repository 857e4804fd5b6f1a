//! An axis of a panel: its ends, its marks and their texts.

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use std::ops::Range;

/// An axis. The library would place its marks by the room there is; here they are fixed, and so few that all fit.
#[derive(Debug, Clone)]
pub struct Axis {
    /// The smallest number shown; its logarithm, on a logarithmic axis.
    least: f64,
    /// The largest number shown, likewise.
    most: f64,
    /// Where the marks are, likewise, and the text at each.
    marks: Vec<(f64, String)>,
}

impl Axis {
    /// Returns an even scale with about `count` marks at round numbers, each followed by `unit`.
    pub fn even(least: f64, most: f64, count: f64, unit: &str) -> Self {
        let rough = (most - least) / count;
        let power = 10.0_f64.powf(rough.log10().floor());
        let round = [1.0, 2.0, 2.5, 5.0].map(|number| number * power);
        let gap = round.into_iter().find(|gap| *gap >= 0.99 * rough).unwrap_or(10.0 * power);
        let decimals = (0..6).find(|places| (gap * 10.0_f64.powi(*places) + 1e-6).fract() < 2e-6);
        let text = |mark: f64| match decimals {
            Some(decimals) if most < 1e7 => format!("{mark:.*}{unit}", decimals as usize),
            _ => format!("{mark:.1e}{unit}"),
        };
        Axis { least, most, marks: Self::multiples(least, most, gap, text) }
    }

    /// Returns a logarithmic scale from `least` to `most`, both above 0. It has a mark at each power of ten, or at
    /// fewer where there are many.
    pub fn logarithmic(least: f64, most: f64) -> Self {
        let (least, most) = (least.log10() - 0.06, most.log10() + 0.06);
        let text = |mark: f64| match mark.round() as i32 {
            power @ -4..=4 => format!("{:.*}", (-power).max(0) as usize, 10.0_f64.powi(power)),
            power => format!("1e{power}"),
        };
        Axis { least, most, marks: Self::multiples(least, most, ((most - least) / 7.0).ceil(), text) }
    }

    /// Returns the same scale with the marks at whole numbers alone.
    pub fn whole(mut self) -> Self {
        self.marks.retain(|(mark, _)| mark.fract() == 0.0);
        for (_, text) in &mut self.marks {
            if let Some(whole) = text.strip_suffix(".0") {
                *text = whole.to_owned();
            }
        }
        self
    }

    /// Returns the same scale without texts.
    pub fn bare(mut self) -> Self {
        self.marks.iter_mut().for_each(|(_, text)| text.clear());
        self
    }

    /// Returns the multiples of `gap` from end to end, with their texts.
    fn multiples(least: f64, most: f64, gap: f64, text: impl Fn(f64) -> String) -> Vec<(f64, String)> {
        let places = (least / gap).ceil() as i64..=(most / gap).floor() as i64;
        places.map(|place| place as f64 * gap).map(|mark| (mark, text(mark))).collect()
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        // What lies outside is drawn at the edge.
        let share = ((value - self.least) / (self.most - self.least)).clamp(0.0, 1.0);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // The lines between the marks, which the library calls light, are none.
        let marks = if hint.weight().allow_light_points() { &[] } else { self.marks.as_slice() };
        marks.iter().map(|(mark, _)| *mark).collect()
    }

    fn range(&self) -> Range<f64> {
        self.least..self.most
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        self.marks.iter().find(|(mark, _)| mark == value).map_or_else(String::new, |(_, text)| text.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the texts of a scale's marks.
    fn texts(scale: &Axis) -> Vec<&str> {
        scale.marks.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// Ends go to ends, the middle to the middle, in either direction, and what is outside to the edge.
    #[test]
    fn values_have_places() {
        let scale = Axis::even(-1.0, 3.0, 4.0, "");
        for (value, place) in [(-1.0, 500), (1.0, 300), (3.0, 100), (-9.0, 500), (1e300, 100)] {
            assert_eq!(scale.map(&value, (500, 100)), place);
        }
    }

    /// Marks are round, few, and written with as many places as they need.
    #[test]
    fn marks_are_round() {
        assert_eq!(texts(&Axis::even(0.0, 1.0, 5.0, "")), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(texts(&Axis::even(80.0, 101.0, 5.3, "%")), ["80%", "85%", "90%", "95%", "100%"]);
        assert_eq!(texts(&Axis::even(0.0, 1.015, 8.0, "").whole()), ["0", "1"]);
        assert_eq!(
            texts(&Axis::even(0.0, 1015.0, 8.0, "").whole()),
            ["0", "200", "400", "600", "800", "1000"]
        );
        assert_eq!(texts(&Axis::even(0.0, 3e38, 3.0, "")), ["0.0e0", "1.0e38", "2.0e38", "3.0e38"]);
        assert_eq!(texts(&Axis::logarithmic(0.002, 40.0)), ["0.01", "0.1", "1", "10"]);
        assert_eq!(
            texts(&Axis::logarithmic(1e-20, 1.0)),
            ["1e-18", "1e-15", "1e-12", "1e-9", "1e-6", "0.001", "1"]
        );
        assert_eq!(texts(&Axis::even(0.0, 1.0, 2.0, "").bare()), ["", "", ""]);
    }
}
