//! Masks of momenta (`exp_avg_mask`): in Rust and in configurations, on one rank and on two. `optim/tests/ranks` compares
//! them with DeepSpeed's own code.

use crate::common::{best, recipe};
use fallline::optim::mask::MomentumMask;
use fallline::optim::param;
use fallline::ranks::threads;
use fallline::{Driver, Optimizer};
use std::thread;
use std::time::Duration;

const ROWS: usize = 6;
const COLUMNS: usize = 5;

/// Takes a step. Rows 0 to 3 have gradients, others only when asked for; `bias` has some.
fn step(optimizer: &mut Driver, table: &mut [f32], bias: &mut [f32], t: usize, all: bool) {
    let learns = |i: usize| if all || i < 4 * COLUMNS { 1.0 } else { 0.0 };
    let grad: Vec<f32> =
        (0..ROWS * COLUMNS).map(|i| (((i * 7 + t * 5) % 9) as f32 - 3.5) * learns(i)).collect();
    let table = param("positions.weight", table, &grad).shaped(&[ROWS, COLUMNS]);
    optimizer.step(&mut [table, param("bias", bias, &[0.5_f32, -0.25])]).unwrap();
}

fn run(mut optimizer: Driver, steps: usize, all: bool) -> (Vec<f32>, Vec<f32>) {
    let (mut table, mut bias) = (vec![0.5_f32; ROWS * COLUMNS], vec![0.5_f32; 2]);
    (0..steps).for_each(|t| step(&mut optimizer, &mut table, &mut bias, t, all));
    (table, bias)
}

const OPTIMIZERS: [(&str, &str); 3] = [
    ("OnebitAdam", "type='OnebitAdam', lr=0.01, freeze_step=3"),
    ("OnebitLamb", "type='OnebitLamb', lr=0.01, freeze_step=3, eps=1e-3"),
    (
        "ZeroOneAdam",
        "type='ZeroOneAdam', lr=0.01, var_freeze_step=3, local_step_scaler=2, local_step_clipper=2",
    ),
];

fn with_key(own: &str, mask: &str) -> String {
    let keys = format!("custom_keys={{'positions': dict({mask})}}");
    format!("optim_wrapper = dict(optimizer=dict({own}), paramwise_cfg=dict({keys}))\n")
}

#[test]
fn a_configurations_mask_is_that_of_rust() {
    for (name, own) in OPTIMIZERS {
        for (mask, rows) in
            [("exp_avg_mask=4", 0..4), ("exp_avg_mask=(1, 3)", 1..3), ("exp_avg_mask=0", 0..0)]
        {
            let built = recipe(&with_key(own, mask)).optimizer(best());
            assert_eq!(built.momentum_mask(1), Some(&MomentumMask::Rows(rows.clone())), "{name}, {mask}");
            assert_eq!(built.momentum_mask(0), None);
            let mut plain = recipe(&format!("dict({own})")).optimizer(best());
            let group = plain.add_group(|name| name.starts_with("positions"), &[]).unwrap();
            plain.set_momentum_mask(group, Some(MomentumMask::Rows(rows.clone()))).unwrap();
            let mut written = recipe(&format!("dict({own})")).optimizer(best());
            let group = written.add_group(|name| name.starts_with("positions"), &[]).unwrap();
            let live = |i: usize| f32::from(u8::from(rows.contains(&(i / COLUMNS))));
            let values = MomentumMask::Elements((0..ROWS * COLUMNS).map(live).collect());
            written.set_momentum_mask(group, Some(values)).unwrap();
            let expected = run(built, 9, true);
            assert_eq!(run(plain, 9, true), expected, "{name}, {mask}");
            assert_eq!(run(written, 9, true), expected, "{name}, {mask}");
            // One rank of ZeroOneAdam exchanges nothing, and has nothing to mask.
            let unmasked = run(recipe(&format!("dict({own})")).optimizer(best()), 9, true);
            assert_eq!(expected.1, unmasked.1, "{name}, {mask}: the other group");
            assert_eq!(expected.0 == unmasked.0, name == "ZeroOneAdam", "{name}, {mask}");
        }
        let whole = format!("dict({own}, exp_avg_mask=(1, 2))");
        let text = recipe(&whole).to_text();
        assert!(text.contains(", exp_avg_mask=(1, 2))"), "{text}");
        assert_eq!(recipe(&text).to_text(), text);
        let group = recipe(&format!(
            "optim_wrapper = dict(optimizer=dict({own}, exp_avg_mask=2), \
             paramwise_cfg=dict(custom_keys=dict(a=dict(lr_mult=2), b=dict(exp_avg_mask=None))))\n"
        ))
        .optimizer(best());
        let rows = Some(&MomentumMask::Rows(0..2));
        let masks = [0, 1, 2].map(|group_number| group.momentum_mask(group_number));
        assert!(masks == [rows, rows, None] || masks == [rows, None, rows], "{masks:?}");
    }
}

