//! Tests of the plot: odd records, long curves.

use super::*;

/// The record of a step.
fn step(step: u64, loss: f32) -> Record {
    Record::Step { step, epoch: 1, loss, lr: 0.1, skipped: false }
}

/// Whatever the records are, the file is a whole picture, alone in its folder, and says what it left out.
#[test]
fn odd_records_are_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("loss.svg");
    let end = |step, test_accuracy| Record::Epoch { step, epoch: 1, test_accuracy, test_loss: 0.5 };
    let steep = (0..400).map(|n| step(n, if n % 9 == 0 { 0.0 } else { f32::MAX / 1.1_f32.powi(n as i32) }));
    let cases: [(Vec<Record>, &str); 8] = [
        (vec![], ">\n0 steps  ·  0 epochs\n<"),
        (vec![step(1, 2.5), end(1, 0.125)], ">\n1 step  ·  1 epoch  ·  test accuracy 12.5%\n<"),
        (vec![step(1, f32::NAN)], "1 value not finite, left out"),
        (vec![step(1, f32::INFINITY), end(1, f64::NAN)], "2 values not finite, left out"),
        (vec![step(u64::MAX, -3e38), step(3, 3e38), end(5, -1e300), end(6, 1e300)], "2 epochs"),
        ((1..100).map(|n| step(n, 0.0)).collect(), "mean over 3 steps"),
        ((1..100).map(|n| step(n, 1e-45)).collect(), "Training loss\n"),
        (steep.collect(), "Training loss, logarithmic\n"),
    ];
    for (records, words) in cases {
        loss_and_accuracy(&path, &records).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(svg.starts_with("<svg width=\"960\" height=\"680\" viewBox=\"0 0 1920 1360\""));
        assert!(svg.contains(words) && svg.trim_end().ends_with("</svg>"), "{words}: {svg}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let error = loss_and_accuracy(&folder.path().join("none/loss.svg"), &[]).unwrap_err();
    assert!(error.to_string().contains("none/loss.svg: "));
}

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
