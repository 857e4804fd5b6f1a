//! The files of trainers, each written by the trainer's library (`tests/golden/containers.py`). What they hold is
//! found, and what nobody needs of them is ignored.

use fallline_convert::{
    Dtype, Error, ExportOptions, ImportOptions, Limits, Report, Tensor, Value, archive, deepspeed,
    from_torch, names, safetensors, to_torch,
};
use fallline_core::{Compute, Kernel, Link, Rule};
use fallline_optim::algorithms::{Adagrad, AdamW, FusedAdam, Sgd};
use fallline_optim::checkpoint::OptimizerManifest;
use fallline_optim::hyper::Value as Hyper;
use fallline_optim::{AnyAlgorithm, Checkpoint, Linked, Method};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

/// Rules that are never run: only states are read.
struct Unrun;

impl Link for Unrun {
    fn kernel<R: Rule>() -> &'static Kernel {
        Box::leak(Box::new(Kernel::new::<R>(&())))
    }
}

fn method<A: fallline_optim::Algorithm + Default>() -> Method {
    let algorithm: Box<dyn AnyAlgorithm> = Box::new(Linked::<A, Unrun>::new(A::default()).unwrap());
    Method::from(&*algorithm)
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/containers").join(name)
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn tree(bytes: &[u8]) -> Value<'_> {
    archive::read(bytes, &Limits::default()).unwrap()
}

fn import(
    name: &str,
    base: &Method,
    options: &ImportOptions,
) -> fallline_convert::Result<(Checkpoint, Report)> {
    let bytes = file(name);
    from_torch(&archive::read(&bytes, &Limits::default())?, base, options)
}

fn refused(name: &str, options: &ImportOptions) -> String {
    match import(name, &method::<AdamW>(), options) {
        Err(error) => error.to_string(),
        Ok((_, report)) => panic!("{name} is taken: {report}"),
    }
}

fn named(list: &[&str]) -> ImportOptions {
    let names = list.iter().map(|name| (name.to_string(), None)).collect();
    ImportOptions { names: Some(names), ..ImportOptions::default() }
}

fn at(key: &str) -> ImportOptions {
    ImportOptions { key: Some(key.into()), number: true, ..ImportOptions::default() }
}

/// Returns what the library had in memory.
fn expected(name: &str) -> Vec<serde_json::Value> {
    let all: serde_json::Value = serde_json::from_slice(&file("expected.json")).unwrap();
    all[name].as_array().unwrap_or_else(|| panic!("{name} is not in expected.json")).clone()
}

/// Compares a checkpoint's steps and moments with the library's, bit for bit.
fn compare(file: &str, checkpoint: &Checkpoint) {
    let expected = expected(file);
    for param in &expected {
        let name = param["name"].as_str().unwrap();
        assert_eq!(checkpoint.steps(name).unwrap(), param["step"].as_u64().unwrap(), "{file}: {name}");
        for state in ["m", "v"] {
            let entry =
                checkpoint.state(name, state).unwrap_or_else(|| panic!("{file}: {name} has no {state}"));
            let want: Vec<f32> =
                param[state].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
            let got: Vec<f32> = entry.values();
            assert_eq!(got, want, "{file}: {name}/{state}");
            let shape: Vec<u64> = entry.shape.dims().iter().map(|&n| n as u64).collect();
            let want: Vec<u64> =
                param["shape"].as_array().unwrap().iter().filter_map(|n| n.as_u64()).collect();
            assert_eq!(shape, want, "{file}: {name}/{state}");
        }
    }
    let manifest = checkpoint.manifest.optimizer.as_ref().unwrap();
    assert_eq!(manifest.params().len(), expected.len(), "{file}");
}

#[test]
fn every_protocol_and_the_older_format_are_read() {
    let files = (0..6).map(|protocol| format!("protocol{protocol}.pth"));
    let older = ["legacy.pth", "legacy0.pth", "legacy4.pth", "zip64.pth"].map(str::to_owned);
    for name in files.chain(older) {
        let (checkpoint, report) = import(&name, &method::<AdamW>(), &ImportOptions::default())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        compare(&name, &checkpoint);
        assert_eq!((report.parameters, report.weights), (1, 1), "{name}");
        assert_eq!(checkpoint.param("w").unwrap().values::<f32>().len(), 3, "{name}");
        // As a list of names as well.
        assert_eq!(names(&file(&name), &Limits::default()).unwrap()[0].0, "w", "{name}");
    }
}

