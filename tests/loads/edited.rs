//! Checkpoints with an entry or a value of the manifest dropped, renamed, of another type, shape or value. Their hashes tell.
//! Without, a load refuses each, or what follows is what it would have been.

use crate::common::{Outcome, Random, Tensor, bind, build, outcome};
use fallline::optim::average::Average;
use fallline::optim::checkpoint::Entry;
use fallline::optim::gradient_config::{Accumulate, GradientConfig, LossScaler};
use fallline::optim::param;
use fallline::{Checkpoint, Driver, Format, LoadOptions, ModuleKind, Optimizer, Value as Number};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A name, and what makes its optimizer.
type Kind = (&'static str, fn() -> Driver);

/// An optimizer of each kind of checkpoint.
fn kinds() -> Vec<Kind> {
    fn pipeline(text: &str) -> Driver {
        let mut config = GradientConfig::default();
        config.accumulate = Accumulate { accumulation_steps: 2, total: None };
        config.scaler = Some(LossScaler::dynamic(8.0, 2.0, 0.5, 3).unwrap());
        build(text).with_gradients(config).averaged(Average::exponential(0.25).unwrap())
    }
    vec![
        ("averages, a window, a loss scale", || pipeline("dict(type='AdamW', lr=0.1)")),
        ("blocks", || build("dict(type='AdamW', lr=0.1, state_format='q8')")),
        ("16 bits", || build("dict(type='Lion', lr=0.1, state_format='bf16')")),
        ("factors", || build("Adafactor")),
        ("shared numbers", || build("dict(type='DAdaptAdam', d0=1e-3)")),
        ("slow weights", || {
            build("dict(type='SGD', lr=0.1, momentum=0.9, wrap=dict(type='Lookahead', k=2))")
        }),
        ("a seed", || build("dict(type='AdamW', lr=0.1, param_format='bf16_sr')")),
        ("full precision", || build("dict(type='AdamW', lr=0.1, param_format='master')")),
        ("numbers of a parameter", || build("NAdam")),
        ("a Hessian", || build("SophiaG")),
        ("kept numbers", || build("AdamWScheduleFree")),
        ("groups", || {
            let mut driver = build("dict(type='AdamW', lr=0.1)");
            driver.add_group(|name| name == "fc.bias", &[("weight_decay", Number::Float(0.5))]).unwrap();
            driver
        }),
    ]
}

fn tensors(kind: &str) -> Vec<Tensor> {
    let narrow = matches!(kind, "a seed" | "full precision");
    let mut tensors: Vec<Tensor> = [("fc.weight", 24), ("fc.bias", 4)]
        .map(|(name, n)| Tensor::plain(name, n, 6, &mut Random(n as u64)))
        .to_vec();
    tensors[0].shape = Some(vec![4, 6]);
    for tensor in &mut tensors {
        if narrow {
            tensor.value = crate::common::Buffer::new(Format::Bf16, &tensor.value.values());
        }
    }
    tensors
}

/// What three more steps leave, and what is saved then.
fn went_on(mut optimizer: Driver, mut tensors: Vec<Tensor>) -> Result<(Outcome, Checkpoint), String> {
    for t in 3..6 {
        optimizer.step(&mut bind(&mut tensors, t)).map_err(|error| error.to_string())?;
    }
    Ok((outcome(&optimizer, &tensors), optimizer.save().unwrap()))
}

/// A file in parts: each entry's type, shape and bytes by its key, and the manifest.
#[derive(Clone)]
struct Parts {
    entries: BTreeMap<String, (String, Vec<usize>, Vec<u8>)>,
    manifest: Value,
}

impl Parts {
    fn of(checkpoint: &Checkpoint) -> Parts {
        let bytes = checkpoint.to_bytes().unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let text = header["__metadata__"]["fallline"].as_str().unwrap();
        let manifest = serde_json::from_str(text).unwrap();
        let entries = header.iter().filter(|(key, _)| *key != "__metadata__").map(|(key, entry)| {
            let number = |value: &Value| value.as_u64().unwrap() as usize;
            let [from, to] = [0, 1].map(|i| 8 + length + number(&entry["data_offsets"][i]));
            let shape = entry["shape"].as_array().unwrap().iter().map(number).collect();
            (key.clone(), (entry["dtype"].as_str().unwrap().to_owned(), shape, bytes[from..to].to_vec()))
        });
        Parts { entries: entries.collect(), manifest }
    }

    /// A file in which they lie one after the other.
    fn to_bytes(&self) -> Vec<u8> {
        let (mut header, mut data) = (Map::new(), Vec::new());
        header.insert("__metadata__".into(), json!({ "fallline": self.manifest.to_string() }));
        for (key, (dtype, shape, bytes)) in &self.entries {
            let from = data.len();
            data.extend(bytes);
            let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [from, data.len()] });
            header.insert(key.clone(), entry);
        }
        let header = serde_json::to_vec(&header).unwrap();
        [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
    }
}

