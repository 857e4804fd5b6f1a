//! Curves with no more points than a picture can show.

/// A step and a value there.
pub type Point = (f64, f64);

/// The points of a curve that are drawn at most: beyond them, the extremes of as many stretches.
pub const MOST_POINTS: usize = 1600;

/// A change that is larger by this factor than its neighbours is a jump.
const JUMP: f64 = 4.0;

/// Returns the finite values, each at its step.
pub fn finite(values: &[f64]) -> Vec<Point> {
    let points = values.iter().enumerate().filter(|(_, value)| value.is_finite());
    points.map(|(step, value)| (step as f64, *value)).collect()
}

/// Returns the smallest and the largest value; an empty range of 0 where there are none.
pub fn extremes(curve: &[Point]) -> Point {
    let values = curve.iter().map(|(_, value)| *value);
    values
        .fold(None, |ends: Option<Point>, value| {
            Some(ends.map_or((value, value), |(least, most)| (least.min(value), most.max(value))))
        })
        .unwrap_or_default()
}

/// Means of each value with the `half` values before and after it, as far as there are any; at about
/// [`MOST_POINTS`] places at most.
pub fn smoothed(curve: &[Point], half: usize) -> Vec<Point> {
    let places = (0..curve.len()).step_by(curve.len().div_ceil(MOST_POINTS).max(1));
    let last = curve.len().checked_sub(1);
    let mean = |place: usize| {
        let near = &curve[place.saturating_sub(half)..curve.len().min(place + half + 1)];
        (curve[place].0, near.iter().map(|(_, value)| value).sum::<f64>() / near.len() as f64)
    };
    places.filter(|place| Some(*place) != last).chain(last).map(mean).collect()
}

/// Returns the curve with at most about [`MOST_POINTS`]: of each stretch, its lowest and its highest point.
pub fn downsampled(curve: &[Point]) -> Vec<Point> {
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

/// Returns a curve that is upright where one step changes by far more than the neighbouring steps, as a schedule that drops does.
pub fn stepped(curve: &[Point]) -> Vec<Point> {
    let change = |place: usize| (curve[place + 1].1 - curve[place].1).abs();
    let mut points = Vec::with_capacity(curve.len());
    for (place, point) in curve.iter().enumerate() {
        points.push(*point);
        if place + 1 == curve.len() {
            break;
        }
        let before = place.checked_sub(1).map(change);
        let after = (place + 2 < curve.len()).then(|| change(place + 1));
        let neighbours = before.into_iter().chain(after).reduce(f64::max);
        if neighbours.is_some_and(|largest| change(place) > JUMP * largest) {
            points.push((curve[place + 1].0, point.1));
        }
    }
    points
}

/// Returns a line without the places that are nearer than `distance` to the line between those that stay (Douglas and
/// Peucker).
pub fn simplified(line: &[Point], distance: f64) -> Vec<Point> {
    let mut stays = vec![false; line.len()];
    let mut parts = vec![(0, line.len().saturating_sub(1))];
    while let Some((first, last)) = parts.pop() {
        if line.is_empty() {
            break;
        }
        (stays[first], stays[last]) = (true, true);
        let off = |place: &Point| distance_to(*place, line[first], line[last]);
        let between = (first + 1..last).map(|index| (index, off(&line[index])));
        let farthest = between.max_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((index, _)) = farthest.filter(|(_, off)| *off > distance) {
            parts.extend([(first, index), (index, last)]);
        }
    }
    line.iter().zip(stays).filter(|(_, stays)| *stays).map(|(place, _)| *place).collect()
}

/// Returns how far a place is from a line from one place to another.
fn distance_to((x, y): Point, from: Point, to: Point) -> f64 {
    let (across, down) = (to.0 - from.0, to.1 - from.1);
    let square = across * across + down * down;
    let share = if square > 0.0 { ((x - from.0) * across + (y - from.1) * down) / square } else { 0.0 };
    let share = share.clamp(0.0, 1.0);
    (x - from.0 - share * across).hypot(y - from.1 - share * down)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A long curve keeps its extremes and its ends, a mean its level.
    #[test]
    fn long_curves_are_thinned() {
        let mut curve: Vec<Point> = (0..100_000).map(|n| (f64::from(n), 1.0)).collect();
        curve[77_777].1 = 9.0;
        let (thin, smooth) = (downsampled(&curve), smoothed(&curve, 500));
        assert!(thin.len() <= MOST_POINTS && smooth.len() <= MOST_POINTS + 1);
        assert!(thin.contains(&(77_777.0, 9.0)) && thin.is_sorted_by(|a, b| a.0 <= b.0));
        assert_eq!((smooth[0], smooth.last().unwrap().0), ((0.0, 1.0), 99_999.0));
        assert!((extremes(&smooth).1 - 1009.0 / 1001.0).abs() < 1e-9);
        assert_eq!(smoothed(&curve[..3], 1)[1], (1.0, 1.0));
    }

    /// A drop is upright; a slope, its ends and a curve stay as they are.
    #[test]
    fn drops_are_steps() {
        let curve = |values: &[f64]| finite(values);
        let told = stepped(&curve(&[1.0, 1.0, 0.1, 0.1]));
        assert_eq!(told, [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (2.0, 0.1), (3.0, 0.1)]);
        for same in [&[][..], &[1.0], &[1.0, 0.0], &[0.0, 0.5, 1.0, 1.0, 0.9, 0.7, 0.4]] {
            assert_eq!(stepped(&curve(same)), curve(same), "{same:?}");
        }
    }

    /// Straight parts lose what is between their ends; corners stay; a closed line is not one point.
    #[test]
    fn straight_lines_are_simplified() {
        let corner: Vec<Point> =
            (0..=20).map(|k| if k <= 10 { (f64::from(k), 0.0) } else { (10.0, f64::from(k - 10)) }).collect();
        assert_eq!(simplified(&corner, 0.1), [(0.0, 0.0), (10.0, 0.0), (10.0, 10.0)]);
        let circle: Vec<Point> =
            (0..=360).map(|k| f64::from(k).to_radians()).map(|a| (50.0 * a.cos(), 50.0 * a.sin())).collect();
        let few = simplified(&circle, 0.3);
        assert!((12..80).contains(&few.len()), "{}", few.len());
        assert_eq!(simplified(&[], 0.1), []);
        assert_eq!(simplified(&corner[..1], 0.1), corner[..1]);
    }
}