#[test]
fn the_older_format_is_refused_where_it_is_cut() {
    for name in ["legacy.pth", "legacy0.pth", "legacy4.pth"] {
        let bytes = file(name);
        for length in 0..bytes.len() {
            assert!(archive::read(&bytes[..length], &Limits::default()).is_err(), "{name}: {length} bytes");
        }
        let few = Limits { pickle_bytes: 100, ..Limits::default() };
        assert!(matches!(archive::read(&bytes, &few), Err(Error::Limit { .. })), "{name}");
        // Damaged, it is read or refused.
        for place in 0..bytes.len() {
            let mut other = bytes.clone();
            other[place] = !other[place];
            let _ = archive::read(&other, &Limits::default());
        }
    }
}

#[test]
fn what_nobody_needs_is_never_built_and_is_listed() {
    for (name, at, class) in [
        ("namespace.pth", "args", "argparse.Namespace"),
        ("datetime.pth", "when", "datetime.datetime"),
        ("fp8.pth", "scale", "a tensor of torch.float8_e4m3fn"),
    ] {
        let (checkpoint, report) = import(name, &method::<AdamW>(), &ImportOptions::default()).unwrap();
        compare(name, &checkpoint);
        let listed: Vec<(&str, &str)> =
            report.opaque.iter().map(|opaque| (opaque.at.as_str(), opaque.class.as_str())).collect();
        assert_eq!(listed, [(at, class)], "{name}");
        assert_eq!(report.left_out, [at], "{name}");
        assert!(report.to_string().contains(&format!("{at} ({class})")), "{report}");
    }
    let (checkpoint, report) =
        import("defaultdict.pth", &method::<AdamW>(), &ImportOptions::default()).unwrap();
    compare("defaultdict.pth", &checkpoint);
    assert!(report.opaque.is_empty(), "a defaultdict is a dict: {report}");
    let (checkpoint, report) = import("others.pth", &method::<AdamW>(), &ImportOptions::default()).unwrap();
    compare("others.pth", &checkpoint);
    let has = |at: &str| report.opaque.iter().any(|opaque| opaque.at == at);
    for at in
        ["complex", "wide", "sparse", "quantized", "meta", "things.0", "things.1", "things.2", "things.3"]
    {
        assert!(has(at), "{at} is not listed: {:?}", report.opaque);
    }
    for key in ["keys.(1, 2)", "keys.None", "keys.0.5"] {
        assert!(has(key), "{key} is not listed: {:?}", report.opaque);
    }
    let bytes = file("others.pth");
    let root = tree(&bytes);
    let expanded = root.get("expanded").unwrap();
    assert!(matches!(expanded, Value::Tensor(tensor) if tensor.numbers() == [1.0; 4]), "{expanded:?}");
    // A tree with all of it is written, without what was never built.
    let again = archive::write(&root).unwrap();
    assert_eq!(tree(&again).at("optimizer.state.0.step").and_then(Value::as_f64), Some(1.0));
    let again = safetensors::write(&root).unwrap();
    let again = safetensors::read(&again, &Limits::default()).unwrap();
    assert_eq!(again.at("optimizer.state.0.step").and_then(Value::as_f64), Some(1.0));
}