/// What is done to a file.
type Edit = Box<dyn Fn(&mut Parts)>;

/// Every way to change an entry.
fn of_entry(key: &str) -> Vec<(String, Edit)> {
    let change = |what: &str, change: fn(&mut Parts, &str)| -> (String, Edit) {
        let owned = key.to_owned();
        (format!("{key} {what}"), Box::new(move |parts| change(parts, &owned)))
    };
    fn renamed(parts: &mut Parts, key: &str, new: String) {
        let entry = parts.entries.remove(key).unwrap();
        parts.entries.insert(new, entry);
    }
    vec![
        change("dropped", |parts, key| drop(parts.entries.remove(key))),
        change("renamed", |parts, key| renamed(parts, key, format!("{key}x"))),
        change("of another parameter", |parts, key| renamed(parts, key, key.replacen("fc.", "fd.", 1))),
        change("of another kind", |parts, key| renamed(parts, key, format!("x{key}"))),
        change("in another type", |parts, key| {
            let (dtype, _, _) = parts.entries.get_mut(key).unwrap();
            let other = match &**dtype {
                "F32" => "I32",
                "F64" => "I64",
                "I64" => "F64",
                "U8" => "I8",
                "BF16" => "F16",
                other => panic!("{other}"),
            };
            *dtype = other.to_owned();
        }),
        change("in another shape", |parts, key| parts.entries.get_mut(key).unwrap().1.insert(0, 1)),
    ]
}

/// The ways to every value that objects of the manifest hold.
fn paths(value: &Value, at: Vec<String>, found: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                let path = [at.clone(), vec![key.clone()]].concat();
                found.push(path.clone());
                paths(value, path, found);
            }
        }
        Value::Array(items) => {
            for (i, value) in items.iter().enumerate() {
                paths(value, [at.clone(), vec![i.to_string()]].concat(), found);
            }
        }
        _ => {}
    }
}

/// The object that holds the last key of a path.
fn parent<'v>(manifest: &'v mut Value, path: &[String]) -> &'v mut Map<String, Value> {
    let mut value = manifest;
    for key in &path[..path.len() - 1] {
        value = match value {
            Value::Array(items) => &mut items[key.parse::<usize>().unwrap()],
            object => &mut object[key],
        };
    }
    value.as_object_mut().unwrap()
}

/// Another value of the same type, which may be a good one.
fn another(value: &Value) -> Value {
    match value {
        Value::Null => json!(0.5),
        Value::Bool(value) => json!(!value),
        Value::Number(number) => match number.as_u64() {
            Some(whole) => json!(whole + 1),
            None => json!(number.as_f64().unwrap() * 0.75 + 0.0625),
        },
        Value::String(text) => json!(match &**text {
            "f32" => "f64",
            "q8" => "q8_linear",
            "bf16" => "f16",
            "AdamW" => "Adam",
            _ => "AdamW",
        }),
        Value::Array(items) => {
            let mut items = items.clone();
            items.iter_mut().take(1).for_each(|first| *first = another(first));
            Value::Array(items)
        }
        Value::Object(entries) => {
            Value::Object(entries.iter().skip(1).map(|(key, value)| (key.clone(), value.clone())).collect())
        }
    }
}

/// Whether a value of the manifest alone says what it does: without hashes another one is as good.
fn is_alone(path: &[String]) -> bool {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    matches!(path[..], ["wrapper", ..] | ["average_steps"] | ["optimizer", "groups" | "shared", ..])
        || matches!(path.last(), Some(&("seed" | "state_seed")))
}

