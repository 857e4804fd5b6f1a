//! An axis of a panel: its ends, its marks and their texts.

use crate::numbers::short;

/// An axis, with few marks at round numbers.
#[derive(Debug, Clone)]
pub struct Axis {
    /// The smallest number shown; its logarithm, on a logarithmic axis.
    least: f64,
    /// The largest number shown, likewise.
    most: f64,
    logarithmic: bool,
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
        let whole = |number: f64| number > 0.5 && (number + 1e-6).fract() < 2e-6;
        let decimals = (0..5).find(|places| whole(gap * 10.0_f64.powi(*places)));
        let text = |mark: f64| match decimals {
            Some(decimals) if most < 1e7 => format!("{mark:.*}{unit}", decimals as usize),
            _ => format!("{}{unit}", short(mark, 3)),
        };
        let places = (least / gap).ceil() as i64..=(most / gap).floor() as i64;
        let marks = places.map(|place| place as f64 * gap).map(|mark| (mark, text(mark))).collect();
        Axis { least, most, logarithmic: false, marks }
    }

    /// Returns the even scale of a count, with marks at whole numbers.
    pub fn count(most: u64) -> Self {
        let most = most.max(1) as f64;
        let mut axis = Axis::even(0.0, most * 1.01, 8.0, "");
        axis.marks.retain(|(mark, _)| mark.fract() == 0.0);
        for (mark, text) in &mut axis.marks {
            *text = if most < 1e7 { format!("{mark:.0}") } else { short(*mark, 3) };
        }
        axis
    }

    /// Returns a logarithmic scale from `least` to `most`, both above 0. A mark is at each power of ten, at fewer
    /// where there are many, and at more where there are few.
    pub fn logarithmic(least: f64, most: f64) -> Self {
        let (least, most) = (least.log10(), most.log10());
        let room = 0.03 * (most - least).max(0.1);
        let (least, most) = (least - room, most + room);
        let gap = ((most - least) / 7.0).ceil() as i64;
        let parts: &[f64] = match most - least {
            decades if decades < 1.6 => &[1.0, 2.0, 5.0],
            decades if decades < 3.0 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let powers = least.floor() as i64..=most.ceil() as i64;
        let powers = powers.filter(|power| power.rem_euclid(gap) == 0);
        let marks = powers.flat_map(|power| {
            let mark = move |part: &f64| power as f64 + part.log10();
            parts.iter().map(move |part| (mark(part), short(part * 10.0_f64.powi(power as i32), 1)))
        });
        let marks = marks.filter(|(mark, _)| (least..=most).contains(mark)).collect();
        Axis { least, most, logarithmic: true, marks }
    }

    /// Returns where a value is between the ends, from 0 to 1; below and above that outside of them.
    pub fn share(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.max(f64::MIN_POSITIVE).log10() } else { value };
        (value - self.least) / (self.most - self.least)
    }

    /// Returns the marks: where each is between the ends, and its text.
    pub fn marks(&self) -> impl Iterator<Item = (f64, &str)> {
        let share = |mark: f64| (mark - self.least) / (self.most - self.least);
        self.marks.iter().map(move |(mark, text)| (share(*mark), text.as_str()))
    }

    /// Returns whether powers of ten are evenly spaced.
    pub fn is_logarithmic(&self) -> bool {
        self.logarithmic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the texts of a scale's marks.
    fn texts(scale: &Axis) -> Vec<&str> {
        scale.marks.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// Ends are at 0 and 1, the middle between them.
    #[test]
    fn values_have_places() {
        let scale = Axis::even(-1.0, 3.0, 4.0, "");
        for (value, share) in [(-1.0, 0.0), (1.0, 0.5), (3.0, 1.0), (7.0, 2.0)] {
            assert_eq!(scale.share(value), share);
        }
        let scale = Axis::logarithmic(1e-3, 1e3);
        assert!((scale.share(1.0) - 0.5).abs() < 1e-12 && scale.share(0.0) < 0.0);
        assert!(scale.share(1e-3) > 0.0 && scale.share(1e3) < 1.0);
    }

    /// Marks are round, few, and written with as many places as they need.
    #[test]
    fn marks_are_round() {
        assert_eq!(texts(&Axis::even(0.0, 1.0, 5.0, "")), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(texts(&Axis::even(80.0, 101.0, 5.3, "%")), ["80%", "85%", "90%", "95%", "100%"]);
        assert_eq!(texts(&Axis::count(1)), ["0", "1"]);
        assert_eq!(texts(&Axis::count(1000)), ["0", "200", "400", "600", "800", "1000"]);
        assert_eq!(texts(&Axis::even(0.0, 3e38, 3.0, "")), ["0", "1e38", "2e38", "3e38"]);
        assert_eq!(texts(&Axis::even(0.0, 8e-7, 4.0, "")), ["0", "2e-7", "4e-7", "6e-7", "8e-7"]);
        assert_eq!(texts(&Axis::logarithmic(0.002, 40.0)), ["0.01", "0.1", "1", "10"]);
        assert_eq!(texts(&Axis::logarithmic(1.0, 40.0)), ["1", "3", "10", "30"]);
        assert_eq!(texts(&Axis::logarithmic(1e-20, 1.0)), ["1e-20", "1e-16", "1e-12", "1e-8", "1e-4", "1"]);
    }
}