#[test]
fn numpys_scalars_and_arrays_are_numbers() {
    for name in ["numpy2.pth", "numpy5.pth"] {
        let bytes = file(name);
        let root = tree(&bytes);
        let Some(Value::Dict(scalars)) = root.get("scalars") else { panic!("{name}") };
        for (key, value) in scalars {
            let code = key.to_string();
            let want = match code.as_str() {
                "?" => Value::Bool(true),
                code if code.contains('i') => Value::Int(-3),
                code if code.contains('u') => Value::Int(3),
                _ => Value::Float(3.0),
            };
            assert_eq!(*value, want, "{name}: {code}");
        }
        let Some(Value::Dict(arrays)) = root.get("arrays") else { panic!("{name}") };
        for (key, value) in arrays {
            let Value::Tensor(tensor) = value else { panic!("{name}: {key} is {}", value.kind()) };
            let (shape, want): (&[usize], &[f64]) = match key.to_string().as_str() {
                "?" => (&[2, 3], &[1.0, 1.0, 0.0, 1.0, 1.0, 1.0]),
                "nothing" => (&[0, 3], &[]),
                "point" => (&[], &[2.5]),
                _ => (&[2, 3], &[1.0, 2.0, 0.0, 4.0, 5.0, 6.0]),
            };
            assert_eq!((tensor.shape(), &tensor.numbers()[..]), (shape, want), "{name}: {key}");
        }
        assert_eq!(root.at("odd.text"), Some(&Value::str("été")), "{name}");
        for key in ["bytes", "time", "complex", "texts", "objects", "fields"] {
            let value = root.get("odd").unwrap().get(key).unwrap();
            assert!(matches!(value, Value::Opaque(_)), "{name}: {key} is {value:?}");
        }
    }
    let (checkpoint, _) = import("numpy_group.pth", &method::<AdamW>(), &ImportOptions::default()).unwrap();
    let group = checkpoint.manifest.optimizer.as_ref().unwrap().groups().next().unwrap();
    let value = |name: &str| group.iter().find(|(known, _)| *known == name).unwrap().1.clone();
    // numpy's interpolation of 30 between 0 and 100 is 0.1 times 0.3.
    assert_eq!((value("lr"), value("weight_decay")), (Hyper::Float(0.03), Hyper::Float(0.25)));
    assert_eq!(value("betas"), Hyper::List(vec![Hyper::Float(0.5), Hyper::Float(0.75)]));
    assert_eq!(value("amsgrad"), Hyper::Bool(false));
}

#[test]
fn an_optimizer_is_found_wherever_it_is() {
    let adamw = method::<AdamW>();
    for key in [None, Some("optimizer_states.0"), Some("optimizer_states[0]")] {
        let options = ImportOptions { key: key.map(str::to_owned), ..ImportOptions::default() };
        let (checkpoint, report) = import("list.ckpt", &adamw, &options).unwrap();
        compare("list.ckpt", &checkpoint);
        assert_eq!(report.left_out, ["epoch"], "{key:?}");
    }
    // The only one is taken, however deep it is; what stands beside it on the way is named.
    let number = ImportOptions { number: true, ..ImportOptions::default() };
    let (checkpoint, report) = import("deep.pth", &adamw, &number).unwrap();
    assert_eq!(checkpoint.steps("0").unwrap(), 1);
    assert_eq!(report.left_out, ["optimizer_state_dict.loss_scaler"]);
    // Several are listed with the ways to them.
    let two = refused("two.pth", &number);
    assert!(two.contains("several optimizers: say which, opt_g or opt_d"), "{two}");
    let list = refused("states.pth", &number);
    assert!(list.contains("say which, 0 or 1"), "{list}");
    for (name, key) in [("two.pth", "opt_d"), ("states.pth", "1")] {
        assert_eq!(import(name, &adamw, &at(key)).unwrap().0.steps("0").unwrap(), 1, "{name}");
    }
    let wrong = refused("two.pth", &at("gen"));
    assert!(
        wrong.contains("gen: there is no optimizer's state") && wrong.contains("opt_g or opt_d"),
        "{wrong}"
    );
    for (name, says) in [
        ("scheduler.pt", "a learning-rate scheduler"),
        ("trainer/scheduler.pt", "a learning-rate scheduler"),
        ("accelerate/scheduler.bin", "a learning-rate scheduler"),
        ("scaler.pt", "a gradient scaler"),
        ("trainer/rng_state.pth", "random number generators"),
        ("accelerate/random_states_0.pkl", "random number generators"),
        ("model.pth", "a model's state alone"),
    ] {
        let error = refused(name, &number);
        assert!(error.contains("no optimizer's state") && error.contains(says), "{name}: {error}");
    }
}