/// Every way to change a value of the manifest.
fn of_value(path: &[String]) -> Vec<(String, Edit)> {
    let at = path.join(".");
    let change = |what: &str, change: fn(&mut Map<String, Value>, &str)| -> (String, Edit) {
        let path = path.to_vec();
        let edit = move |parts: &mut Parts| {
            change(parent(&mut parts.manifest, &path), path.last().unwrap());
        };
        (format!("the manifest's {at} {what}"), Box::new(edit))
    };
    vec![
        change("of another value", |object, key| object[key] = another(&object[key])),
        change("dropped", |object, key| drop(object.remove(key))),
        change("renamed", |object, key| {
            let value = object.remove(key).unwrap();
            object.insert(format!("{key}x"), value);
        }),
        change("in another type", |object, key| {
            // A text may stand for a number that JSON has not.
            let other = if object[key].is_string() { json!(true) } else { json!("seven") };
            object.insert(key.to_owned(), other);
        }),
        change("in another shape", |object, key| {
            let value = object[key].take();
            object.insert(key.to_owned(), json!([value]));
        }),
    ]
}

/// A checkpoint after three steps, with parameters as a training loop adds them; and what three more steps give.
fn saved(kind: &str, build: fn() -> Driver) -> (Checkpoint, Vec<Tensor>, (Outcome, Checkpoint)) {
    let (mut values, mut optimizer) = (tensors(kind), build());
    for t in 0..3 {
        optimizer.step(&mut bind(&mut values, t)).unwrap();
    }
    let mut checkpoint = optimizer.save().unwrap();
    for Tensor { name, value, shape, .. } in &values {
        let numbers = value.values();
        let shape = shape.clone().unwrap_or_else(|| vec![numbers.len()]);
        checkpoint.insert_param(name, Entry::new(shape.as_slice().into(), numbers.as_slice().into()));
    }
    let want = went_on(optimizer, values.clone()).unwrap();
    (checkpoint, values, want)
}

#[test]
fn every_edit_is_refused_or_changes_nothing() {
    let mut all = (0, 0);
    for (kind, build) in kinds() {
        let (checkpoint, values, want) = saved(kind, build);
        let parts = Parts::of(&checkpoint);
        assert!(Checkpoint::from_bytes(&parts.to_bytes()).unwrap() == checkpoint);
        let mut found = Vec::new();
        paths(&parts.manifest, Vec::new(), &mut found);
        let entries =
            parts.entries.keys().flat_map(|key| of_entry(key)).map(|(what, edit)| (what, edit, true));
        let of_hashes = |path: &[String]| path[0] == "hashes";
        let values_of = found.iter().filter(|path| !of_hashes(path)).flat_map(|path| {
            let told = !is_alone(path);
            of_value(path).into_iter().map(move |(what, edit)| {
                let told = told || !what.ends_with("of another value");
                (what, edit, told)
            })
        });
        let edits: Vec<(String, Edit, bool)> = entries.chain(values_of).collect();
        let mut refused = 0;
        for (what, edit, told) in &edits {
            let mut changed = parts.clone();
            edit(&mut changed);
            let bytes = changed.to_bytes();
            assert!(Checkpoint::from_bytes(&bytes).is_err(), "{kind}: {what} has the same hashes");
            // What is read without a look at the hashes is what is read where there are none.
            let read = Checkpoint::from_bytes_unverified(&bytes);
            changed.manifest.as_object_mut().unwrap().remove("hashes").unwrap();
            assert!(
                read.as_ref().ok() == Checkpoint::from_bytes(&changed.to_bytes()).as_ref().ok(),
                "{kind}: {what}"
            );
            let mut resumed = build();
            let before = resumed.save().unwrap();
            let loaded = read.clone().and_then(|read| resumed.load(&read).map_err(|error| error.to_string()));
            match loaded.and_then(|_| went_on(resumed, values.clone())) {
                Ok(got) => assert!(!told || got == want, "{kind}: {what} changes what follows"),
                Err(_) => refused += 1,
            }
            // Whatever the file is, a load ends, and one that is refused leaves the optimizer as it was.
            let mut lenient = build();
            if let Ok(read) = read
                && lenient.load_with(&read, &LoadOptions::default().lenient()).is_err()
            {
                assert_eq!(lenient.save().unwrap(), before, "{kind}: {what}");
            }
        }
        assert!(refused * 3 > edits.len() * 2, "{kind}: {refused} of {}", edits.len());
        all = (all.0 + edits.len(), all.1 + refused);
        // Hashes themselves: without them it is a file of an earlier version.
        for path in found.iter().filter(|path| of_hashes(path)) {
            for (what, edit) in of_value(path) {
                let mut changed = parts.clone();
                edit(&mut changed);
                if let Ok(read) = Checkpoint::from_bytes(&changed.to_bytes()) {
                    assert!(path.len() == 1 && read == checkpoint, "{kind}: {what}");
                }
            }
        }
    }
    println!("{} edits, {} refused without hashes, the others without effect", all.0, all.1);
}

