//! QK-clip: heads of query and key projections whose largest logit is too large are scaled down, and nothing else is
//! changed.
use crate::common::{Buffer, Random, backends, best, bits, recipe};
use fallline::core::Backend;
use fallline::optim::{Binding, QkClip, frozen, param};
use fallline::ranks::threads;
use fallline::{Driver, Format, Optimizer};
use std::sync::Arc;
use std::time::Duration;

const MUON: &str = "dict(type='Muon', lr=0.02, split=4)";
const ADAMW: &str = "dict(type='AdamW', lr=0.01)";
/// Four heads of three rows.
const SHAPE: [usize; 2] = [12, 5];

fn numbers(seed: u64) -> Vec<f64> {
    Random(seed).units(60)
}

/// Returns what takes one step over `w`, and its values then.
fn stepped(text: &str, backend: &Arc<dyn Backend>, format: Format) -> (Driver, Buffer) {
    let (mut value, grad) = (Buffer::new(format, &numbers(1)), Buffer::new(format, &numbers(2)));
    let mut optimizer = recipe(text).optimizer(Arc::clone(backend));
    let binding = param("w", value.param_from(0), grad.grad_from(0)).shaped(&SHAPE);
    optimizer.step(&mut [binding]).unwrap();
    (optimizer, value)
}

fn bound(value: &mut Buffer) -> [Binding<'_>; 1] {
    [frozen("w", value.param_from(0)).shaped(&SHAPE)]
}

/// Returns what each element is multiplied by, of heads whose first row is `first`.
fn factors(first: usize, each: usize, logits: &[f32], exponent: f64) -> Vec<f64> {
    let of = |i: usize| {
        let logit = (i / SHAPE[1]).checked_sub(first).and_then(|row| logits.get(row / each));
        logit.map_or(1.0, |logit| (100.0 / f64::from(*logit).max(100.0)).powf(exponent))
    };
    (0..60).map(of).collect()
}

#[test]
fn heads_above_the_threshold_are_scaled_and_no_others() {
    let logits = [99.0, 400.0, -1e30, 250.0];
    for (backend, text) in backends().iter().flat_map(|b| [MUON, ADAMW].map(|text| (b, text))) {
        for format in [Format::F64, Format::F32] {
            let (mut optimizer, mut value) = stepped(text, backend, format);
            let (before, states) = (value.values(), optimizer.save().unwrap().to_bytes().unwrap());
            let scaled =
                optimizer.clip_qk(100.0, &[QkClip::query("w", &logits)], &mut bound(&mut value)).unwrap();
            assert_eq!(scaled, 2);
            for (i, (got, factor)) in value.values().iter().zip(factors(0, 3, &logits, 0.5)).enumerate() {
                // A factor rounded to the compute type, and a product rounded to the same.
                let allowed =
                    2.0 * if format == Format::F64 { f64::EPSILON } else { f64::from(f32::EPSILON) };
                let error = (got - factor * before[i]).abs() / before[i].abs();
                assert!(error <= allowed, "{} {text} [{i}]: {error:e}", backend.describe());
                assert!(factor < 1.0 || got.to_bits() == before[i].to_bits(), "{text} [{i}]");
            }
            assert!(states == optimizer.save().unwrap().to_bytes().unwrap(), "{text}: a state moved");
        }
    }
}

#[test]
fn projections_in_one_weight_have_rows_and_exponents_of_their_own() {
    let (queries, keys) = ([400.0, 50.0], [900.0]);
    for backend in backends() {
        let (mut optimizer, mut value) = stepped(ADAMW, &backend, Format::F64);
        let before = value.values();
        let clips = [
            QkClip::query("w", &queries).rows(0..6).exponent(1.0),
            QkClip::key("w", &keys).rows(6..9).exponent(0.25),
        ];
        assert_eq!(optimizer.clip_qk(100.0, &clips, &mut bound(&mut value)).unwrap(), 2);
        let (of_queries, of_keys) = (factors(0, 3, &queries, 1.0), factors(6, 3, &keys, 0.25));
        for (i, got) in value.values().iter().enumerate() {
            let expected = before[i] * of_queries[i] * of_keys[i];
            assert!((got - expected).abs() <= 1e-15 * expected.abs(), "{} [{i}]", backend.describe());
        }
    }
}

#[test]
fn master_weights_are_scaled_and_the_parameter_rounded_from_them() {
    let logits = [400.0, 1.0, 1.0, 130.0];
    for backend in backends() {
        let text = "dict(type='AdamW', lr=0.01, param_format='master')";
        let (mut optimizer, mut value) = stepped(text, &backend, Format::Bf16);
        let before = optimizer.state("w", "master").unwrap().unwrap();
        optimizer.clip_qk(100.0, &[QkClip::key("w", &logits)], &mut bound(&mut value)).unwrap();
        let after = optimizer.state("w", "master").unwrap().unwrap();
        for (i, factor) in factors(0, 3, &logits, 0.5).iter().enumerate() {
            let error = (after[i] - factor * before[i]).abs() / before[i].abs();
            assert!(error <= 2.0 * f64::from(f32::EPSILON), "{} [{i}]: {error:e}", backend.describe());
        }
        assert_eq!(value.values(), Buffer::new(Format::Bf16, &after).values(), "{}", backend.describe());
    }
}