#[test]
fn the_trainers_own_files_hold_what_their_libraries_had() {
    let adamw = method::<AdamW>();
    let order = |name: &str| {
        let names =
            expected(name).iter().map(|param| (param["name"].as_str().unwrap().to_owned(), None)).collect();
        ImportOptions { names: Some(names), ..ImportOptions::default() }
    };
    let (checkpoint, report) = import("lightning.ckpt", &adamw, &ImportOptions::default()).unwrap();
    compare("lightning.ckpt", &checkpoint);
    assert_eq!(report.weights, 4);
    assert!(report.left_out.contains(&"lr_schedulers".to_owned()), "{report}");
    let (checkpoint, _) = import("accelerate/optimizer.bin", &adamw, &order("accelerate")).unwrap();
    compare("accelerate", &checkpoint);
    // Two groups: with decay and without.
    let (checkpoint, _) = import("trainer/optimizer.pt", &adamw, &order("trainer")).unwrap();
    compare("trainer", &checkpoint);
    assert_eq!(checkpoint.manifest.optimizer.as_ref().unwrap().groups().count(), 2);
    // The states are found by name, whatever their order is.
    for options in [ImportOptions::default(), order("fsdp.pth")] {
        let (checkpoint, _) = import("fsdp.pth", &adamw, &options).unwrap();
        compare("fsdp.pth", &checkpoint);
    }
    let other = named(&["net.body.weight"]);
    let error = refused("fsdp.pth", &other);
    assert!(error.contains("no parameter \"net.body.weight\"") && error.contains("net.="), "{error}");
}

#[test]
fn shards_of_zero_are_joined_or_say_what_is_missing() {
    let bytes: Vec<Vec<u8>> = (0..2)
        .map(|rank| file(&format!("deepspeed/step2/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")))
        .collect();
    let shards: Vec<Value<'_>> = bytes.iter().map(|bytes| tree(bytes)).collect();
    let model = file("deepspeed/step2/mp_rank_00_model_states.pt");
    let model = tree(&model);
    let shapes = deepspeed::shapes(&model).unwrap();
    assert!(shards.iter().all(deepspeed::is_shard) && !deepspeed::is_shard(&model));
    assert_eq!(deepspeed::shards(&shards[0]).unwrap(), 2);
    let joined = deepspeed::join(&shards, &shapes).unwrap();
    let (checkpoint, report) = from_torch(&joined, &method::<AdamW>(), &ImportOptions::default()).unwrap();
    compare("deepspeed", &checkpoint);
    assert_eq!((report.parameters, report.weights), (4, 4));
    // The weights are those of the model, which is in f32 as well.
    for (name, _) in &shapes {
        let Some(Value::Tensor(tensor)) = model.get("module").unwrap().get(name) else { panic!("{name}") };
        let got: Vec<f64> =
            checkpoint.param(name).unwrap().values::<f32>().into_iter().map(f64::from).collect();
        assert_eq!(got, tensor.numbers(), "{name}");
    }
    let wrong = |shards: &[Value<'_>], shapes: &[(String, Vec<usize>)]| {
        deepspeed::join(shards, shapes).unwrap_err().to_string()
    };
    assert!(wrong(&shards[..1], &shapes).contains("1 of 2"));
    assert!(wrong(&shards, &shapes[1..]).contains("the shape of \"body.weight\""));
    let mut other = shapes.clone();
    other[0].1 = vec![4, 4];
    assert!(wrong(&shards, &other).contains("do not make up a parameter of shape [4, 4]"));
    // The same shard twice is a part too much of some, and too little of others.
    let twice = [shards[0].clone(), shards[0].clone()];
    assert!(wrong(&twice, &shapes).contains("do not make up"));
    // One alone is never taken for an optimizer of two parameters.
    let alone =
        from_torch(&shards[0], &method::<AdamW>(), &ImportOptions { number: true, ..Default::default() });
    assert!(alone.unwrap_err().to_string().contains("a shard of DeepSpeed's ZeRO"));
}

#[test]
fn a_count_in_the_group_is_that_of_its_parameters() {
    let number = ImportOptions { number: true, ..ImportOptions::default() };
    let (checkpoint, report) = import("group_step.pth", &method::<FusedAdam>(), &number).unwrap();
    assert_eq!((checkpoint.steps("0").unwrap(), report.left_out.len()), (41, 0));
    assert!(report.widened.is_empty());
    // States in 16 bits are widened, which is said.
    let (checkpoint, report) = import("bf16.pth", &method::<FusedAdam>(), &number).unwrap();
    assert_eq!(checkpoint.steps("0").unwrap(), 41);
    assert_eq!(report.widened.get("bf16 to f32"), Some(&2));
    assert!(report.to_string().contains("2 widened, bf16 to f32"), "{report}");
    let state: Vec<f32> = checkpoint.state("0", "m").unwrap().values();
    assert_eq!(state, [0.1f32, 0.2].map(|x| fallline_core::bf16::from_f32(x).to_f32()));
}