/// Any bit of an entry.
#[test]
fn a_changed_bit_is_named() {
    let (kind, build) = kinds().remove(0);
    let (checkpoint, ..) = saved(kind, build);
    let parts = Parts::of(&checkpoint);
    let mut random = Random(20);
    for key in parts.entries.keys() {
        let mut changed = parts.clone();
        let bytes = &mut changed.entries.get_mut(key).unwrap().2;
        let at = random.next() as usize % bytes.len();
        bytes[at] ^= 1 << (random.next() % 8);
        let error = Checkpoint::from_bytes(&changed.to_bytes()).unwrap_err();
        assert_eq!(error, format!("{key} does not match its hash"));
        assert!(Checkpoint::from_bytes_unverified(&changed.to_bytes()).is_ok());
    }
}

/// An error names what was done to a file.
#[test]
fn hashes_name_what_is_missing_added_or_renamed() {
    let (kind, build) = kinds().remove(0);
    let (checkpoint, ..) = saved(kind, build);
    let told = |edit: &dyn Fn(&mut Parts)| {
        let mut parts = Parts::of(&checkpoint);
        edit(&mut parts);
        Checkpoint::from_bytes(&parts.to_bytes()).unwrap_err()
    };
    let key = "state/fc.bias/v";
    assert_eq!(
        told(&|parts| drop(parts.entries.remove(key))),
        format!("{key} is missing, but there is a hash of it")
    );
    let added = told(&|parts| drop(parts.entries.insert("param/x".into(), parts.entries[key].clone())));
    assert_eq!(added, "param/x was added or renamed: there is no hash of it");
    let both = told(&|parts| {
        parts.entries.remove(key);
        parts.entries.remove("window/fc.bias");
    });
    assert_eq!(both, format!("{key} is missing, but there is a hash of it, and 1 more"));
    let wrapper = told(&|parts| drop(parts.manifest.as_object_mut().unwrap().remove("wrapper")));
    assert_eq!(wrapper, "the manifest's \"wrapper\" is missing, but there is a hash of it");
    let changed = told(&|parts| parts.manifest["wrapper"]["done"] = json!(7));
    assert_eq!(changed, "the manifest's \"wrapper\" does not match its hash");
    let other = told(&|parts| parts.manifest["hashes"]["algorithm"] = json!("md5"));
    assert!(other.contains("md5"), "{other}");
    // The order of keys is none of its matter, nor are spaces.
    let mut parts = Parts::of(&checkpoint);
    let mut keys: Vec<(String, Value)> = parts.manifest.as_object().unwrap().clone().into_iter().collect();
    keys.reverse();
    parts.manifest = keys.into_iter().collect::<Map<String, Value>>().into();
    assert!(Checkpoint::from_bytes(&parts.to_bytes()).unwrap() == checkpoint);
}

