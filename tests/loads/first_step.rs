//! What a load has brought, against the parameters that the first step binds: names, shapes, types.

use crate::common::{Buffer, Outcome, Random, Tensor, bind, build, cuda, outcome, run, search};
use fallline::optim::average::Average;
use fallline::optim::gradient_config::{Accumulate, GradientConfig};
use fallline::optim::{Binding, Error, LoadReport, Objective, param};
use fallline::{Checkpoint, Driver, Format, LoadOptions, NonFinitePolicy, Optimizer};
use proptest::prelude::*;
use safetensors::SafeTensors;
use std::collections::BTreeMap;

fn lenient() -> LoadOptions {
    LoadOptions::default().lenient()
}

/// Parameters with three gradients each, the same for the same name and length.
fn tensors(named: &[(&str, usize)]) -> Vec<Tensor> {
    let seed =
        |name: &str, n: usize| name.bytes().fold(n as u64, |sum, byte| (sum % 9973) * 31 + u64::from(byte));
    named.iter().map(|&(name, n)| Tensor::plain(name, n, 3, &mut Random(seed(name, n)))).collect()
}

/// What is saved after a step over parameters.
fn saved(text: &str, named: &[(&str, usize)]) -> Checkpoint {
    let mut optimizer = build(text);
    run(&mut optimizer, &mut tensors(named), 0..1);
    optimizer.save().unwrap()
}

/// What the first step after a load says where it is refused, and that it changes nothing.
fn refusal(optimizer: &mut Driver, tensors: &mut [Tensor]) -> String {
    let before = (outcome(optimizer, tensors), optimizer.save().unwrap());
    let error = optimizer.step(&mut bind(tensors, 1)).unwrap_err();
    assert!(matches!(error, Error::Mismatch(_)), "{error}");
    assert_eq!((outcome(optimizer, tensors), optimizer.save().unwrap()), before, "{error}");
    error.to_string()
}

fn of(outcome: &Outcome, name: &str) -> crate::common::Left {
    outcome.iter().find(|left| left.0 == name).unwrap_or_else(|| panic!("no {name}")).clone()
}