#[test]
fn what_does_not_fit_is_told_and_changes_nothing() {
    let errors = [
        ("type='AdamW', exp_avg_mask=4", "AdamW: it takes no exp_avg_mask: it does not compress momenta"),
        (
            "type='OnebitAdam', exp_avg_mask=-1",
            "exp_avg_mask must be a number of rows, or the first and the one",
        ),
        ("type='OnebitAdam', exp_avg_mask=(3, 1)", "exp_avg_mask must be a number of rows"),
        ("type='OnebitAdam', exp_avg_mask=1.5", "exp_avg_mask must be a number of rows"),
    ];
    for (text, told) in errors {
        let error = fallline::Recipe::from_text(&format!("dict({text})")).unwrap_err().to_string();
        assert!(error.contains(told), "{error}\n{told}");
    }
    for (mask, told) in [
        (MomentumMask::Rows(0..7), "has 6 rows, and its exp_avg_mask names rows 0 to 7"),
        (MomentumMask::Elements(vec![1.0; 29]), "has 30 elements, and its exp_avg_mask 29"),
    ] {
        let mut optimizer = recipe(&format!("dict({})", OPTIMIZERS[0].1)).optimizer(best());
        optimizer.set_momentum_mask(0, Some(mask)).unwrap();
        let mut table = vec![0.5_f32; ROWS * COLUMNS];
        let grad = vec![1.0_f32; ROWS * COLUMNS];
        let bound = param("positions.weight", &mut table, &grad).shaped(&[ROWS, COLUMNS]);
        let error = optimizer.step(&mut [bound]).unwrap_err().to_string();
        assert!(error.contains("\"positions.weight\"") && error.contains(told), "{error}");
        assert!(table.iter().all(|&value| value == 0.5) && optimizer.params().is_empty());
    }
}

/// A mask may change between steps: the next phase of training has other rows. Without gradients there it changes no bit on
/// one rank, whatever stages the step then has.
#[test]
fn a_mask_comes_and_goes() {
    for (name, own) in OPTIMIZERS {
        let mut optimizer = recipe(&format!("dict({own})")).optimizer(best());
        let (mut table, mut bias) = (vec![0.5_f32; ROWS * COLUMNS], vec![0.5_f32; 2]);
        let group = optimizer.add_group(|name| name.starts_with("positions"), &[]).unwrap();
        let masks = [None, Some(0..4), Some(0..5), None, Some(0..6), None];
        for (phase, rows) in masks.into_iter().enumerate() {
            optimizer.set_momentum_mask(group, rows.map(MomentumMask::Rows)).unwrap();
            for t in 2 * phase..2 * phase + 2 {
                step(&mut optimizer, &mut table, &mut bias, t, false);
            }
        }
        let unmasked = run(recipe(&format!("dict({own})")).optimizer(best()), 12, false);
        assert_eq!((table, bias), unmasked, "{name}");
    }
}

/// What masks are for: rows without gradients stay where they are on several ranks, where compression would move them.
#[test]
fn rows_without_gradients_stay_on_several_ranks() {
    let over_ranks = |text: String| {
        thread::scope(|scope| {
            let started: Vec<_> = threads(2, Duration::from_secs(60))
                .into_iter()
                .map(|rank| {
                    let text = &text;
                    scope.spawn(move || {
                        let optimizer = recipe(text).optimizer(best());
                        run(optimizer.with_ranks(std::sync::Arc::new(rank)), 14, false)
                    })
                })
                .collect();
            let all: Vec<_> = started.into_iter().map(|rank| rank.join().unwrap()).collect();
            assert!(all[0] == all[1]);
            all[0].0[4 * COLUMNS..].to_vec()
        })
    };
    for (name, own) in OPTIMIZERS {
        let moved = over_ranks(format!("optimizer = dict({own})\n"));
        assert!(moved.iter().any(|&value| value != 0.5), "{name}");
        let stayed = over_ranks(with_key(own, "exp_avg_mask=4"));
        assert!(stayed.iter().all(|&value| value == 0.5), "{name}: {stayed:?}");
    }
}
