//! Tests of the pictures: odd records, words within the picture, seams.

use super::search::Trace;
use super::*;
use crate::label::Label;
use crate::run_folder::{Kind, Record};
use resvg::usvg::{Group, Node};

/// The record of a step.
fn step(step: u64, loss: f32) -> Record {
    Record::Step {
        step,
        epoch: 1,
        loss,
        lr: 0.1,
        skipped: false,
        kind: Kind::Train,
        time: Some(0.5),
        examples_per_second: None,
        grad_norm: None,
    }
}

/// The record of a test.
fn test(step: u64, test_accuracy: f64) -> Record {
    Record::Epoch { step, epoch: 1, test_accuracy, test_loss: 0.5, kind: Kind::Test, time: None }
}

fn label(name: &str, settings: &str) -> Label {
    Label { name: name.into(), settings: settings.into() }
}

/// Returns the boxes of all words: left, top, right, bottom.
fn words(group: &Group, found: &mut Vec<[f32; 4]>) {
    for node in group.children() {
        match node {
            Node::Group(group) => words(group, found),
            Node::Text(text) => {
                let bounds = text.abs_bounding_box();
                found.push([bounds.left(), bounds.top(), bounds.right(), bounds.bottom()]);
            }
            _ => {}
        }
    }
}

/// Checks that a picture can be read, that all its words are within it, and that none lies over another.
fn is_whole(svg: &str, why: &str) {
    let tree = raster::tree(svg).unwrap_or_else(|error| panic!("{why}: {error}"));
    let mut found = Vec::new();
    words(tree.root(), &mut found);
    assert!(found.len() > 3, "{why}");
    for (index, &[left, top, right, bottom]) in found.iter().enumerate() {
        assert!(left >= 0.0 && top >= 0.0 && right <= 960.0 && bottom <= 680.0, "{why}: {:?}", found[index]);
        for &[l, t, r, b] in &found[index + 1..] {
            // The boxes have room above and below letters: a third of it may be shared.
            let (across, down) = (right.min(r) - left.max(l), bottom.min(b) - top.max(t));
            assert!(across <= 0.0 || down <= 5.5, "{why}: {:?} lies over {:?}", found[index], [l, t, r, b]);
        }
    }
}

/// Whatever the records are, the picture is whole and says what it left out.
#[test]
fn odd_records_are_drawn() {
    let steep = (0..400).map(|n| step(n, if n % 9 == 0 { 0.0 } else { f32::MAX / 1.1_f32.powi(n as i32) }));
    let cases: [(Vec<Record>, &str); 8] = [
        (vec![], ">0 steps  ·  0 epochs<"),
        (
            vec![step(1, 2.5), test(1, 0.125)],
            ">1 step  ·  1 epoch  ·  500.0ms  ·  test loss 0.5000  ·  test accuracy 12.5%<",
        ),
        (vec![step(1, f32::NAN)], "1 value not finite, left out"),
        (vec![step(1, f32::INFINITY), test(1, f64::NAN)], "2 values not finite, left out"),
        (vec![step(u64::MAX, -3e38), step(3, 3e38), test(5, -1e300), test(6, 1e300)], "2 epochs"),
        ((1..100).map(|n| step(n, 0.0)).collect(), "mean over 3 steps"),
        ((1..100).map(|n| step(n, 1e-45)).collect(), ">loss<"),
        (steep.collect(), ">loss, logarithmic<"),
    ];
    for (records, part) in cases {
        let svg = training(&label("AdamW", "lr=0.001"), "digits", &records);
        assert!(svg.contains(part), "{part}: {svg}");
        assert!(svg.contains(">AdamW on digits<") && svg.contains(">lr=0.001<"));
        is_whole(&svg, part);
    }
}

