//! Checkpoints with an entry or a value of the manifest dropped, renamed, of another type or another shape. A load refuses
//! each, or what follows is what it would have been.

mod common;

use common::{Outcome, Random, Tensor, bind, build, outcome};
use fallline::optim::average::Average;
use fallline::optim::gradient_config::{Accumulate, GradientConfig, LossScaler};
use fallline::{Checkpoint, Driver, Format, LoadOptions, Optimizer};
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
            tensor.value = common::Buffer::new(Format::Bf16, &tensor.value.values());
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

#[test]
fn every_edit_is_refused_or_changes_nothing() {
    for (kind, build) in kinds() {
        let (mut values, mut optimizer) = (tensors(kind), build());
        for t in 0..3 {
            optimizer.step(&mut bind(&mut values, t)).unwrap();
        }
        let checkpoint = optimizer.save().unwrap();
        let want = went_on(optimizer, values.clone()).unwrap();
        let parts = Parts::of(&checkpoint);
        assert!(Checkpoint::from_bytes(&parts.to_bytes()).unwrap() == checkpoint);
        let mut found = Vec::new();
        paths(&parts.manifest, Vec::new(), &mut found);
        let entries = parts.entries.keys().flat_map(|key| of_entry(key));
        let edits: Vec<(String, Edit)> =
            entries.chain(found.iter().flat_map(|path| of_value(path))).collect();
        let mut refused = 0;
        for (what, edit) in &edits {
            let mut changed = parts.clone();
            edit(&mut changed);
            let changed = changed.to_bytes();
            let mut resumed = build();
            let before = resumed.save().unwrap();
            let loaded = Checkpoint::from_bytes(&changed)
                .and_then(|read| resumed.load(&read).map_err(|error| error.to_string()));
            match loaded.and_then(|_| went_on(resumed, values.clone())) {
                Ok(got) => assert!(got == want, "{kind}: {what} changes what follows"),
                Err(_) => refused += 1,
            }
            // Whatever the file is, a load ends, and one that is refused leaves the optimizer as it was.
            let mut lenient = build();
            if let Ok(read) = Checkpoint::from_bytes(&changed)
                && lenient.load_with(&read, &LoadOptions::default().lenient()).is_err()
            {
                assert_eq!(lenient.save().unwrap(), before, "{kind}: {what}");
            }
        }
        assert!(refused * 3 > edits.len() * 2, "{kind}: {refused} of {}", edits.len());
    }
}

/// The message names what is missing.
#[test]
fn what_is_missing_is_named() {
    let (kind, build) = kinds().remove(0);
    let (mut values, mut optimizer) = (tensors(kind), build());
    for t in 0..3 {
        optimizer.step(&mut bind(&mut values, t)).unwrap();
    }
    let checkpoint = optimizer.save().unwrap();
    let dropped = |keys: &[&str], of_manifest: &[&str]| {
        let mut parts = Parts::of(&checkpoint);
        keys.iter().for_each(|key| drop(parts.entries.remove(*key).expect("an entry")));
        let manifest = parts.manifest.as_object_mut().unwrap();
        of_manifest.iter().for_each(|key| drop(manifest.remove(*key).expect("a value")));
        let checkpoint = Checkpoint::from_bytes(&parts.to_bytes()).unwrap();
        let strict = build().load(&checkpoint).unwrap_err().to_string();
        let report = build().load_with(&checkpoint, &LoadOptions::default().lenient()).unwrap();
        (strict, report.missing)
    };
    for key in ["window/fc.bias", "average/fc.weight", "state/fc.bias/v"] {
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