#[test]
fn names_are_compared_with_the_shapes_that_the_file_has() {
    let adamw = method::<AdamW>();
    let (checkpoint, report) = import("shapes.pth", &adamw, &named(&["enc", "dec"])).unwrap();
    assert_eq!((checkpoint.steps("enc").unwrap(), report.weights), (1, 2));
    for options in [named(&["dec", "enc"]), {
        let names = vec![("dec".to_owned(), Some(vec![7])), ("enc".to_owned(), Some(vec![5, 2]))];
        ImportOptions { names: Some(names), ..ImportOptions::default() }
    }] {
        let error = refused("shapes.pth", &options);
        assert!(error.contains("[5, 2]") && error.contains("[7]") && error.contains("\"dec\""), "{error}");
    }
    let names = vec![("enc".to_owned(), Some(vec![2, 5])), ("dec".to_owned(), None)];
    let error = refused("shapes.pth", &ImportOptions { names: Some(names), ..ImportOptions::default() });
    assert!(error.contains("[2, 5]") && error.contains("[5, 2]"), "{error}");
    // Leniently the two start anew, and it is said of both.
    let lenient = ImportOptions { lenient: true, ..named(&["dec", "enc"]) };
    let (checkpoint, report) = import("shapes.pth", &adamw, &lenient).unwrap();
    assert_eq!((checkpoint.steps("dec").unwrap(), checkpoint.steps("enc").unwrap()), (0, 0));
    assert_eq!((report.left_out.len(), report.warnings.len(), report.states), (2, 2, 0), "{report:?}");
    assert!(checkpoint.state("dec", "m").is_none() && checkpoint.state("enc", "m").is_none());
    // A prefix is seen, and left out where that is asked for; names of one's own are told.
    let error = refused("prefixed.pth", &named(&["enc", "dec"]));
    assert!(error.contains("2 of the names") && error.contains("\"module.enc\": rename module.="), "{error}");
    let error = refused("shapes.pth", &named(&["enc", "head"]));
    assert!(error.contains("1 of the names given, \"head\" first, is no tensor"), "{error}");
    for options in [named(&["a", "b"]), ImportOptions { lenient: true, ..named(&["enc", "dec"]) }] {
        let (_, report) = import("prefixed.pth", &adamw, &options).unwrap();
        assert_eq!((report.weights, report.parameters), (0, 2));
        assert!(report.warnings[0].contains("2 of the names"), "{report:?}");
    }
    let rename = vec![("module.".to_owned(), String::new())];
    let (checkpoint, report) =
        import("prefixed.pth", &adamw, &ImportOptions { rename, ..named(&["enc", "dec"]) }).unwrap();
    assert_eq!((report.weights, report.warnings.len()), (2, 0));
    assert!(checkpoint.param("enc").is_some());
    let rename = vec![("module.".to_owned(), "model.".to_owned())];
    let (checkpoint, _) =
        import("prefixed.pth", &adamw, &ImportOptions { rename, ..ImportOptions::default() }).unwrap();
    assert_eq!(checkpoint.steps("model.dec").unwrap(), 1);
}

