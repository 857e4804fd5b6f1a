//! Checkpoints: resumed bit for bit, or refused with nothing changed.

use crate::common::{
    Buffer, ONE_EACH, Random, Tensor, build, edit_manifest, edited, entry_bytes, outcome, run,
};
use fallline::optim::Error;
use fallline::{Checkpoint, Driver, Format, Optimizer};
use serde_json::{Map, Value, json};

const STEPS: usize = 5;

/// Parameters in several formats, one with gaps, one late, one empty.
fn tensors() -> Vec<Tensor> {
    let mut random = Random(21);
    let mut draw = |format, n| Buffer::new(format, &random.units(n));
    let lists = [
        ("w/0.weight", Format::F32, 37),
        ("half", Format::Bf16, 300),
        ("double", Format::F64, 9),
        ("empty", Format::F32, 0),
        ("late ü", Format::F16, 5),
    ];
    lists
        .map(|(name, format, n)| {
            let value = draw(format, n);
            let given = |t| (name != "late ü" || t >= 3) && (name != "double" || t != 2);
            Tensor::new(name, value, (0..STEPS).map(|t| given(t).then(|| draw(Format::F32, n))).collect())
        })
        .to_vec()
}

#[test]
fn a_used_optimizer_goes_back_and_takes_the_saved_hyperparameters() {
    for text in ONE_EACH {
        let mut there = tensors();
        let mut optimizer = build(text);
        run(&mut optimizer, &mut there, 0..4);
        let (saved, at_four) = (optimizer.save().unwrap(), there.clone());
        run(&mut optimizer, &mut there, 4..5);
        let expected = outcome(&optimizer, &there);
        optimizer.set(0, &[("lr", fallline::optim::hyper::Value::Float(0.5))]).unwrap();
        optimizer.load(&saved).unwrap();
        let mut again = at_four;
        run(&mut optimizer, &mut again, 4..5);
        assert_eq!(outcome(&optimizer, &again), expected, "{text}");
    }
}

#[test]
fn a_file_is_the_same_and_carries_parameters() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    let mut there = tensors();
    let mut optimizer = build(ONE_EACH[1]);
    run(&mut optimizer, &mut there, 0..3);
    let mut saved = optimizer.save().unwrap();
    for tensor in &there {
        let values = tensor.value.values();
        let entry = fallline::optim::checkpoint::Entry::new([values.len()].into(), (&values).into());
        saved.insert_param(&tensor.name, entry);
    }
    saved.manifest.schedule = Some(json!({"epoch": 3}));
    saved.manifest.trainer = Some(json!([1.0, 0.1, 1e-300]));
    saved.write(&path).unwrap();
    let read = Checkpoint::read(&path).unwrap();
    assert_eq!(read, saved);
    for tensor in &there {
        assert_eq!(
            crate::common::bits(&read.param(&tensor.name).unwrap().values::<f64>()),
            tensor.value.bits()
        );
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    build(ONE_EACH[1]).load(&read).unwrap();
}

/// Returns an optimizer that has been used, its checkpoint, and what must not change.
fn used() -> (Driver, Vec<Tensor>, Checkpoint) {
    let mut there = tensors();
    let mut optimizer = build(ONE_EACH[1]);
    run(&mut optimizer, &mut there, 0..4);
    let saved = optimizer.save().unwrap();
    (optimizer, there, saved)
}

/// Returns what is wrong with how an optimizer (a used one, and a fresh one) refuses bytes that are a checkpoint
/// but do not fit. The message must have `names` in it.
fn complaint(names: &str, bytes: &[u8], fresh_too: bool) -> Result<(), String> {
    let checkpoint = Checkpoint::from_bytes(bytes).map_err(|error| format!("is no checkpoint: {error}"))?;
    let (mut optimizer, there, known) = used();
    let before = outcome(&optimizer, &there);
    match optimizer.load(&checkpoint) {
        Err(Error::Mismatch(error)) if !error.contains(names) || error.contains('\n') => {
            return Err(format!("gives {error:?}, which does not name {names:?}"));
        }
        Err(Error::Mismatch(_)) => {}
        other => return Err(format!("gives {other:?}")),
    }
    if outcome(&optimizer, &there) != before || optimizer.save().unwrap() != known {
        return Err("changes the optimizer".into());
    }
    let mut fresh = build(ONE_EACH[1]);
    let untouched = fresh.save().unwrap();
    if fresh_too && (fresh.load(&checkpoint).is_ok() || fresh.save().unwrap() != untouched) {
        return Err("is taken by a fresh optimizer, or changes it".into());
    }
    Ok(())
}

