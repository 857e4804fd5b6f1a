//! The tables of docs/formats.md: how far each storage format takes each algorithm from states in `f32`, and how far slow
//! states drift in 16 bits.

use crate::common::{ONE_EACH, Random, best, generated, name_of, recipe};
use fallline::core::Format;
use fallline::optim::{StateFormat, StateStorage, param};
use fallline::{Driver, Optimizer, Recipe};

const ELEMENTS: usize = 512;
const STEPS: usize = 300;

/// The formats of the table's columns.
const FORMATS: [&str; 8] = ["bf16", "bf16_rne", "f16", "q8", "q8_grid", "q8_linear", "fp8", "q4"];

/// The gradients of a run: a number for each element, from its scale, the step, and how many there are.
type Trace = (&'static str, fn(&mut Random, f64, usize, usize) -> f64);

/// Each element has a scale between 1e-4 and 1.
const TRACES: [Trace; 3] = [
    ("steady", |random, scale, _, _| scale * random.unit()),
    // To a thousandth of the first.
    ("falling", |random, scale, t, steps| scale * random.unit() * 0.001f64.powf(t as f64 / steps as f64)),
    ("rare", |random, scale, _, _| if random.below(20) == 0 { scale * random.unit() } else { 0.0 }),
];

/// Where the parameters are before and after a trace. After each step `look` sees the optimizer.
fn run(
    recipe: &Recipe,
    format: &str,
    (_, trace): Trace,
    steps: usize,
    mut look: impl FnMut(usize, &Driver),
) -> [Vec<f64>; 2] {
    let mut optimizer = recipe.optimizer(best());
    let format = StateFormat::named(format).unwrap();
    optimizer.set_state_storage(0, StateStorage::all(format)).unwrap();
    let mut random = Random(7);
    let mut p: Vec<f32> = random.units(ELEMENTS).iter().map(|&x| x as f32).collect();
    let first = p.iter().map(|&x| f64::from(x)).collect();
    for t in 0..steps {
        let scale = |i: usize| 10f64.powf(-4.0 * i as f64 / ELEMENTS as f64);
        let g: Vec<f32> = (0..ELEMENTS).map(|i| trace(&mut random, scale(i), t, steps) as f32).collect();
        optimizer.step(&mut [param("w", &mut p, &g)]).unwrap();
        look(t, &optimizer);
    }
    [first, p.iter().map(|&x| f64::from(x)).collect()]
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

/// Mean and largest distance from the run in `f32`, relative to its mean displacement: the largest of all traces.
fn distance(recipe: &Recipe, format: &str) -> [f64; 2] {
    let mut found = [0.0f64; 2];
    for trace in TRACES {
        let [first, expected] = run(recipe, "f32", trace, STEPS, |_, _| {});
        let [_, got] = run(recipe, format, trace, STEPS, |_, _| {});
        let displacement = mean(first.iter().zip(&expected).map(|(a, b)| (a - b).abs()));
        let distances: Vec<f64> =
            expected.iter().zip(&got).map(|(a, b)| (a - b).abs() / displacement).collect();
        let largest = distances.iter().fold(0.0f64, |most, &x| most.max(x));
        found = [found[0].max(mean(distances.iter().copied())), found[1].max(largest)];
    }
    found
}

/// Percent, with two digits that count.
fn percent(x: f64) -> String {
    let x = 100.0 * x;
    match x {
        0.0 => "0".into(),
        _ if x >= 10.0 => format!("{x:.0}"),
        _ => format!("{x:.*}", (1.0 - x.log10().floor()) as usize),
    }
}

/// The table of errors.
fn table() -> String {
    let mut rows: Vec<(String, Vec<&str>)> = Vec::new();
    for text in ONE_EACH {
        let recipe = recipe(text);
        if StateStorage::all(Format::Bf16).check(recipe.algorithm()).is_err() {
            continue;
        }
        let cells = FORMATS.map(|format| distance(&recipe, format).map(percent).join(" / "));
        let (cells, name) = (cells.join(" | "), name_of(text));
        match rows.iter_mut().find(|(known, _)| *known == cells) {
            Some((_, names)) => names.push(name),
            None => rows.push((cells, vec![name])),
        }
    }
    let rows = rows.iter().filter(|(cells, _)| cells.chars().any(|c| matches!(c, '1'..='9')));
    let mut rows: Vec<String> =
        rows.map(|(cells, names)| format!("| `{}` | {cells} |\n", names.join("`, `"))).collect();
    rows.sort_by_key(|row| row.to_lowercase());
    let head = FORMATS.map(|format| format!(" `{format}` |")).concat();
    format!("| name |{head}\n|---|{}\n{}", "---|".repeat(FORMATS.len()), rows.concat())
}

/// Every bit of a run is defined, so what is found is what docs/formats.md says. With `FALLLINE_FORMATS=write` it is written.
#[test]
fn the_errors_of_formats_are_those_of_the_table() {
    generated("docs/formats.md", "errors", COMMAND, &table());
}

/// What writes the tables of docs/formats.md.
const COMMAND: &str = "FALLLINE_FORMATS=write cargo test --release --test numbers format_errors";

/// A drift in percent, short.
fn short(drift: f64) -> String {
    match drift.abs() {
        x if x < 10.0 => format!("{drift:+.1}"),
        x if x < 1000.0 => format!("{drift:+.0}"),
        _ => format!("{drift:+.1e}"),
    }
}

/// The states of two runs, element by element: how far their sums differ, and the median deviation of an element.
fn drift(expected: &[f64], got: &[f64]) -> String {
    let sum = |of: &[f64]| of.iter().map(|x| x.abs()).sum::<f64>();
    let mut deviations: Vec<f64> = expected.iter().zip(got).map(|(e, g)| (g / e - 1.0).abs()).collect();
    deviations.sort_by(f64::total_cmp);
    let median = percent(deviations[ELEMENTS / 2]);
    format!("{} ({median})", short(100.0 * (sum(got) / sum(expected) - 1.0)))
}

/// The table of slow states over a long run.
fn drifts() -> String {
    const STEPS: usize = 10_000;
    let mut table =
        "| state, trace | format | 100 | 1,000 | 10,000 | parameters |\n|---|---|---|---|---|---|\n"
            .to_owned();
    for (text, state) in [
        ("dict(type='AdamW', weight_decay=0.0)", "v"),
        ("dict(type='AdEMAMix', weight_decay=0.0)", "m_slow"),
        ("Adagrad", "sum"),
    ] {
        let recipe = recipe(text);
        for trace in TRACES {
            // The state after 100, 1,000 and 10,000 steps, and how far the parameters moved.
            let seen = |format| {
                let mut states = Vec::new();
                let [first, last] = run(&recipe, format, trace, STEPS, |t, optimizer| {
                    if [99, 999, 9_999].contains(&t) {
                        states.push(optimizer.state("w", state).unwrap().unwrap());
                    }
                });
                (states, first.iter().zip(&last).map(|(a, b)| b - a).collect::<Vec<f64>>())
            };
            let (expected, moved) = seen("f32");
            for format in ["bf16_rne", "bf16"] {
                let (got, here) = seen(format);
                let drifts: Vec<String> = expected.iter().zip(&got).map(|(e, g)| drift(e, g)).collect();
                let distance = mean(moved.iter().zip(&here).map(|(a, b)| (a - b).abs()));
                let distance = percent(distance / mean(moved.iter().map(|x| x.abs())));
                let (name, trace, drifts) = (recipe.algorithm().name(), trace.0, drifts.join(" | "));
                table += &format!("| {name} `{state}`, {trace} | `{format}` | {drifts} | {distance} |\n");
            }
        }
    }
    table
}

#[test]
fn the_drifts_of_slow_states_are_those_of_the_table() {
    generated("docs/formats.md", "drifts", COMMAND, &drifts());
}

/// No slow state drifts in 16 bits, of any name: large gradients, then small ones, and the mean of all elements is that of `f32`.
#[test]
fn slow_states_in_16_bits_do_not_drift() {
    let seen = |recipe: &Recipe, format: &str| {
        let mut optimizer = recipe.optimizer(best());
        let format = StateFormat::named(format).unwrap();
        optimizer.set_state_storage(0, StateStorage::all(format)).unwrap();
        let (mut random, mut p) = (Random(23), vec![0.5f32; 512]);
        for t in 0..1500 {
            let size = if t < 600 { 1.0 } else { 0.03 };
            let g: Vec<f32> = random.units(512).iter().map(|x| (size * x) as f32).collect();
            optimizer.step(&mut [param("w", &mut p, &g)]).unwrap();
        }
        let slow = optimizer.params()[0].states.clone().into_iter();
        let slow = slow.filter(|name| recipe.algorithm().state(name).slow);
        let sum = |name| optimizer.state("w", name).unwrap().unwrap().iter().map(|x| x.abs()).sum::<f64>();
        // Sophia's stays 0 without a Hessian.
        slow.map(|name| (name, sum(name))).filter(|(_, sum)| *sum > 0.0).collect::<Vec<(&str, f64)>>()
    };
    let (mut states, mut lost) = (0, 0);
    let recipes = ONE_EACH.iter().map(|text| (*text, recipe(text)));
    let with_formats = |recipe: &Recipe| StateStorage::all(Format::Bf16).check(recipe.algorithm()).is_ok();
    for (text, recipe) in recipes.filter(|(_, recipe)| with_formats(recipe)) {
        let expected = seen(&recipe, "f32");
        let drift = |format| {
            let found = seen(&recipe, format).into_iter().zip(&expected);
            found.map(|((_, got), (_, expected))| got / expected - 1.0).collect::<Vec<f64>>()
        };
        for format in ["bf16", "f16"] {
            for (drift, (name, _)) in drift(format).into_iter().zip(&expected) {
                // What estimates its step size has that in its states, and other errors move the estimate.
                let estimates = ["DAdapt", "Prodigy"].iter().any(|name| text.contains(name));
                let most = if estimates { 0.15 } else { 0.03 };
                assert!(drift.abs() < most, "{text} {format} {name}: {drift:+.4}");
                states += 1;
            }
        }
        lost += drift("bf16_rne").iter().filter(|drift| drift.abs() > 0.1).count();
    }
    assert!(states >= 60 && lost >= 20, "{states} states, of which {lost} drift when rounded to nearest");
}