#[test]
fn leniently_nothing_is_refused_that_can_be_passed_over() {
    let bytes = file("protocol2.pth");
    let root = tree(&bytes);
    let change = |path: &[&str], new: Value<'static>| {
        fn put<'a>(value: &Value<'a>, path: &[&str], new: &Value<'a>) -> Value<'a> {
            let Some((first, rest)) = path.split_first() else { return new.clone() };
            match value {
                Value::Dict(entries) => {
                    let mut entries = entries.clone();
                    match entries.iter_mut().find(|(key, _)| key.to_string() == *first) {
                        Some((_, value)) => *value = put(value, rest, new),
                        None => entries.push(((*first).into(), new.clone())),
                    }
                    Value::Dict(entries)
                }
                Value::List(items) => {
                    let place: usize = first.parse().unwrap();
                    let item = |(i, item): (usize, &Value<'a>)| {
                        if i == place { put(item, rest, new) } else { item.clone() }
                    };
                    Value::List(items.iter().enumerate().map(item).collect())
                }
                _ => panic!("{path:?}"),
            }
        }
        put(&root, path, &new)
    };
    const GROUP: [&str; 3] = ["optimizer", "param_groups", "0"];
    const STATE: [&str; 3] = ["optimizer", "state", "0"];
    let group = |key, new| change(&[&GROUP[..], &[key]].concat(), new);
    let state = |key, new| change(&[&STATE[..], &[key]].concat(), new);
    let cases = [
        ("a key that is none", group("extra", Value::Int(1)), true),
        ("an lr that is none", group("lr", Value::opaque("omegaconf.Node")), true),
        ("an lr out of its range", group("lr", Value::Float(-1.0)), true),
        ("an eps that is text", group("eps", Value::str("small")), true),
        ("another class", group("decoupled_weight_decay", Value::Bool(false)), true),
        ("a state that is none", state("extra", Value::Int(1)), true),
        (
            "a moment that is no tensor",
            state("exp_avg", Value::opaque("a tensor of torch.float8_e5m2")),
            false,
        ),
        ("no moment", state("exp_avg_sq", Value::None), false),
        ("a step that is none", state("step", Value::opaque("a.Counter")), false),
        ("a step of half", state("step", Value::Float(0.5)), false),
        ("a state of nobody", change(&["optimizer", "state", "7"], Value::Dict(Vec::new())), true),
    ];
    for (what, root, keeps) in cases {
        let strict = from_torch(&root, &method::<AdamW>(), &ImportOptions::default());
        assert!(strict.is_err(), "{what} is taken");
        let lenient = ImportOptions { lenient: true, ..ImportOptions::default() };
        let (checkpoint, report) =
            from_torch(&root, &method::<AdamW>(), &lenient).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(report.left_out.len(), 1, "{what}: {report}");
        assert_eq!(checkpoint.steps("w").unwrap(), u64::from(keeps), "{what}");
        assert_eq!(checkpoint.state("w", "m").is_some(), keeps, "{what}");
        assert_eq!(report.weights, 1, "{what}");
    }
}

#[test]
fn what_has_no_names_is_numbered_for_torch() {
    let number = ImportOptions { number: true, ..ImportOptions::default() };
    let (mut checkpoint, _) = import("accelerate/optimizer.bin", &method::<AdamW>(), &number).unwrap();
    checkpoint.manifest.origin = None;
    let groups = [method::<AdamW>()];
    let export = fallline_convert::ExportOptions { number: true, ..Default::default() };
    let (value, report) = to_torch(&checkpoint, &groups, &export).unwrap();
    assert!(report.warnings.is_empty(), "numbers have an order: {report:?}");
    let step = |id: usize| value.at(&format!("state.{id}.step")).and_then(Value::as_f64);
    assert!((0..4).all(|id| step(id) == Some(2.0)));
    let (mut checkpoint, _) =
        import("lightning.ckpt", &method::<AdamW>(), &ImportOptions::default()).unwrap();
    let (one, _) = to_torch(&checkpoint, &groups, &export).unwrap();
    checkpoint.manifest.origin = None;
    let (other, report) = to_torch(&checkpoint, &groups, &export).unwrap();
    assert!(report.warnings[0].contains("0 is \"net.body.bias\""), "{report:?}");
    // The order that a file had comes first.
    let shape = |value: &Value<'_>| match value.at("state.0.exp_avg") {
        Some(Value::Tensor(tensor)) => tensor.shape().to_vec(),
        other => panic!("{other:?}"),
    };
    assert_eq!((shape(&one), shape(&other)), (vec![4, 3], vec![4]));
}

#[test]
fn sgd_takes_any_of_them() {
    // The issue's own cases are converted as SGD, which has none of AdamW's states.
    let lenient = ImportOptions { lenient: true, number: true, ..ImportOptions::default() };
    for name in ["namespace.pth", "protocol5.pth", "legacy.pth", "numpy_group.pth"] {
        let (checkpoint, report) = import(name, &method::<Sgd>(), &lenient).unwrap();
        assert!(checkpoint.state("0", "momentum").is_none() && !report.left_out.is_empty(), "{name}");
    }
}