type Header = Map<String, Value>;
/// A change of a file: its header and its data.
type Edit = fn(&mut Header, &mut Vec<u8>);

fn rename(header: &mut Header, from: &str, to: &str) {
    let entry = header.remove(from).unwrap();
    header.insert(to.into(), entry);
}

#[test]
fn what_does_not_fit_is_refused_and_named() {
    let (_, _, saved) = used();
    let mut wrong = Vec::new();
    let mut does_not_fit = |what: &str, names: &str, bytes: &[u8], fresh_too: bool| {
        wrong.extend(complaint(names, bytes, fresh_too).err().map(|problem| format!("{what}: {problem}")));
    };
    let edits: &[(&str, &str, Edit, bool)] = &[
        ("wrong shape", "half/m", |h, _| h["state/half/m"]["shape"] = json!([30, 10]), true),
        ("wrong name of a state", "half/m", |h, _| rename(h, "state/half/m", "state/half/mm"), true),
        ("a state too many", "half", |h, d| add(h, d, "state/half/extra"), true),
        ("a state of nobody", "nobody", |h, d| add(h, d, "state/nobody/m"), true),
        ("a step of nobody", "nobody", |h, d| add_step(h, d, "step/nobody"), true),
        (
            "a state of one not stepped",
            "late",
            |h, d| {
                entry_bytes(h, d, "step/late ü").copy_from_slice(&0i64.to_le_bytes());
            },
            true,
        ),
        (
            "another type of a state",
            "half/m",
            |h, _| {
                h["state/half/m"]["dtype"] = json!("F16");
                h["state/half/m"]["shape"] = json!([300, 2]);
            },
            true,
        ),
        (
            "no step",
            "step/half",
            |h, d| {
                rename(h, "step/half", "step/other");
                let _ = d;
            },
            true,
        ),
        (
            "negative step",
            "half",
            |h, d| entry_bytes(h, d, "step/half").copy_from_slice(&(-1i64).to_le_bytes()),
            true,
        ),
        (
            "most negative step",
            "half",
            |h, d| {
                entry_bytes(h, d, "step/half").copy_from_slice(&i64::MIN.to_le_bytes());
            },
            true,
        ),
        (
            "another algorithm",
            "AdamW",
            |h, _| edit_manifest(h, |m| m["optimizer"]["type"] = json!("AdamW")),
            true,
        ),
        (
            "another number of groups",
            "groups",
            |h, _| {
                edit_manifest(h, |m| {
                    let group = m["optimizer"]["groups"][0].clone();
                    m["optimizer"]["groups"].as_array_mut().unwrap().push(group);
                })
            },
            true,
        ),
        ("no groups", "groups", |h, _| edit_manifest(h, |m| m["optimizer"]["groups"] = json!([])), true),
        (
            "a group that is not there",
            "half",
            |h, _| {
                edit_manifest(h, |m| m["optimizer"]["params"]["half"]["group"] = json!(7));
            },
            true,
        ),
        (
            "an unknown hyperparameter",
            "speed",
            |h, _| {
                edit_manifest(h, |m| m["optimizer"]["groups"][0]["speed"] = json!(7));
            },
            true,
        ),
        (
            "a hyperparameter out of range",
            "lr",
            |h, _| {
                edit_manifest(h, |m| m["optimizer"]["groups"][0]["lr"] = json!(-1.0));
            },
            true,
        ),
        (
            "a hyperparameter of another type",
            "amsgrad",
            |h, _| {
                edit_manifest(h, |m| m["optimizer"]["groups"][0]["amsgrad"] = json!("yes"));
            },
            true,
        ),
        (
            "an unknown compute type",
            "half",
            |h, _| {
                edit_manifest(h, |m| m["optimizer"]["params"]["half"]["compute"] = json!("f128"));
            },
            true,
        ),
        (
            "another shape in the manifest",
            "half",
            |h, _| {
                edit_manifest(h, |m| m["optimizer"]["params"]["half"]["shape"] = json!([10, 30]));
            },
            true,
        ),
        (
            "an enormous shape",
            "half",
            |h, _| {
                edit_manifest(h, |m| m["optimizer"]["params"]["half"]["shape"] = json!([1u64 << 62, 8]));
            },
            false,
        ),
        (
            "no optimizer",
            "no optimizer",
            |h, _| edit_manifest(h, |m| drop(m.as_object_mut().unwrap().remove("optimizer"))),
            true,
        ),
        (
            "a parameter less",
            "empty",
            |h, _| {
                edit_manifest(h, |m| {
                    m["optimizer"]["params"].as_object_mut().unwrap().remove("empty");
                })
            },
            true,
        ),
        (
            "a parameter more",
            "more",
            |h, _| {
                edit_manifest(h, |m| {
                    let param = m["optimizer"]["params"]["empty"].clone();
                    m["optimizer"]["params"]["more"] = param;
                })
            },
            true,
        ),
    ];
    for (what, names, edit, fresh_too) in edits {
        does_not_fit(what, names, &edited(&saved, edit), *fresh_too);
    }
    // The bytes of a state are gone altogether, and everything behind them has moved up.
    let without = edited(&saved, |header, data| {
        let gone = header.remove("state/half/m").unwrap();
        let offset = |entry: &Value, i: usize| entry["data_offsets"][i].as_u64().unwrap();
        let (start, end) = (offset(&gone, 0), offset(&gone, 1));
        data.drain(start as usize..end as usize);
        for (_, entry) in header.iter_mut().filter(|(key, _)| *key != "__metadata__") {
            if offset(entry, 0) >= end {
                entry["data_offsets"] = json!([0, 1].map(|i| offset(entry, i) - (end - start)));
            }
        }
    });
    does_not_fit("a missing state", "half/m", &without, true);
    // Of another optimizer altogether.
    let mut sgd = build("SGD");
    run(&mut sgd, &mut tensors(), 0..1);
    does_not_fit("of SGD", "SGD", &sgd.save().unwrap().to_bytes().unwrap(), true);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn add(header: &mut Header, data: &mut Vec<u8>, key: &str) {
    let start = data.len();
    data.extend([0; 4]);
    header.insert(key.into(), json!({"dtype": "F32", "shape": [1], "data_offsets": [start, start + 4]}));
}

fn add_step(header: &mut Header, data: &mut Vec<u8>, key: &str) {
    let start = data.len();
    data.extend([0; 8]);
    header.insert(key.into(), json!({"dtype": "I64", "shape": [], "data_offsets": [start, start + 8]}));
}

#[test]
fn bytes_that_are_no_checkpoint_are_refused() {
    let (_, _, saved) = used();
    let good = saved.to_bytes().unwrap();
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let places =
        (0..25).map(|i| i * good.len() / 25).chain([1, 7, 8, 9, 8 + header - 1, 8 + header, 9 + header]);
    for length in places.chain(good.len() - 18..good.len()) {
        assert!(Checkpoint::from_bytes(&good[..length]).is_err(), "cut to {length} bytes");
    }
    let with_header = |text: &[u8]| [&(text.len() as u64).to_le_bytes()[..], text].concat();
    let manifest = |text: &str| {
        let header = json!({"__metadata__": {"fallline": text}});
        with_header(header.to_string().as_bytes())
    };
    let version = |version: Value| {
        edited(&saved, |header, _| edit_manifest(header, |manifest| manifest["version"] = version))
    };
    let mut trailing = good.clone();
    trailing.push(0);
    let edits: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("no JSON", with_header(b"garbage")),
        ("NaN in the header", with_header(br#"{"__metadata__": {"fallline": NaN}}"#)),
        ("a list as header", with_header(b"[]")),
        ("no metadata", with_header(b"{}")),
        ("no manifest", with_header(br#"{"__metadata__": {"other": "1"}}"#)),
        ("an empty manifest", manifest("")),
        ("a manifest that is no JSON", manifest("{version: 1}")),
        ("NaN in the manifest", manifest(r#"{"version": NaN}"#)),
        ("a manifest without version", manifest("{}")),
        ("a manifest nested deeply", manifest(&"[".repeat(100_000))),
        ("not UTF-8", with_header(b"{\"__metadata__\": {\"fallline\": \"\xff\xfe\"}}")),
        ("a later version", version(json!(2))),
        ("version 0", version(json!(0))),
        ("a negative version", version(json!(-1))),
        ("a version that is text", version(json!("1"))),
        ("a header of 1 GB", [&(1u64 << 30).to_le_bytes()[..], &good[8..]].concat()),
        ("a header of 2^64 bytes", [&u64::MAX.to_le_bytes()[..], &good[8..]].concat()),
        ("a byte too many", trailing),
        (
            "a step of two numbers",
            edited(&saved, |header, data| {
                add_step(header, data, "step/two");
                data.extend([0; 8]);
                header["step/two"]["shape"] = json!([2]);
                header["step/two"]["data_offsets"][1] = json!(data.len());
            }),
        ),
        ("a step of F64", edited(&saved, |header, _| header["step/half"]["dtype"] = json!("F64"))),
        (
            "a tensor of U8 that is no state",
            edited(&saved, |header, data| {
                add(header, data, "param/codes");
                header["param/codes"]["dtype"] = json!("U8");
                header["param/codes"]["shape"] = json!([4]);
            }),
        ),
        (
            "offsets that overlap",
            edited(&saved, |header, _| {
                header["state/half/m"]["data_offsets"] = header["state/half/v"]["data_offsets"].clone();
            }),
        ),
        (
            "offsets behind the end",
            edited(&saved, |header, _| {
                header["state/half/m"]["data_offsets"] = json!([1u64 << 40, (1u64 << 40) + 1200]);
            }),
        ),
        (
            "an enormous shape",
            edited(&saved, |header, _| {
                header["state/half/m"]["shape"] = json!([u64::MAX, u64::MAX]);
            }),
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (what, bytes) in edits {
        let error = Checkpoint::from_bytes(&bytes).expect_err(what);
        assert!(!error.is_empty(), "{what}");
        let path = folder.path().join("bad.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        let error = Checkpoint::read(&path).expect_err(what).to_string();
        assert!(error.contains("bad.safetensors"), "{what}: {error}");
    }
    let gone = Checkpoint::read(folder.path().join("gone.safetensors")).unwrap_err().to_string();
    assert!(gone.contains("gone.safetensors"), "{gone}");
}

/// A folder in which nothing can be made, whoever asks: even root cannot write to a path below a file.
#[test]
fn a_write_that_fails_leaves_the_old_file_whole() {
    let (_, _, saved) = used();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    saved.write(&path).unwrap();
    let below = path.join("checkpoint.safetensors");
    let error = saved.write(&below).unwrap_err().to_string();
    assert!(error.contains("checkpoint.safetensors"), "{error}");
    let error = saved.write(folder.path().join("no/such/folder")).unwrap_err().to_string();
    assert!(error.contains("no/such/folder"), "{error}");
    // A folder stands where the file should go: the rename fails, and nothing is left behind.
    let taken = folder.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    let error = saved.write(&taken).unwrap_err().to_string();
    assert!(error.contains("taken"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file is left");
    assert_eq!(Checkpoint::read(&path).unwrap(), saved);
}

#[cfg(unix)]
#[test]
fn a_folder_that_is_read_only_leaves_the_old_file_whole() {
    use std::os::unix::fs::PermissionsExt;
    let (_, _, saved) = used();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    saved.write(&path).unwrap();
    let set = |mode| std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    set(0o555);
    // Root writes to read-only folders all the same: then there is nothing to see.
    let root = std::fs::write(folder.path().join("probe"), "").is_ok();
    let written = Checkpoint::default().write(&path);
    set(0o755);
    if !root {
        let error = written.unwrap_err().to_string();
        assert!(error.contains("checkpoint.safetensors"), "{error}");
        assert_eq!(Checkpoint::read(&path).unwrap(), saved);
    }
}
