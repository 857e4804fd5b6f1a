//! Configurations in the style of MMEngine's `with read_base():`, and files that are no dict of strings.

mod samples;

use fallline_config::{load, parse_python};
use samples::{check_sample, message, sample};

/// What `with read_base():` imports is read as data, and a class by its name, as MMEngine does in its lazy mode.
#[test]
fn new_style_chains_are_read_as_mmengine_reads_them() {
    check_sample("new_style/configs/retina/retina_sgd.py", &[]);
    // `len` is a call.
    check_sample("new_style/configs/retina/retina_adamw.py", &["lengths"]);
    check_sample("new_style/configs/retina/inline.py", &[]);
    // An absolute module is a file where the configuration is in that package, and a base elsewhere otherwise.
    let beside = sample("new_style/configs/retina/beside.py");
    let text = "with read_base():\n    from configs._base_.schedules.schedule_1x import train_cfg\n    \
                from mmdet.configs._base_.default_runtime import log_level\nlr = 1\n";
    let entries = parse_python(text, &beside).unwrap();
    assert_eq!(
        entries.get("train_cfg").unwrap().unwrap().to_string(),
        r#"dict(type="EpochBasedTrainLoop", max_epochs=12, val_interval=1)"#
    );
    let error = entries.get("log_level").unwrap_err();
    assert!(
        message(&error).starts_with(
            "new_style/configs/retina/beside.py:3:5: `log_level` may come from `mmdet.configs._base_.default_runtime`, \
             a base in another package, which is not read"
        ),
        "{error}"
    );
    // Named imports bring nothing else; those of everything may.
    assert!(entries.get("param_scheduler").unwrap().is_none());
    let star =
        parse_python("with read_base():\n    from mmdet.configs.x import *\nlr = 1\n", &beside).unwrap();
    assert!(star.get("lr").unwrap().is_some() && star.get("param_scheduler").is_err());
    // What a base lacks, and a base that is not there.
    let text = "with read_base():\n    from .inline import train_cgf\n";
    let error = parse_python(text, &beside).unwrap().get("train_cgf").unwrap_err();
    assert!(message(&error).ends_with("there is no key `train_cgf`; did you mean `train_cfg`?"), "{error}");
    let error = parse_python("with read_base():\n    from ..none import *\n", &beside).unwrap_err();
    assert_eq!(
        message(&error),
        "new_style/configs/none.py: cannot be read: No such file or directory (os error 2) (a base of \
         new_style/configs/retina/beside.py:2:5)"
    );
    let error = load(sample("wrong/new_style.py")).unwrap_err();
    assert!(message(&error).contains("_base_/default_runtime.py: cannot be read"), "{error}");
}

#[test]
fn imported_names_are_types_and_nothing_else() {
    let text = "import torch\nfrom torch.optim import AdamW as Opt\nfrom torch import optim\nfrom .here import lr\n\
                x = dict(type=torch.optim.AdamW, constructor=Opt)\ny = torch\nz = dict(type=optim.SGD, lr=Opt)\n\
                kind = optim.SGD\nw = [dict(type=kind), dict(type=Opt)]\nv = dict(type=Opt(lr=1))\nu = dict(lr=lr)\n\
                t = 2 * Opt\n";
    let module = parse_python(text, "a.py").unwrap();
    let got = |key: &str| module.get(key).unwrap().unwrap().to_string();
    assert_eq!(got("x"), r#"dict(type="AdamW", constructor="AdamW")"#);
    assert_eq!(got("w"), r#"[dict(type="SGD"), dict(type="AdamW")]"#);
    let error = |key: &str| module.get(key).unwrap_err().to_string();
    let resolved = "(MMEngine's `cfg.dump(\"plain.py\")` writes it resolved)";
    assert_eq!(
        error("z"),
        format!(
            "a.py:7:29: `AdamW` is imported from `torch.optim`, and nothing is imported here: only a `type` may be named \
             by a class {resolved}"
        )
    );
    assert!(error("t").starts_with("a.py:12:9: `AdamW` is imported from `torch.optim`"), "{}", error("t"));
    assert!(error("v").starts_with("a.py:10:15: a call of `AdamW` is not understood"), "{}", error("v"));
    assert!(error("v").ends_with(resolved), "{}", error("v"));
    assert_eq!(
        error("u"),
        "a.py:4:1: `lr` may come from `.here` through an import, and nothing is imported here: put it under \
         `with read_base():`, or use `_base_ = \"file.py\"`"
    );
    assert_eq!(module.keys().collect::<Vec<_>>(), ["lr", "x", "z", "w", "v", "u", "t"]);
    // `type = Opt` at the top is a key, and no import.
    let bare = parse_python("from torch.optim import AdamW\ntype = AdamW\nlr = 0.1\n", "a.py").unwrap();
    assert_eq!(bare.to_dict().unwrap().get("type").unwrap().to_string(), r#""AdamW""#);
}

/// Keys are read as they are written, and tuples as PyYAML writes them.
#[test]
fn yaml_may_have_any_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.yaml");
    let text = "classes: {0: cat, 1.5: dog, true: yes, null: none, [1, 2]: pair}\nsize: !!python/tuple [1, 2]\nlr: 1\n";
    std::fs::write(&path, text).unwrap();
    let entries = load(&path).unwrap();
    let classes = entries.get("classes").unwrap().unwrap().value.as_dict().unwrap();
    assert_eq!(classes.keys().collect::<Vec<_>>(), ["0", "1.5", "True", "None", "[1, 2]"]);
    assert_eq!(entries.get("size").unwrap().unwrap().to_string(), "[1, 2]");
}

/// A file may be nothing but a list, of which there is no key.
#[test]
fn a_file_may_be_a_list() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("a.py", "# two\n[dict(type='A'), dict(type='B')]\n"),
        ("a.json", r#"[{"type": "A"}, {"type": "B"}]"#),
        ("a.yaml", "- type: A\n- {type: B}\n"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let entries = load(&path).unwrap();
        assert_eq!(entries.keys().count(), 0, "{name}");
        assert_eq!(
            entries.list().unwrap().unwrap().to_string(),
            r#"[dict(type="A"), dict(type="B")]"#,
            "{name}"
        );
        std::fs::write(folder.path().join("child.py"), format!("_base_ = '{name}'\n")).unwrap();
        let error = load(folder.path().join("child.py")).unwrap_err().to_string();
        assert!(error.ends_with("expected a dict at the top, got list"), "{error}");
    }
    assert!(parse_python("lr = 1\n", "a.py").unwrap().list().unwrap().is_none());
}