/// Returns a file with a model of these shapes, and AdamW's state of it.
fn model_of(shapes: &[Vec<usize>]) -> Value<'static> {
    let tensor = |shape: &[usize], x: f32| {
        let bytes = x.to_le_bytes().repeat(shape.iter().product());
        Value::Tensor(Tensor::new(Dtype::Float32, shape.to_vec(), bytes).unwrap())
    };
    let state = |shape: &Vec<usize>| {
        let moments = [
            ("step", tensor(&[], 2.0)),
            ("exp_avg", tensor(shape, 0.5)),
            ("exp_avg_sq", tensor(shape, 0.25)),
        ];
        Value::dict(moments)
    };
    let model =
        shapes.iter().enumerate().map(|(i, shape)| (format!("p{i}").as_str().into(), tensor(shape, 1.0)));
    let states = shapes.iter().enumerate().map(|(i, shape)| ((i as i64).into(), state(shape)));
    let ids = (0..shapes.len()).map(|i| Value::Int(i as i64)).collect();
    let group = Value::dict([("lr", Value::Float(0.1)), ("params", Value::List(ids))]);
    let optimizer =
        Value::dict([("state", Value::Dict(states.collect())), ("param_groups", Value::List(vec![group]))]);
    Value::dict([("model", Value::Dict(model.collect())), ("optimizer", optimizer)])
}

proptest! {
    /// Names in any order are taken where every state has the shape of its parameter, and are refused otherwise. A
    /// lenient import starts those parameters anew, and no others.
    #[test]
    fn names_in_any_order_fit_or_are_refused(
        shapes in proptest::collection::vec(proptest::collection::vec(1usize..4, 0..3), 1..6),
        order in any::<[proptest::sample::Index; 6]>(),
    ) {
        let mut left: Vec<usize> = (0..shapes.len()).collect();
        let order: Vec<usize> = order[..shapes.len()].iter().map(|at| left.remove(at.index(left.len()))).collect();
        let names = order.iter().map(|i| (format!("p{i}"), None)).collect();
        let options = ImportOptions { names: Some(names), ..ImportOptions::default() };
        let root = model_of(&shapes);
        let fits = |i: usize| shapes[order[i]] == shapes[i];
        let taken = from_torch(&root, &method::<AdamW>(), &options);
        prop_assert_eq!(taken.is_ok(), (0..order.len()).all(fits));
        let lenient = ImportOptions { lenient: true, ..options };
        let (checkpoint, report) = from_torch(&root, &method::<AdamW>(), &lenient).unwrap();
        for (i, place) in order.iter().enumerate() {
            prop_assert_eq!(checkpoint.steps(&format!("p{place}")).unwrap(), if fits(i) { 2 } else { 0 });
        }
        prop_assert_eq!(report.left_out.len(), (0..order.len()).filter(|&i| !fits(i)).count());
    }
}

/// Returns the state of one parameter, in a group that has the parameter so many times.
fn group_of(times: usize) -> Value<'static> {
    let moment = || Value::Tensor(Tensor::new(Dtype::Float32, vec![2], vec![0; 8]).unwrap());
    let state = Value::dict([("step", Value::Int(1)), ("exp_avg", moment()), ("exp_avg_sq", moment())]);
    let params = Value::List(vec![Value::Int(0); times]);
    let group = Value::dict([("lr", Value::Float(0.1)), ("params", params)]);
    let states = Value::Dict(vec![(0.into(), state)]);
    Value::dict([("state", states), ("param_groups", Value::List(vec![group]))])
}

#[test]
fn a_parameter_is_imported_once() {
    let numbered = ImportOptions { number: true, ..ImportOptions::default() };
    assert!(from_torch(&group_of(1), &method::<AdamW>(), &numbered).is_ok());
    for lenient in [false, true] {
        let options = ImportOptions { lenient, ..numbered.clone() };
        let error = from_torch(&group_of(3_000_000), &method::<AdamW>(), &options).unwrap_err().to_string();
        assert_eq!(error, "param_groups: parameter 0 is in it twice");
    }
}

#[test]
fn states_that_a_checkpoint_does_not_have_are_bounded_by_it() {
    let algorithm = Linked::<Adagrad, Unrun>::new(Adagrad::default()).unwrap();
    for (extent, fits) in [(1 << 10, true), (1 << 40, false)] {
        let mut optimizer = OptimizerManifest::new(algorithm.name());
        optimizer.push_group(&algorithm);
        optimizer.insert_param("w", &[extent].into(), 0, Compute::F32);
        let mut checkpoint = Checkpoint::default();
        checkpoint.manifest.optimizer = Some(optimizer);
        checkpoint.insert_steps("w", 0);
        let options = ExportOptions { number: true, ..ExportOptions::default() };
        match to_torch(&checkpoint, &[method::<Adagrad>()], &options) {
            Ok(_) => assert!(fits),
            Err(error) => assert!(!fits && error.to_string().contains("far more bytes"), "{error}"),
        }
    }
}
