//! The ways of searches over the contours of a function of two variables.

use super::axis::Axis;
use super::colour::{GREY, INK, RED, height, level, time};
use super::contour::{Above, View, levels};
use super::figure::{Anchor, Figure, Frame, Place, Stroke};
use super::legend::{self, COLUMN, LEGEND_LEFT, stroke};
use super::panel::Panel;
use super::search::{Trace, entries, titles};
use super::thin::{Point, simplified};
use crate::numbers::short;

/// Where the contours are drawn.
const FRAME: Frame = Frame { left: 82.0, top: 104.0, right: LEGEND_LEFT, bottom: 622.0 };
/// Above so many steps, none has a dot.
const DOTS: usize = 60;
/// The radius of a dot, and the width of its border.
const DOT: (f64, f64) = (3.2, 0.8);
/// The colours of a single way.
const TIMES: usize = 24;

/// Returns the picture of searches on a function, with its known minima.
pub fn draw(
    problem: &str,
    traces: &[Trace<'_>],
    value: impl Fn(f64, f64) -> f64,
    minima: &[Point],
) -> String {
    let view = view(traces, minima);
    let (title, lines) = titles(problem, traces);
    let mut figure = Figure::new(&title, &lines);
    let above = levels(value, view, FRAME);
    let panel = Panel {
        frame: FRAME,
        across: Axis::even(view.left, view.right, 7.0, ""),
        up: Axis::even(view.low, view.high, 6.0, ""),
    };
    figure.rectangle(FRAME, &height(0.0));
    figure.clipped(FRAME, |figure| {
        contours(figure, &above);
        for (index, trace) in traces.iter().enumerate() {
            way(figure, &panel, view, trace, (traces.len() > 1).then_some(index));
        }
        for minimum in minima.iter().filter(|minimum| view.contains(**minimum)) {
            figure.star(panel.place(*minimum), 10.0, "#ffd84d", &Stroke::new(INK, 1.2));
        }
        if let Some(start) = traces.iter().find_map(|trace| trace.way.first()) {
            start_mark(figure, panel.place(*start));
        }
        for (index, trace) in traces.iter().enumerate() {
            if let Some(end) = end(trace, view) {
                let colour = if traces.len() > 1 { stroke(index, 1.0).colour } else { time(1.0) };
                end_mark(figure, panel.place(end), &colour);
            }
        }
    });
    panel.axes(&mut figure, Some("x[0]"), Some("x[1]"));
    let mut y = COLUMN.top;
    if traces.len() > 1 {
        y = legend::list(&mut figure, &entries(traces), Frame { bottom: COLUMN.bottom - 90.0, ..COLUMN });
    }
    y = marks(&mut figure, y, traces, (view, minima));
    if let [trace] = traces {
        y = times(&mut figure, y, trace.steps());
    }
    heights(&mut figure, y, &above);
    figure.into_svg()
}

/// Returns what is shown: the start, the nearest known minimum, and the ways as far as they stay in their neighbourhood.
fn view(traces: &[Trace<'_>], minima: &[Point]) -> View {
    let ways = || traces.iter().flat_map(|trace| trace.way.iter().copied().filter(|place| finite(*place)));
    let starts = traces.iter().filter_map(|trace| trace.way.first().copied());
    let start = starts.clone().next().unwrap_or_default();
    // Of several minima those count that are nearest to where a way ends.
    let ends = traces.iter().filter(|trace| trace.diverged_at.is_none());
    let ends = ends.filter_map(|trace| trace.way.last().copied()).chain([start]);
    let distance = |a: Point, b: Point| (a.0 - b.0).hypot(a.1 - b.1);
    let nearest = ends.filter_map(|end| {
        minima.iter().copied().min_by(|a, b| distance(*a, end).total_cmp(&distance(*b, end)))
    });
    let core =
        View::around(starts.chain(nearest)).unwrap_or(View { left: 0.0, right: 0.0, low: 0.0, high: 0.0 });
    let extent = (core.right - core.left).max(core.high - core.low).max(0.5);
    let near = core.wider(0.0, 1.5 * extent);
    let seen = View::around(ways().filter(|place| near.contains(*place)));
    let all = seen.map_or(core, |seen| View {
        left: core.left.min(seen.left),
        right: core.right.max(seen.right),
        low: core.low.min(seen.low),
        high: core.high.max(seen.high),
    });
    // Neither side is so short that nothing of the function's form is seen.
    let least = 0.45 * (all.right - all.left).max(all.high - all.low);
    all.wider(0.12, 0.0).at_least(least.max(0.2))
}

fn finite((x, y): Point) -> bool {
    x.is_finite() && y.is_finite()
}

/// Returns where a way ends, if that can be seen.
fn end(trace: &Trace<'_>, view: View) -> Option<Point> {
    trace.way.last().copied().filter(|end| trace.diverged_at.is_none() && view.contains(*end))
}

/// Returns the step at which a way leaves for good. What it does outside would fill the picture with lines.
fn leaves(trace: &Trace<'_>, view: View) -> Option<usize> {
    let outside = |place: &Point| !view.contains(*place);
    trace.way.iter().position(outside).filter(|_| end(trace, view).is_none())
}

/// Fills what is above each level over what is below it: no two areas side by side, so no seams.
fn contours(figure: &mut Figure, above: &[Above]) {
    for (index, Above { outlines, .. }) in above.iter().enumerate() {
        let share = (index + 1) as f64 / above.len() as f64;
        let outlines: Vec<&[Place]> = outlines.iter().map(Vec::as_slice).collect();
        figure.area(&outlines, &height(share), Some(&Stroke::new(&level(share), 0.8)));
    }
}

/// Draws a way: of several in the colour of its optimizer, alone in those of time.
fn way(figure: &mut Figure, panel: &Panel, view: View, trace: &Trace<'_>, index: Option<usize>) {
    let most = leaves(trace, view).map_or(usize::MAX, |step| step + 1);
    let places: Vec<Point> =
        trace.way.iter().copied().take(most).take_while(|place| finite(*place)).collect();
    let steps = trace.steps();
    let line = |figure: &mut Figure, from: usize, to: usize, stroke: &Stroke| {
        for piece in view.wider(0.05, 0.0).pieces(&places[from..=to]) {
            let piece: Vec<Place> = piece.into_iter().map(|point| panel.place(point)).collect();
            figure.line(&simplified(&piece, 0.3), stroke);
        }
    };
    let Some(last) = places.len().checked_sub(1) else { return };
    line(figure, 0, last, &Stroke::new("#ffffff", 4.0));
    let parts = if index.is_some() { 1 } else { TIMES.min(last).max(1) };
    for part in 0..parts {
        let (from, to) = (part * last / parts, (part + 1) * last / parts);
        let share = if parts > 1 { part as f64 / (parts - 1) as f64 } else { 1.0 };
        // A way that ended early has the colours of the time until then.
        let share = share * last as f64 / steps.max(1) as f64;
        let stroke = index.map_or_else(|| Stroke::new(&time(share), 2.0), |index| stroke(index, 2.0));
        line(figure, from, to, &stroke);
    }
    if last <= DOTS {
        // Dots so near that their borders would hide the line are left out.
        let apart = 2.0 * DOT.0 + DOT.1;
        let mut before = panel.place(places[0]);
        for (step, place) in places.iter().enumerate().skip(1).filter(|(_, place)| view.contains(**place)) {
            let at = panel.place(*place);
            if (at.0 - before.0).hypot(at.1 - before.1) < apart {
                continue;
            }
            before = at;
            let share = step as f64 / steps.max(1) as f64;
            let colour = index.map_or_else(|| time(share), |index| stroke(index, 1.0).colour);
            figure.circle(at, DOT.0, &colour, Some(&Stroke::new("#ffffff", DOT.1)));
        }
    }
}

fn start_mark(figure: &mut Figure, at: Place) {
    figure.circle(at, 6.5, "#ffffff", Some(&Stroke::new(INK, 2.0)));
}

fn end_mark(figure: &mut Figure, at: Place, colour: &str) {
    figure.circle(at, 6.5, colour, Some(&Stroke::new(INK, 1.5)));
}

/// Says what start, end and minimum look like. Returns where the next thing may stand.
fn marks(figure: &mut Figure, top: f64, traces: &[Trace<'_>], (view, minima): (View, &[Point])) -> f64 {
    let mut y = top + 12.0;
    let x = COLUMN.left + 10.0;
    let mut entry = |figure: &mut Figure, words: &str, draw: &dyn Fn(&mut Figure, Place)| {
        draw(figure, (x, y));
        figure.text((x + 20.0, y + 4.5), words, 13.0, INK, Anchor::Start);
        y += 24.0;
    };
    entry(figure, "start", &start_mark);
    if traces.iter().any(|trace| end(trace, view).is_some()) {
        let colour = if traces.len() > 1 { GREY.to_owned() } else { time(1.0) };
        entry(figure, "end", &|figure, at| end_mark(figure, at, &colour));
    }
    if minima.iter().any(|minimum| view.contains(*minimum)) {
        entry(figure, "known minimum", &|figure, at| {
            figure.star(at, 9.0, "#ffd84d", &Stroke::new(INK, 1.2));
        });
    }
    if let [trace] = traces {
        let left = leaves(trace, view).map(|step| format!("outside from step {step}"));
        let diverged = trace.diverged_at.map(|step| format!("diverged at step {step}"));
        for told in left.into_iter().chain(diverged) {
            figure.text((COLUMN.left, y + 6.0), &told, 13.0, RED, Anchor::Start);
            y += 20.0;
        }
    }
    y
}

/// Says which colour a step has. Returns where the next thing may stand.
fn times(figure: &mut Figure, top: f64, steps: usize) -> f64 {
    let top = top + 14.0;
    figure.text((COLUMN.left, top), "step", 13.0, GREY, Anchor::Start);
    let wide = (COLUMN.right - COLUMN.left - 12.0) / TIMES as f64;
    for part in 0..TIMES {
        let left = COLUMN.left + wide * part as f64;
        let frame = Frame { left, top: top + 8.0, right: left + wide + 0.5, bottom: top + 20.0 };
        figure.rectangle(frame, &time(part as f64 / (TIMES - 1) as f64));
    }
    figure.text((COLUMN.left, top + 36.0), "0", 12.0, INK, Anchor::Start);
    figure.text((COLUMN.right - 12.0, top + 36.0), &steps.to_string(), 12.0, INK, Anchor::End);
    top + 50.0
}

/// Says which values the shades mean, if there is room.
fn heights(figure: &mut Figure, top: f64, above: &[Above]) {
    let top = top + 14.0;
    let room = FRAME.bottom - top - 14.0;
    if above.is_empty() || room < 70.0 {
        return;
    }
    figure.text((COLUMN.left, top), "loss", 13.0, GREY, Anchor::Start);
    let tall = (room / (above.len() + 1) as f64).min(24.0);
    let bottom = top + 12.0 + tall * (above.len() + 1) as f64;
    // Every level has its text, or one in several.
    let every = (15.0 / tall).ceil() as usize;
    for shade in 0..=above.len() {
        let low = bottom - tall * shade as f64;
        let frame =
            Frame { left: COLUMN.left, top: low - tall - 0.5, right: COLUMN.left + 22.0, bottom: low };
        figure.rectangle(frame, &height(shade as f64 / above.len() as f64));
    }
    for (index, Above { level, .. }) in above.iter().enumerate().filter(|(k, _)| k.is_multiple_of(every)) {
        let y = bottom - tall * (index + 1) as f64;
        figure.line(&[(COLUMN.left + 22.0, y), (COLUMN.left + 27.0, y)], &Stroke::new(GREY, 1.0));
        figure.text((COLUMN.left + 32.0, y + 4.2), &short(*level, 3), 12.0, INK, Anchor::Start);
    }
}
