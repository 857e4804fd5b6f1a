//! The line search: a step length that satisfies the strong Wolfe conditions.

use crate::Result;

/// Sufficient decrease, and curvature (Nocedal & Wright, eq. 3.7).
const C1: f64 = 1e-4;
const C2: f64 = 0.9;

/// A point of the line: step length, loss, slope, and what the caller keeps with it.
#[derive(Clone)]
pub(super) struct Point<G> {
    pub(super) t: f64,
    pub(super) loss: f64,
    pub(super) slope: f64,
    pub(super) gradient: G,
}

/// Finds a step length near `first` that satisfies the strong Wolfe conditions, or the best found in `most`
/// evaluations. `start` is the point at 0; `narrow(width)` returns whether an interval is too small to continue.
/// Returns the point, and how often `evaluate` was called.
///
/// Brackets a minimum and zooms in by cubic interpolation, as torch does.
pub(super) fn strong_wolfe<G: Clone>(
    start: &Point<G>,
    first: f64,
    most: u64,
    mut narrow: impl FnMut(f64) -> Result<bool>,
    mut evaluate: impl FnMut(f64) -> Result<Point<G>>,
) -> Result<(Point<G>, u64)> {
    let decreases = |point: &Point<G>| point.loss <= start.loss + C1 * point.t * start.slope;
    let is_flat = |point: &Point<G>| point.slope.abs() <= -C2 * start.slope;

    let mut new = evaluate(first)?;
    let (mut evaluations, mut iterations) = (1, 0);
    let mut before = start.clone();
    let mut bracket = None;
    while iterations < most {
        if !decreases(&new) || (iterations > 1 && new.loss >= before.loss) {
            bracket = Some([before.clone(), new.clone()]);
            break;
        }
        if is_flat(&new) {
            return Ok((new, evaluations));
        }
        if new.slope >= 0.0 {
            bracket = Some([before.clone(), new.clone()]);
            break;
        }
        let bounds = (new.t + 0.01 * (new.t - before.t), new.t * 10.0);
        let t = cubic_minimum(&before, &new, bounds);
        before = core::mem::replace(&mut new, evaluate(t)?);
        evaluations += 1;
        iterations += 1;
    }
    let mut bracket = bracket.unwrap_or_else(|| [start.clone(), new.clone()]);

    let lower = |bracket: &[Point<G>; 2]| usize::from(bracket[0].loss > bracket[1].loss);
    let mut low = lower(&bracket);
    let mut little_progress = false;
    while iterations < most {
        if narrow((bracket[1].t - bracket[0].t).abs())? {
            break;
        }
        let (least, largest) = (bracket[0].t.min(bracket[1].t), bracket[0].t.max(bracket[1].t));
        let mut t = cubic_minimum(&bracket[0], &bracket[1], (least, largest));
        // A trial close to an end of the bracket for the second time, or at it, is moved a tenth inwards.
        let margin = 0.1 * (largest - least);
        if (largest - t).min(t - least) < margin {
            if little_progress || t >= largest || t <= least {
                t = if (t - largest).abs() < (t - least).abs() { largest - margin } else { least + margin };
                little_progress = false;
            } else {
                little_progress = true;
            }
        } else {
            little_progress = false;
        }
        let new = evaluate(t)?;
        evaluations += 1;
        iterations += 1;
        let high = 1 - low;
        if !decreases(&new) || new.loss >= bracket[low].loss {
            bracket[high] = new;
            low = lower(&bracket);
        } else {
            let done = is_flat(&new);
            if !done && new.slope * (bracket[high].t - bracket[low].t) >= 0.0 {
                bracket[high] = bracket[low].clone();
            }
            bracket[low] = new;
            if done {
                break;
            }
        }
    }
    let [first, second] = bracket;
    Ok((if low == 0 { first } else { second }, evaluations))
}

/// Returns the minimum of the cubic with the losses and slopes of two points, within bounds; their middle where there
/// is none.
fn cubic_minimum<G>(one: &Point<G>, other: &Point<G>, (least, largest): (f64, f64)) -> f64 {
    let (left, right) = if one.t <= other.t { (one, other) } else { (other, one) };
    // Symmetric in the points, but computed in the order given, as torch rounds it.
    let d1 = one.slope + other.slope - 3.0 * (one.loss - other.loss) / (one.t - other.t);
    let square = d1 * d1 - one.slope * other.slope;
    if square < 0.0 || square.is_nan() {
        return (least + largest) / 2.0;
    }
    let d2 = square.sqrt();
    let share = (right.slope + d2 - d1) / (right.slope - left.slope + 2.0 * d2);
    let t = right.t - (right.t - left.t) * share;
    // As Python's min and max treat a NaN.
    let above = if least > t { least } else { t };
    if largest < above { largest } else { above }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(loss: impl Fn(f64) -> f64, slope: impl Fn(f64) -> f64) -> impl Fn(f64) -> Point<()> {
        move |t| Point { t, loss: loss(t), slope: slope(t), gradient: () }
    }

    #[test]
    fn the_minimum_of_a_cubic_is_exact() {
        let cubic = at(|t| t * t * t - 3.0 * t, |t| 3.0 * t * t - 3.0);
        for (a, b) in [(0.0, 3.0), (3.0, 0.0)] {
            assert!((cubic_minimum(&cubic(a), &cubic(b), (0.0, 3.0)) - 1.0).abs() < 1e-12);
        }
        assert_eq!(cubic_minimum(&cubic(1.5), &cubic(3.0), (1.5, 3.0)), 1.5);
    }

    #[test]
    fn what_is_found_satisfies_both_conditions() {
        for first in [1e-3, 0.1, 1.0, 10.0, 1e3] {
            let valley = at(
                |t| (t - 2.0).powi(2) + 0.3 * (3.0 * t).sin(),
                |t| 2.0 * (t - 2.0) + 0.9 * (3.0 * t).cos(),
            );
            let start = valley(0.0);
            assert!(start.slope < 0.0);
            let (found, evaluations) =
                strong_wolfe(&start, first, 25, |width| Ok(width < 1e-9), |t| Ok(valley(t))).unwrap();
            assert!(found.loss <= start.loss + C1 * found.t * start.slope, "{first}");
            assert!(found.slope.abs() <= -C2 * start.slope, "{first}");
            assert!(evaluations <= 26);
        }
    }
}