/// Groups follow from the configuration, and modules from what is bound.
#[test]
fn groups_and_modules_are_compared() {
    let text = "optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.1), paramwise_cfg=dict(norm_decay_mult=0.0))";
    let step = |driver: &mut Driver| {
        let (mut scale, mut other, grad) = (vec![1.0f32; 3], vec![1.0f32; 3], vec![0.5f32; 3]);
        let told = param("a.scale", &mut scale, &grad).kind(ModuleKind::Norm);
        driver
            .step(&mut [told, param("fc.bias", &mut other, &grad)])
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let mut optimizer = crate::common::build(text);
    step(&mut optimizer).unwrap();
    let checkpoint = optimizer.save().unwrap();
    let told = |values: &[(&str, Value)], steps: bool| {
        let mut parts = Parts::of(&checkpoint);
        for (key, value) in values {
            parts.manifest["optimizer"]["params"]["a.scale"][*key] = value.clone();
        }
        let read = Checkpoint::from_bytes_unverified(&parts.to_bytes()).unwrap();
        let mut strict = crate::common::build(text);
        let refused = strict.load(&read).map_err(|error| error.to_string());
        let refused = refused.and_then(|_| if steps { step(&mut strict) } else { Ok(()) }).unwrap_err();
        let mut lenient = crate::common::build(text);
        lenient.load_with(&read, &LoadOptions::default().lenient()).unwrap();
        step(&mut lenient).unwrap();
        (refused, lenient.load_report().unwrap().unexpected.clone())
    };
    let (refused, listed) = told(&[("group", json!(0))], false);
    assert!(refused.contains("parameter \"a.scale\" was in group 0, and is in group 1 here"), "{refused}");
    assert_eq!(listed, ["the manifest's group 0 of \"a.scale\""]);
    let (refused, listed) = told(&[("module", json!("layer"))], false);
    assert!(
        refused.contains("parameter \"a.scale\" is of a module \"layer\", which is unknown"),
        "{refused}"
    );
    assert_eq!(listed[0], "the manifest's module \"layer\" of \"a.scale\"");
    // Both together agree with each other, but not with what is bound.
    let (refused, listed) = told(&[("group", json!(0)), ("module", json!("other"))], true);
    assert!(refused.contains("parameter \"a.scale\" was in group 0, and is in group 1 here"), "{refused}");
    assert_eq!(listed, ["the manifest's group 0 of \"a.scale\""]);
}

/// The message names what is missing.
#[test]
fn what_is_missing_is_named() {
    let (kind, build) = kinds().remove(0);
    let (checkpoint, ..) = saved(kind, build);
    let dropped = |keys: &[&str], of_manifest: &[&str]| {
        let mut parts = Parts::of(&checkpoint);
        keys.iter().for_each(|key| drop(parts.entries.remove(*key).expect("an entry")));
        let manifest = parts.manifest.as_object_mut().unwrap();
        of_manifest.iter().for_each(|key| drop(manifest.remove(*key).expect("a value")));
        let checkpoint = Checkpoint::from_bytes_unverified(&parts.to_bytes()).unwrap();
        let strict = build().load(&checkpoint).unwrap_err().to_string();
        let report = build().load_with(&checkpoint, &LoadOptions::default().lenient()).unwrap();
        (strict, report.missing)
    };
    for key in ["window/fc.bias", "average/fc.weight", "state/fc.bias/v", "param/fc.weight"] {
        let (strict, missing) = dropped(&[key], &[]);
        assert!(strict.contains(key), "{strict}");
        let listed = key.strip_prefix("state/").unwrap_or(key);
        assert_eq!(missing, [listed]);
    }
    for key in ["wrapper", "average_steps"] {
        let (strict, missing) = dropped(&[], &[key]);
        assert!(strict.contains(key), "{strict}");
        assert_eq!(missing, [format!("the manifest's {key:?}")]);
    }
}

/// A group's hyperparameters are all there, and no others.
#[test]
fn hyperparameters_are_those_of_the_algorithm() {
    let (kind, build) = kinds().remove(0);
    let (checkpoint, ..) = saved(kind, build);
    let told = |edit: fn(&mut Map<String, Value>)| {
        let mut parts = Parts::of(&checkpoint);
        edit(parts.manifest["optimizer"]["groups"][0].as_object_mut().unwrap());
        let checkpoint = Checkpoint::from_bytes_unverified(&parts.to_bytes()).unwrap();
        let strict = build().load(&checkpoint).unwrap_err().to_string();
        let report = build().load_with(&checkpoint, &LoadOptions::default().lenient()).unwrap();
        (strict, report.missing, report.unexpected)
    };
    let named = |name: &str| format!("the manifest's hyperparameter {name:?} of group 0");
    let (strict, missing, unexpected) = told(|group| drop(group.remove("eps")));
    assert!(strict.contains(&format!("{} is missing", named("eps"))), "{strict}");
    assert_eq!((missing, unexpected), (vec![named("eps")], vec![]));
    let (strict, missing, unexpected) = told(|group| drop(group.insert("rho".into(), json!(0.5))));
    assert!(strict.contains(&format!("{} is none of AdamW", named("rho"))), "{strict}");
    assert_eq!((missing, unexpected), (vec![], vec![named("rho")]));
}