/// A trace of torch, and values that it leaves.
fn golden(name: &str) -> BTreeMap<String, (Vec<f32>, Vec<usize>)> {
    let path = format!("{}/tests/golden/loads/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let numbers =
        |data: &[u8]| data.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
    file.tensors()
        .into_iter()
        .map(|(key, view)| (key, (numbers(view.data()), view.shape().to_vec())))
        .collect()
}

fn golden_checkpoint(name: &str) -> Checkpoint {
    Checkpoint::read(format!("{}/tests/golden/loads/{name}.safetensors", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The parameters of a trace with their gradients.
fn traced(trace: &BTreeMap<String, (Vec<f32>, Vec<usize>)>, steps: usize) -> Vec<Tensor> {
    let params = trace.iter().filter_map(|(key, value)| Some((key.strip_prefix("param/")?, value)));
    let tensor = |(name, (values, shape)): (&str, &(Vec<f32>, Vec<usize>))| {
        let grad = |t: usize| Some(Buffer::F32(trace[&format!("grad/{t}/{name}")].0.clone()));
        let tensor = Tensor::new(name, Buffer::F32(values.clone()), (0..steps).map(grad).collect());
        Tensor { shape: Some(shape.clone()), ..tensor }
    };
    params.map(tensor).collect()
}

#[test]
fn a_run_saved_under_a_wrapper_goes_on_as_torch() {
    let (checkpoint, want) = (golden_checkpoint("ddp"), golden("want"));
    let mut tensors = traced(&golden("trace"), 2);
    let mut optimizer = build("dict(type='AdamW', lr=0.5)");
    assert_eq!(optimizer.load(&checkpoint).unwrap().matched, 2);
    let error = optimizer.step(&mut bind(&mut tensors, 0)).unwrap_err().to_string();
    for part in
        ["\"enc\"", "\"dec\"", "\"module.enc\"", "\"module.dec\"", "LoadOptions::rename(\"module.\", \"\")"]
    {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    // What the error says helps, in the same optimizer.
    let options = LoadOptions::default().rename("module.", "");
    assert!(optimizer.load_with(&checkpoint, &options).unwrap().is_complete());
    for t in 0..2 {
        let report = optimizer.step(&mut bind(&mut tensors, t)).unwrap();
        assert_eq!((report.updated, report.loaded), (2, None));
        for tensor in &tensors {
            let want = &want[&format!("param/{t}/{}", tensor.name)].0;
            for (got, want) in tensor.value.values().iter().zip(want) {
                // torch divides by the bias correction in another order: two roundings of f32.
                assert!(
                    (got - f64::from(*want)).abs() <= 2.4e-7 * f64::from(want.abs()).max(0.1),
                    "{got} {want}"
                );
            }
        }
    }
    assert!(optimizer.params().iter().all(|param| param.steps == 5));
}

#[test]
fn a_head_of_another_shape_is_refused_or_starts_anew() {
    let checkpoint = golden_checkpoint("old_head");
    let mut tensors = traced(&golden("new_head"), 1);
    let mut optimizer = build("AdamW");
    optimizer.load(&checkpoint).unwrap();
    let error = optimizer.step(&mut bind(&mut tensors, 0)).unwrap_err().to_string();
    assert!(error.contains("\"head\" has shape [5, 3] in it, but [2, 3] here"), "{error}");
    assert!(error.contains("lenient"), "{error}");

    optimizer.load_with(&checkpoint, &lenient()).unwrap();
    let mut alone = tensors.clone();
    let report = optimizer.step(&mut bind(&mut tensors, 0)).unwrap();
    let told = *report.loaded.clone().unwrap();
    assert_eq!((told.matched, told.shape.len(), told.missing.len(), told.unbound.len()), (1, 1, 0, 0));
    assert_eq!(told.shape[0].param, "head");
    assert_eq!(told.shape[0].got.dims(), [5, 3]);
    assert!(
        report.to_string().ends_with("of the load: 1 parameter restored, 1 of another shape"),
        "{report}"
    );
    assert_eq!(optimizer.load_report(), Some(&told));
    let steps = |name: &str| optimizer.params().iter().find(|param| param.name == name).unwrap().steps;
    assert_eq!((steps("body"), steps("head")), (2, 1));
    let mut fresh = build("dict(type='AdamW', lr=0.02)");
    run(&mut fresh, &mut alone, 0..1);
    assert_eq!(of(&outcome(&optimizer, &tensors), "head"), of(&outcome(&fresh, &alone), "head"));
}

/// Names in front of which something stands, and the rule that the error gives.
#[test]
fn a_refusal_says_what_would_rename() {
    for (before, here, rule) in [
        ("module.", "", "rename(\"module.\", \"\")"),
        ("_orig_mod.", "", "rename(\"_orig_mod.\", \"\")"),
        ("model.", "", "rename(\"model.\", \"\")"),
        ("module._orig_mod.", "", "rename(\"module._orig_mod.\", \"\")"),
        ("", "module.", "rename(\"\", \"module.\")"),
        ("module.", "model.", "rename(\"module.\", \"model.\")"),
        ("backbone.", "", "rename(\"backbone.\", \"\")"),
    ] {
        let name = |prefix: &str, own: &str| format!("{prefix}{own}");
        let (a, b) = (name(before, "fc.weight"), name(before, "fc.bias"));
        let checkpoint = saved("AdamW", &[(&a, 5), (&b, 3)]);
        let (c, d) = (name(here, "fc.weight"), name(here, "fc.bias"));
        let mut here_tensors = tensors(&[(&c, 5), (&d, 3)]);
        let mut optimizer = build("AdamW");
        optimizer.load(&checkpoint).unwrap();
        let error = refusal(&mut optimizer, &mut here_tensors);
        assert!(error.contains(rule), "{before} to {here}: {error}");
        optimizer.load_with(&checkpoint, &LoadOptions::default().rename(before, here)).unwrap();
        optimizer.step(&mut bind(&mut here_tensors, 1)).unwrap();
        assert!(optimizer.params().iter().all(|param| param.steps == 2));
    }
}

#[test]
fn everything_of_a_parameter_is_renamed() {
    let wrap = |driver: Driver| {
        let mut config = GradientConfig::default();
        config.accumulate = Accumulate { accumulation_steps: 2, total: None };
        driver.with_gradients(config).averaged(Average::exponential(0.25).unwrap())
    };
    for text in ["dict(type='AdamW', state_format='q8')", "Adafactor", "OnebitAdam"] {
        let (mut there, mut here) = (tensors(&[("module.a.weight", 600), ("module.b", 7)]), Vec::new());
        let mut optimizer = wrap(build(text));
        run(&mut optimizer, &mut there, 0..1);
        optimizer.step(&mut bind(&mut there, 1)).unwrap();
        optimizer.step(&mut bind(&mut there, 2)).unwrap();
        let checkpoint = optimizer.save().unwrap();
        here.extend(there.iter().cloned());
        here.iter_mut().for_each(|tensor: &mut Tensor| tensor.name = tensor.name.replace("module.", ""));
        let mut resumed = wrap(build(text));
        let report = resumed.load_with(&checkpoint, &LoadOptions::default().rename("module.", "")).unwrap();
        assert!(report.is_complete());
        // And back: it is the same checkpoint.
        let mut back = resumed.save().unwrap();
        assert_eq!(back.rename("", "module.").unwrap(), 2);
        assert_eq!(back, checkpoint, "{text}");
        optimizer.step(&mut bind(&mut there, 0)).unwrap();
        assert_eq!(resumed.step(&mut bind(&mut here, 0)).unwrap().loaded, None);
        let values =
            |tensors: &[Tensor]| tensors.iter().map(|tensor| tensor.value.bits()).collect::<Vec<_>>();
        assert_eq!(values(&there), values(&here), "{text}");
        assert_eq!(resumed.average("b").unwrap(), optimizer.average("module.b").unwrap(), "{text}");
    }
}

#[test]
fn a_rule_that_fits_nothing_or_joins_two_is_refused() {
    let mut checkpoint = saved("AdamW", &[("module.a", 5), ("a", 3)]);
    let mut optimizer = build("AdamW");
    let load = |optimizer: &mut Driver, options: LoadOptions| {
        optimizer.load_with(&checkpoint, &options).map_err(|error| error.to_string())
    };
    let error = load(&mut optimizer, LoadOptions::default().rename("modul3.", "")).unwrap_err();
    assert!(error.contains("\"modul3.\""), "{error}");
    load(&mut optimizer, lenient().rename("modul3.", "")).unwrap();
    let error = load(&mut optimizer, LoadOptions::default().rename("module.", "")).unwrap_err();
    assert!(error.contains("\"a\"") && error.contains("\"module.a\""), "{error}");
    let before = checkpoint.clone();
    checkpoint.rename("module.", "").unwrap_err();
    assert_eq!(checkpoint, before);
    // Of several rules the first holds.
    let options = LoadOptions::default().rename("module.", "b.").rename("", "c.");
    let mut names: Vec<String> = Vec::new();
    optimizer.load_with(&checkpoint, &options).unwrap();
    names.extend(optimizer.params().into_iter().map(|param| param.name));
    assert_eq!(names, ["b.a", "c.a"]);
}

/// Programs that step a part of their parameters at a time.
#[test]
fn what_is_merely_not_bound_is_kept_and_told() {
    let checkpoint = saved("AdamW", &[("g", 5), ("d", 3)]);
    let mut all = tensors(&[("g", 5), ("d", 3)]);
    let mut straight = build("AdamW");
    run(&mut straight, &mut all.clone()[..], 0..1);
    let mut optimizer = build("AdamW");
    optimizer.load(&checkpoint).unwrap();
    let report = optimizer.step(&mut bind(&mut all[..1], 1)).unwrap();
    assert_eq!(report.loaded.unwrap().unbound, ["d"]);
    let report = optimizer.step(&mut bind(&mut all[1..], 1)).unwrap();
    assert_eq!(report.loaded, None);
    assert!(optimizer.load_report().unwrap().is_complete());
    assert!(optimizer.params().iter().all(|param| param.steps == 2));
    // Once a step has gone through, new ones may join.
    optimizer.step(&mut bind(&mut tensors(&[("new", 4)]), 1)).unwrap();
}

#[test]
fn a_part_that_is_bound_later_is_compared_then() {
    let checkpoint = saved("AdamW", &[("g", 5), ("d", 3)]);
    let load = |options: &LoadOptions| {
        let mut optimizer = build("AdamW");
        optimizer.load_with(&checkpoint, options).unwrap();
        optimizer.step(&mut bind(&mut tensors(&[("g", 5)]), 1)).unwrap();
        optimizer
    };
    let mut optimizer = load(&LoadOptions::default());
    let error = refusal(&mut optimizer, &mut tensors(&[("d", 4)]));
    assert!(error.contains("\"d\" has shape [3] in it, but [4] here"), "{error}");
    let error = refusal(&mut optimizer, &mut tensors(&[("module.d", 3)]));
    assert!(error.contains("\"module.d\"") && error.contains("rename(\"\", \"module.\")"), "{error}");
    optimizer.step(&mut bind(&mut tensors(&[("new", 3)]), 1)).unwrap();
    let mut optimizer = load(&lenient());
    let report = optimizer.step(&mut bind(&mut tensors(&[("d", 4)]), 1)).unwrap();
    assert_eq!(report.loaded.unwrap().shape[0].param, "d");
    assert!(optimizer.params().iter().any(|param| param.name == "d" && param.steps == 1));
}

/// A step that does not go through leaves what a lenient load has brought, until one does.
#[test]
fn a_lenient_step_that_fails_leaves_what_was_loaded() {
    let checkpoint = saved("AdamW", &[("a", 5), ("b", 3)]);
    let mut optimizer = build("AdamW").with_non_finite(NonFinitePolicy::Skip);
    optimizer.load_with(&checkpoint, &lenient()).unwrap();
    let mut here = tensors(&[("a", 5), ("b", 4)]);
    let before = optimizer.save().unwrap();
    let mut bad = here.clone();
    bad[0].grads[1] = Some(Buffer::F32(vec![1.0; 4]));
    optimizer.step(&mut bind(&mut bad, 1)).unwrap_err();
    assert_eq!(optimizer.save().unwrap(), before);
    bad[0].grads[1] = Some(Buffer::F32(vec![f32::NAN; 5]));
    let skipped = optimizer.step(&mut bind(&mut bad, 1)).unwrap();
    assert!(skipped.skipped() && skipped.loaded.is_none());
    assert_eq!(optimizer.save().unwrap(), before);
    let report = optimizer.step(&mut bind(&mut here, 1)).unwrap();
    assert_eq!(report.loaded.unwrap().shape[0].param, "b");
    assert_ne!(optimizer.save().unwrap(), before);
}

#[test]
fn another_type_of_the_arithmetic_is_refused_or_starts_anew() {
    let checkpoint = saved("AdamW", &[("a", 5)]);
    let mut wide = tensors(&[("a", 5)]);
    wide[0].value = Buffer::new(Format::F64, &wide[0].value.values());
    let mut optimizer = build("AdamW");
    optimizer.load(&checkpoint).unwrap();
    let error = refusal(&mut optimizer, &mut wide);
    assert!(error.contains("\"a\" was computed in f32, but here in f64"), "{error}");
    optimizer.load_with(&checkpoint, &lenient()).unwrap();
    let report = optimizer.step(&mut bind(&mut wide, 1)).unwrap();
    assert_eq!(report.loaded.unwrap().computed[0].param, "a");
    assert_eq!(optimizer.params()[0].steps, 1);
    assert_eq!(optimizer.params()[0].formats, [Format::F64; 2]);
}

/// A window that is half full, and a parameter that starts anew in it.
#[test]
fn a_window_goes_with_its_parameter() {
    let build = || {
        let mut config = GradientConfig::default();
        config.accumulate = Accumulate { accumulation_steps: 3, total: None };
        build("dict(type='SGD', lr=1.0)").with_gradients(config)
    };
    let mut optimizer = build();
    run(&mut optimizer, &mut tensors(&[("a", 5), ("b", 3)]), 0..1);
    let checkpoint = optimizer.save().unwrap();
    let mut resumed = build();
    resumed.load(&checkpoint).unwrap();
    let mut here = tensors(&[("a", 5), ("b", 4)]);
    refusal(&mut resumed, &mut here);
    resumed.load_with(&checkpoint, &lenient()).unwrap();
    let start = here[1].value.values();
    let report = resumed.step(&mut bind(&mut here, 1)).unwrap();
    assert_eq!((report.accumulated, report.loaded.unwrap().shape.len()), (Some((2, 3)), 1));
    resumed.step(&mut bind(&mut here, 2)).unwrap();
    let grads: Vec<Vec<f64>> = [1, 2].map(|t| here[1].grads[t].as_ref().unwrap().values()).to_vec();
    for (i, (got, start)) in here[1].value.values().iter().zip(start).enumerate() {
        let want = start - (grads[0][i] + grads[1][i]) / 3.0;
        assert!((got - want).abs() < 1e-6, "{got} {want}");
    }
}

#[test]
fn incremental_steps_compare_each_parameter() {
    let checkpoint = saved("AdamW", &[("module.a", 5), ("module.b", 3)]);
    for policy in [NonFinitePolicy::Propagate, NonFinitePolicy::Skip] {
        let mut optimizer = build("AdamW").with_non_finite(policy);
        optimizer.load(&checkpoint).unwrap();
        let before = optimizer.save().unwrap();
        let (mut a, mut b) = (vec![1.0f32; 5], vec![1.0f32; 3]);
        let grads = (vec![0.5f32; 5], vec![0.5f32; 3]);
        let mut step = optimizer.begin().unwrap();
        let error = match step.needs_inspection() {
            true => step.inspect(param("a", &mut a, &grads.0)),
            false => step.apply(param("a", &mut a, &grads.0)),
        };
        let error = error.unwrap_err().to_string();
        assert!(error.contains("\"a\"") && error.contains("rename(\"module.\", \"\")"), "{error}");
        drop(step);
        assert_eq!((optimizer.save().unwrap(), a[0]), (before, 1.0));
        optimizer.load_with(&checkpoint, &lenient().rename("module.", "")).unwrap();
        let mut step = optimizer.begin().unwrap();
        if step.needs_inspection() {
            step.inspect(param("a", &mut a, &grads.0)).unwrap();
            step.inspect(param("new", &mut b, &grads.1)).unwrap();
        }
        step.apply(param("a", &mut a, &grads.0)).unwrap();
        step.apply(param("new", &mut b, &grads.1)).unwrap();
        let told = step.finish().unwrap().loaded.unwrap();
        assert_eq!((told.missing, told.unbound), (vec!["new".to_owned()], vec!["b".to_owned()]));
    }
}

#[test]
fn a_hessian_is_compared_too() {
    let checkpoint = saved("SophiaG", &[("module.a", 5)]);
    let mut optimizer = build("SophiaG");
    optimizer.load(&checkpoint).unwrap();
    let mut here = tensors(&[("a", 5)]);
    let error = optimizer.update_hessian(&mut bind(&mut here, 1)).unwrap_err().to_string();
    assert!(error.contains("rename(\"module.\", \"\")"), "{error}");
}

#[test]
fn an_offloaded_optimizer_compares_too() {
    let checkpoint = saved("AdamW", &[("module.a", 5)]);
    let device = cuda();
    let mut optimizer = crate::common::build_on(device.clone(), "AdamW");
    optimizer.offload(crate::common::cpu(fallline::Isa::best(), 1)).unwrap();
    optimizer.load(&checkpoint).unwrap();
    let tensor = || fallline::Tensor::zeros(&device, Format::F32, [5]).unwrap();
    let (mut value, grad) = (tensor(), tensor());
    let error = optimizer.step(&mut [param("a", &mut value, &grad)]).unwrap_err().to_string();
    assert!(error.contains("rename(\"module.\", \"\")"), "{error}");
    optimizer.load_with(&checkpoint, &LoadOptions::default().rename("module.", "")).unwrap();
    optimizer.step(&mut [param("a", &mut value, &grad)]).unwrap();
    assert_eq!(optimizer.params()[0].steps, 2);
}

/// A bowl in two parameters.
struct Bowl {
    names: [&'static str; 2],
    at: [Vec<f64>; 2],
    grads: [Vec<f64>; 2],
}

impl Bowl {
    fn new(names: [&'static str; 2], lengths: [usize; 2]) -> Bowl {
        let of = |x: f64| lengths.map(|n| (0..n).map(|i| x + i as f64).collect());
        Bowl { names, at: of(1.0), grads: of(0.0) }
    }
}

impl Objective for Bowl {
    fn evaluate(&mut self) -> fallline::optim::Result<f64> {
        self.grads = self.at.clone().map(|at| at.iter().map(|x| 3.0 * x).collect());
        Ok(self.at.iter().flatten().map(|x| 1.5 * x * x).sum())
    }

    fn bindings(&mut self) -> Vec<Binding<'_>> {
        let parts = self.names.iter().zip(&mut self.at).zip(&self.grads);
        parts.map(|((name, at), grad)| param(name, at, grad)).collect()
    }
}

#[test]
fn a_search_is_compared_as_a_whole() {
    const TEXT: &str = "dict(type='LBFGS', max_iter=1, lr=0.1)";
    let (mut bowl, mut optimizer) = (Bowl::new(["module.a", "module.b"], [2, 3]), search(TEXT));
    optimizer.step_with(&mut bowl).unwrap();
    let checkpoint = optimizer.save().unwrap();
    for (names, lengths, parts) in [
        (["a", "b"], [2, 3], ["\"a\", \"b\" are not in it", "rename(\"module.\", \"\")"]),
        (["module.a", "module.b"], [2, 4], ["\"module.b\" has shape [3] in it, but [4] here", "lenient"]),
    ] {
        let mut other = Bowl::new(names, lengths);
        let mut resumed = search(TEXT).averaged(Average::exponential(0.5).unwrap());
        resumed.load(&checkpoint).unwrap();
        let (before, at) = (resumed.save().unwrap(), other.at.clone());
        let error = resumed.step_with(&mut other).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert_eq!((resumed.save().unwrap(), other.at.clone()), (before, at));
        // A lenient load starts anew as a whole, and says so.
        resumed.load_with(&checkpoint, &lenient()).unwrap();
        resumed.step_with(&mut other).unwrap();
        let told: &LoadReport = resumed.load_report().unwrap();
        assert!(told.matched == 0 && !told.is_complete());
        let mut fresh = search(TEXT).averaged(Average::exponential(0.5).unwrap());
        let mut alone = Bowl::new(names, lengths);
        fresh.step_with(&mut alone).unwrap();
        assert_eq!(other.at, alone.at);
        assert_eq!(resumed.save().unwrap(), fresh.save().unwrap());
    }
    let mut renamed = Bowl::new(["a", "b"], [2, 3]);
    (renamed.at, renamed.grads) = (bowl.at.clone(), bowl.grads.clone());
    let mut resumed = search(TEXT);
    resumed.load_with(&checkpoint, &LoadOptions::default().rename("module.", "")).unwrap();
    resumed.step_with(&mut renamed).unwrap();
    optimizer.step_with(&mut bowl).unwrap();
    assert_eq!(renamed.at, bowl.at);
}

/// What became of a parameter between a checkpoint and a model.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    Same,
    Renamed,
    Resized,
    Widened,
    OnlySaved,
    OnlyBound,
}

fn change() -> impl Strategy<Value = Change> {
    use Change::{OnlyBound, OnlySaved, Renamed, Resized, Same, Widened};
    prop_oneof![6 => Just(Same), 1 => Just(Renamed), 1 => Just(Resized), 1 => Just(Widened), 1 => Just(OnlySaved), 1 => Just(OnlyBound)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// A checkpoint and a model differ in any way. What does not fit is refused by name, or starts anew and is reported.
    /// What fits continues as if nothing had been.
    #[test]
    fn random_checkpoints_against_random_models(
        params in proptest::collection::vec((change(), 1..40usize), 1..6),
        text in prop_oneof![Just("AdamW"), Just("dict(type='SGD', lr=0.1, momentum=0.9)"), Just("dict(type='Lion', state_format='q8')")],
    ) {
        let name = |i: usize| format!("layer{i}.weight");
        let (mut there, mut here) = (Vec::new(), Vec::new());
        for (i, &(change, elements)) in params.iter().enumerate() {
            let own = name(i);
            let old = if change == Change::Renamed { format!("module.{own}") } else { own.clone() };
            if change != Change::OnlyBound {
                there.extend(tensors(&[(&old, elements)]));
            }
            let elements = elements + usize::from(change == Change::Resized);
            if change != Change::OnlySaved {
                let mut tensor = tensors(&[(&own, elements)]);
                if change == Change::Widened {
                    tensor[0].value = Buffer::new(Format::F64, &tensor[0].value.values());
                }
                here.extend(tensor);
            }
        }
        let mut straight = build(text);
        run(&mut straight, &mut there, 0..1);
        let checkpoint = straight.save().unwrap();
        let bad = |change: Change| !matches!(change, Change::Same | Change::OnlySaved);
        let culprits: Vec<String> =
            (0..params.len()).filter(|&i| bad(params[i].0)).map(name).collect();
        let knows_any = !there.is_empty();

        let mut strict = build(text);
        strict.load(&checkpoint).unwrap();
        let mut values = here.clone();
        // What resumes has the values that the run had.
        for tensor in values.iter_mut().chain(&mut here) {
            if let Some(same) = there.iter().find(|other| other.name == tensor.name && other.value.format() == tensor.value.format() && other.value.values().len() == tensor.value.values().len()) {
                tensor.value = same.value.clone();
            }
        }
        let stepped = strict.step(&mut bind(&mut values, 1));
        prop_assert_eq!(stepped.is_ok(), culprits.is_empty() || !knows_any, "{:?}", params);
        if let Err(error) = stepped {
            let told = error.to_string();
            let named = |name: &String| told.contains(&format!("{name:?}"));
            prop_assert!(culprits.len() > 3 || culprits.iter().all(named), "{}", told);
            prop_assert_eq!(strict.save().unwrap(), checkpoint.clone());
            for (tensor, before) in values.iter().zip(&here) {
                prop_assert_eq!(tensor.value.bits(), before.value.bits());
            }
        }

        let mut passing = build(text);
        passing.load_with(&checkpoint, &lenient()).unwrap();
        let (mut values, mut alone) = (here.clone(), here.clone());
        let report = passing.step(&mut bind(&mut values, 1)).unwrap();
        let mut fresh = build(text);
        fresh.step(&mut bind(&mut alone, 1)).unwrap();
        run(&mut straight, &mut there, 1..2);
        let (got, fresh, went_on) = (outcome(&passing, &values), outcome(&fresh, &alone), outcome(&straight, &there));
        for (i, &(change, _)) in params.iter().enumerate().filter(|(_, (change, _))| *change != Change::OnlySaved) {
            let want = if bad(change) { of(&fresh, &name(i)) } else { of(&went_on, &name(i)) };
            prop_assert_eq!(of(&got, &name(i)), want, "{}: {:?}", text, change);
        }
        let told = report.loaded.map(|told| *told).unwrap_or_default();
        let count = |one: Change| params.iter().filter(|(change, _)| *change == one).count();
        if knows_any {
            prop_assert_eq!(told.missing.len(), count(Change::Renamed) + count(Change::OnlyBound));
            prop_assert_eq!((told.shape.len(), told.computed.len()), (count(Change::Resized), count(Change::Widened)));
            prop_assert_eq!(told.unbound.len(), count(Change::Renamed) + count(Change::OnlySaved));
        }
    }
}