/// However long settings are and however many runs there are, words stay within the picture.
#[test]
fn words_stay_within_pictures() {
    let long = label("AdamWScheduleFreeWithAVeryLongName", &"weight_decay=0.123456, ".repeat(12));
    let short = label("SGD", "lr=0.001");
    let losses: Vec<f64> = (0..=50).map(|n| 0.7_f64.powi(n) * 1e5).collect();
    let way: Vec<(f64, f64)> = (0..=50).map(|n| 0.9_f64.powi(n)).map(|r| (r, -r)).collect();
    for count in [1, 2, 3, 11, 40] {
        let trace = |index: usize| Trace {
            label: if index == 0 { &long } else { &short },
            way: way.clone(),
            losses: &losses,
            diverged_at: (index == 2).then_some(7),
        };
        let traces: Vec<Trace<'_>> = (0..count).map(trace).collect();
        is_whole(&super::losses("Quadratic", &traces), "losses");
        let value = |x: f64, y: f64| x * x + 100.0 * y * y;
        let svg = landscape("Quadratic", &traces, value, &[(0.0, 0.0)]);
        is_whole(&svg, "landscape");
        // Of entries with the same name the settings are always told.
        assert!(count == 1 || svg.contains(">lr=0.001<"), "{count}");
        for part in ["known minimum", ">start<", ">end<", ">x[0]<", ">x[1]<"] {
            assert!(svg.contains(part), "{part}");
        }
        let labels: Vec<&Label> = traces.iter().map(|trace| trace.label).collect();
        let panels = ["lr", "momentum", "weight_decay"].map(|name| {
            let series = (0..count).map(|index| Series { index, values: &losses });
            (name.to_owned(), series.collect::<Vec<_>>())
        });
        let lines = vec![long.settings.clone(), "50 steps".into()];
        let heading = Heading { title: long.name.repeat(4), lines, across: "step".into() };
        is_whole(&values(&heading, &labels, &panels), "values");
    }
}

/// Dots of steps that are less than a dot apart would hide the way: most are left out.
#[test]
fn dots_are_apart() {
    let adam = label("AdamW", "lr=0.001");
    let losses = [1.0; 51];
    let dots = |by: f64| {
        let way = (0..=50).map(|n| (f64::from(n) * by, 1.0)).collect();
        let trace = Trace { label: &adam, way, losses: &losses, diverged_at: None };
        let svg = landscape("Quadratic", &[trace], |x, y| x * x + y * y, &[(50.0, 1.0)]);
        svg.matches("<circle").count()
    };
    assert!(dots(1.0) > dots(0.02) + 30);
}

/// A way that leaves for infinity does not take the picture along.
#[test]
fn diverging_ways_are_cut_off() {
    let sgd = label("SGD", "lr=10");
    let way = [(-1.2, 1.0), (-900.0, 4e4), (3e13, -1e12), (-1e130, 8e140), (f64::INFINITY, f64::NAN)];
    let losses = [24.2, 6e10, 1e60, f64::INFINITY, f64::NAN];
    let trace = || Trace { label: &sgd, way: way.to_vec(), losses: &losses, diverged_at: Some(3) };
    let rosenbrock = |x: f64, y: f64| 100.0 * (y - x * x).powi(2) + (1.0 - x).powi(2);
    for svg in [
        landscape("Rosenbrock", &[trace()], rosenbrock, &[(1.0, 1.0)]),
        super::losses("Rosenbrock", &[trace()]),
    ] {
        is_whole(&svg, "diverged");
        assert!(svg.contains("diverged at step 3"));
        assert!(!svg.contains("inf") && !svg.contains("NaN") && svg.len() < 150_000, "{}", svg.len());
    }
}

/// A trajectory that swings farther and farther is drawn until it leaves.
#[test]
fn swings_do_not_fill_the_picture() {
    let sgd = label("SGD", "lr=0.0021");
    let way: Vec<(f64, f64)> = (0..3000).map(|n| (0.999_f64.powi(n), (-1.1_f64).powi(n))).collect();
    let losses: Vec<f64> = way.iter().map(|(x, y)| 0.5 * x * x + 500.0 * y * y).collect();
    let trace = Trace { label: &sgd, way, losses: &losses, diverged_at: None };
    let svg = landscape("Quadratic", &[trace], |x, y| 0.5 * x * x + 500.0 * y * y, &[(0.0, 0.0)]);
    is_whole(&svg, "swings");
    assert!(
        svg.contains(">outside from step ") && !svg.contains(">end<") && svg.len() < 40_000,
        "{}",
        svg.len()
    );
}

/// What is filled has no seams: neighbouring pixels of the contours differ by no more than the shades of two levels, and
/// none is white.
#[test]
fn contours_have_no_seams() {
    let sgd = label("SGD", "");
    let trace = Trace { label: &sgd, way: vec![(1.0, 0.0)], losses: &[1.0], diverged_at: None };
    let svg = landscape("Slope", &[trace], |x, y| (2.0 * x + 0.3 * y).exp(), &[]);
    let png = raster::png(&svg).unwrap();
    let picture = resvg::tiny_skia::Pixmap::decode_png(&png).unwrap();
    // Down the upper right of the frame, away from the way and the axes: the value hardly changes.
    let column: Vec<u8> = (220..600).map(|y| picture.pixel(1400, y).unwrap().red()).collect();
    let most = column.windows(2).map(|pair| pair[0].abs_diff(pair[1])).max().unwrap();
    assert!(most < 40, "{most}");
    assert!(column.iter().all(|red| *red < 250), "{column:?}");
}