#[test]
fn every_device_rounds_stochastically_alike() {
    let logits = [400.0, 1.0, 1.0, 130.0];
    let clipped = |backend: &Arc<dyn Backend>| {
        let text = "dict(type='AdamW', lr=0.01, param_format='bf16_sr', seed=7)";
        let (mut optimizer, mut value) = stepped(text, backend, Format::Bf16);
        let before = value.values();
        optimizer.clip_qk(100.0, &[QkClip::key("w", &logits)], &mut bound(&mut value)).unwrap();
        (before, value.values())
    };
    let (before, expected) = clipped(&best());
    for (i, factor) in factors(0, 3, &logits, 0.5).iter().enumerate() {
        // A neighbour in bf16 is 2⁻⁷ away at most.
        assert!((expected[i] - factor * before[i]).abs() <= before[i].abs() / 128.0, "[{i}]");
    }
    for backend in backends() {
        assert_eq!(bits(&clipped(&backend).1), bits(&expected), "{}", backend.describe());
    }
}

#[test]
fn a_view_that_is_not_contiguous_is_scaled_in_place() {
    let (mut optimizer, value) = stepped(ADAMW, &best(), Format::F64);
    let before = value.values();
    // Stored as its transpose.
    let mut stored = ndarray::Array2::from_shape_fn((5, 12), |(j, i)| before[i * 5 + j]);
    let logits = [1.0, 400.0, 1.0, 1.0];
    let clips = [QkClip::query("w", &logits)];
    let mut view = stored.view_mut().reversed_axes();
    assert_eq!(optimizer.clip_qk(100.0, &clips, &mut [frozen("w", &mut view)]).unwrap(), 1);
    for (i, factor) in factors(0, 3, &logits, 0.5).iter().enumerate() {
        assert_eq!(stored[[i % 5, i / 5]].to_bits(), (factor * before[i]).to_bits(), "[{i}]");
    }
}

#[test]
fn what_does_not_fit_is_named_and_nothing_is_changed() {
    let (mut optimizer, mut value) = stepped(ADAMW, &best(), Format::F32);
    let before = bits(&value.values());
    let good = [400.0; 4];
    let clip = QkClip::query("w", &good);
    let with = |other: QkClip<'static>| vec![QkClip::query("w", &[400.0; 4]), other];
    for (threshold, clips, problem) in [
        (0.0, vec![clip.clone()], "threshold of QK-clip must be positive, got 0"),
        (f64::NAN, vec![clip.clone()], "threshold of QK-clip must be positive, got NaN"),
        (100.0, with(QkClip::key("k", &[400.0])), "QK-clip of \"k\": it is not bound"),
        (100.0, with(QkClip::key("w", &[400.0; 5])), "QK-clip of \"w\": its 12 rows are not 5 heads"),
        (100.0, with(QkClip::key("w", &[])), "QK-clip of \"w\": its 12 rows are not 0 heads"),
        (100.0, with(QkClip::key("w", &[400.0]).rows(8..13)), "rows 8..13 are not among its 12"),
        (100.0, with(QkClip::key("w", &[400.0]).exponent(1.5)), "exponent must be in [0, 1], got 1.5"),
        (100.0, with(QkClip::key("w", &[1.0, f32::NAN])), "the largest logit of head 1 is NaN"),
        (100.0, with(QkClip::key("w", &[f32::INFINITY])), "the largest logit of head 0 is inf"),
    ] {
        let told = optimizer.clip_qk(threshold, &clips, &mut bound(&mut value)).unwrap_err().to_string();
        assert!(told.contains(problem), "{told}");
        assert_eq!(bits(&value.values()), before, "{problem}");
    }
    let mut other = [0.0f32; 4];
    let told = optimizer.clip_qk(100.0, &[QkClip::key("n", &good)], &mut [frozen("n", &mut other)]);
    assert!(told.unwrap_err().to_string().contains("has not stepped it yet"));
    let told = optimizer.clip_qk(100.0, &[clip], &mut [frozen("w", &mut other)]).unwrap_err().to_string();
    assert!(told.contains("\"w\"") && told.contains("shape"), "{told}");
    // It goes on.
    assert_eq!(optimizer.clip_qk(100.0, &[], &mut []).unwrap(), 0);
    assert_eq!(optimizer.clip_qk(100.0, &[QkClip::key("w", &good)], &mut bound(&mut value)).unwrap(), 4);
}

#[test]
fn ranks_that_share_the_weights_hold_the_same() {
    let text = "dict(type='ZeroRedundancyOptimizer', optimizer_type='AdamW', lr=0.01, param_format='master')";
    let run = |mut optimizer: Driver| {
        let (mut value, grad) =
            (Buffer::new(Format::Bf16, &numbers(1)), Buffer::new(Format::Bf16, &numbers(2)));
        for _ in 0..3 {
            let binding = param("w", value.param_from(0), grad.grad_from(0)).shaped(&SHAPE);
            optimizer.step(&mut [binding]).unwrap();
            let clips = [QkClip::key("w", &[300.0, 150.0, 110.0, 90.0])];
            assert_eq!(optimizer.clip_qk(100.0, &clips, &mut bound(&mut value)).unwrap(), 3);
        }
        bits(&value.values())
    };
    let build = || recipe(text).optimizer(best());
    let alone = run(build());
    std::thread::scope(|scope| {
        let ranks = threads(2, Duration::from_secs(20));
        let running: Vec<_> =
            ranks.into_iter().map(|rank| scope.spawn(|| run(build().with_ranks(Arc::new(rank))))).collect();
        running.into_iter().for_each(|rank| assert_eq!(rank.join().unwrap(), alone));
    });
}
