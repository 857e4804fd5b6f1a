//! Reading configurations: what MMEngine and Python make of the samples, and what every error says.

mod samples;

use std::path::Path;

use fallline_config::{ConfigError, Dict, Entries, Node, Value, load, parse_inline, parse_python};
use proptest::prelude::*;
use samples::{check_sample, message, sample};

fn inline_error(text: &str) -> String {
    parse_inline(text).expect_err(text).to_string()
}

#[test]
fn literals_are_as_python_has_them() {
    check_sample("literals.py", &[]);
}

#[test]
fn arithmetic_is_as_python_has_it() {
    check_sample("arithmetic.py", &[]);
}

#[test]
fn names_are_as_python_has_them() {
    check_sample("names.py", &[]);
}

#[test]
fn changes_show_where_python_shows_them() {
    check_sample("changes.py", &[]);
}

#[test]
fn templates_are_as_mmengine_fills_them() {
    check_sample("templates.py", &[]);
}

#[test]
fn a_real_chain_is_read_around_what_is_not_understood() {
    let imports_and_comprehensions = ["channels", "largest", "model", "size_divisor", "test_pipelines"];
    let pipelines = ["train_dataloader", "train_pipeline"];
    let mut bad = [&imports_and_comprehensions[..], &pipelines[..]].concat();
    bad.sort_unstable();
    check_sample("swin/swin_adamw.py", &bad);
    check_sample("swin/swin_sgd.py", &bad);
}

#[test]
fn other_notations_merge_as_python_does() {
    check_sample("mixed/child.json", &[]);
    check_sample("mixed/child.yaml", &[]);
    check_sample("mixed/child.py", &[]);
    let toml = load(sample("mixed/child.toml")).unwrap();
    let get = |key: &str| toml.get(key).unwrap().unwrap().to_string();
    assert_eq!(get("optimizer"), r#"dict(type="SGD", lr=0.01, momentum=0.9, nested=dict(a=1, b=[3]))"#);
    assert_eq!(get("replaced"), "dict(b=False)");
    assert_eq!(get("learning_rate"), "0.5");
    assert_eq!(get("same"), r#"[dict(a=1, b=[1, 2]), "child"]"#);
    assert_eq!(get("numbers"), r#"[0, -1, 1.5, 1000.0, 255, float("inf"), 1000]"#);
    assert_eq!(get("kept"), r#"{"a key": [1, 2]}"#);
}

#[test]
fn positions_are_those_of_the_file_a_value_is_in() {
    let at = |entries: &Entries, path: &[&str]| {
        let mut node = entries.get(path[0]).unwrap().unwrap();
        let mut key = entries.key_at(path[0]).unwrap();
        for part in &path[1..] {
            let dict = node.value.as_dict().unwrap();
            (node, key) = (dict.get(part).unwrap(), dict.key_at(part).unwrap());
        }
        let short =
            |at: &dyn std::fmt::Display| at.to_string().rsplit('/').next().unwrap_or_default().to_owned();
        format!("{} = {}", short(key), short(&node.at))
    };
    let py = load(sample("swin/swin_sgd.py")).unwrap();
    assert_eq!(at(&py, &["optim_wrapper", "type"]), "swin_sgd.py:4:5 = swin_sgd.py:4:10");
    assert_eq!(at(&py, &["optim_wrapper", "optimizer", "lr"]), "swin_sgd.py:6:47 = swin_sgd.py:6:50");
    let norm = ["optim_wrapper", "paramwise_cfg", "custom_keys", "norm", "decay_mult"];
    assert_eq!(at(&py, &norm), "swin_adamw.py:46:26 = swin_adamw.py:46:37");
    assert_eq!(at(&py, &["log_level"]), "default_runtime.py:5:1 = default_runtime.py:5:13");
    let json = load(sample("mixed/child.json")).unwrap();
    assert_eq!(at(&json, &["optimizer", "nested", "b"]), "child.json:3:40 = child.json:3:45");
    assert_eq!(at(&json, &["learning_rate"]), "child.json:5:3 = child.json:5:20");
    let toml = load(sample("mixed/child.toml")).unwrap();
    assert_eq!(at(&toml, &["optimizer", "lr"]), "child.toml:7:1 = child.toml:7:6");
    assert_eq!(at(&toml, &["learning_rate"]), "child.toml:3:1 = child.toml:3:17");
    let yaml = load(sample("mixed/child.yaml")).unwrap();
    assert_eq!(at(&yaml, &["optimizer", "lr"]), "child.yaml = child.yaml", "it has aliases");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    let text = "# lr: 0\noptimizer:   # lr: 1\n  type: 'lr: 2'\n  lr: 3\n  nested: {a: lr, \"é\": [1], lr : 4}\n\
                schedule:\n- type: A\n- {type: B, end: 5}\nlr: 6\n";
    std::fs::write(&file, text).unwrap();
    let yaml = load(&file).unwrap();
    for (path, places) in [
        (&["optimizer"][..], "a.yaml:2:1 = a.yaml:2:1"),
        (&["optimizer", "type"], "a.yaml:3:3 = a.yaml:3:9"),
        (&["optimizer", "lr"], "a.yaml:4:3 = a.yaml:4:7"),
        (&["optimizer", "nested"], "a.yaml:5:3 = a.yaml:5:11"),
        (&["optimizer", "nested", "é"], "a.yaml:5:19 = a.yaml:5:24"),
        (&["optimizer", "nested", "lr"], "a.yaml:5:29 = a.yaml:5:34"),
        (&["lr"], "a.yaml:9:1 = a.yaml:9:5"),
    ] {
        assert_eq!(at(&yaml, path), places);
    }
    let schedule = yaml.get("schedule").unwrap().unwrap().value.as_list().unwrap();
    let places: Vec<_> = schedule.iter().map(|entry| (entry.at.line, entry.at.column)).collect();
    assert_eq!(places, [(7, 3), (8, 4)]);
}

#[test]
fn inline_text_is_one_tree_in_every_notation() {
    for (text, value) in [
        ("AdamW", r#"dict(type="AdamW")"#),
        (" torch.optim.AdamW\n", r#"dict(type="torch.optim.AdamW")"#),
        ("mmdet::AdamW", r#"dict(type="mmdet::AdamW")"#),
        ("'AdamW'", r#""AdamW""#),
        ("None", "None"),
        ("-1.5e3", "-1500.0"),
        ("dict(type='SGD',\n  lr=0.1)", r#"dict(type="SGD", lr=0.1)"#),
        ("{'type': 'SGD', 'betas': (0.9, 1 - 1e-3)}", r#"dict(type="SGD", betas=[0.9, 0.999])"#),
        (r#"{"type": "SGD", "fused": true, "a": null}"#, r#"dict(type="SGD", fused=True, a=None)"#),
        (r#"["\ud83d\ude00", false]"#, r#"["😀", False]"#),
        ("[dict(type='StepLR'), dict(type='LinearLR')]", r#"[dict(type="StepLR"), dict(type="LinearLR")]"#),
        ("lr = 0.1\noptimizer = dict(lr=lr * 2)\n", "dict(lr=0.1, optimizer=dict(lr=0.2))"),
        ("type = 'SGD'", r#"dict(type="SGD")"#),
        ("type='SGD'; lr=1", r#"dict(type="SGD", lr=1)"#),
        ("# a comment\nfrom torch.optim import SGD\ntype = 'SGD'", r#"dict(type="SGD")"#),
        ("[optimizer]\ntype = 'SGD'\nnesterov = true", r#"dict(optimizer=dict(type="SGD", nesterov=True))"#),
        ("fused = true", "dict(fused=True)"),
        ("type: SGD\nlr: 1e-2\n", r#"dict(type="SGD", lr=0.01)"#),
        ("type: SGD", r#"dict(type="SGD")"#),
        ("param_scheduler:\n- type: StepLR\n", r#"dict(param_scheduler=[dict(type="StepLR")])"#),
        ("'{{fileless}}' '{{$FALLLINE_NO_SUCH_VARIABLE:7}}'", r#""{\x7bfileless}}7""#),
    ] {
        assert_eq!(parse_inline(text).unwrap_or_else(|e| panic!("{text}: {e}")).to_string(), value, "{text}");
    }
}

#[test]
fn inline_errors_name_the_place() {
    for (text, expected) in [
        ("", "line 1, column 1: expected a name or a configuration, got nothing"),
        ("AdamW lr=0.1", "line 1, column 7: expected the end of the statement, got `lr`"),
        ("dict(type='AdamW', lr=0.1", "line 1, column 5: `(` opened here is never closed"),
        ("dict(lr=0.1))", "line 1, column 13: expected an open bracket before it, got `)`"),
        ("dict(lr=[0.1)", "line 1, column 13: expected `]` for the `[` at 1:9, got `)`"),
        ("dict(lr='0.1)", "line 1, column 9: the string `'` opened here is never closed"),
        ("dict(lr=0.1 wd=2)", "line 1, column 13: expected `,` or `)`, got `wd`"),
        ("dict(lr=)", "line 1, column 9: expected a value, got `)`"),
        ("dict(lr=1_)", "line 1, column 9: expected a number, got `1_`"),
        ("dict(lr=012)", "line 1, column 9: expected a number, got `012`"),
        ("dict(lr=0.1, lr=0.2)", "line 1, column 14: `lr` is here and at line 1, column 6"),
        ("dict('SGD')", "line 1, column 6: expected a dict, got str"),
        (
            "dict(a=1, dict(b=1))",
            "line 1, column 11: expected `key=value`, got another argument without a key",
        ),
        ("dcit(lr=1)", "line 1, column 1: `dcit` is not defined; did you mean `dict`?"),
        ("dict(fused=true)", "line 1, column 12: `true` is not defined; did you mean `True`?"),
        ("dict(lr=1/0)", "line 1, column 10: division by zero"),
        ("dict(lr=1.0//0)", "line 1, column 12: division by zero"),
        ("dict(lr=0**-1)", "line 1, column 10: division by zero"),
        ("dict(n=2**63)", "line 1, column 9: 2 ** 63 does not fit in 64 bits"),
        ("dict(n=9223372036854775808)", "line 1, column 8: 9223372036854775808 does not fit in 64 bits"),
        ("10.0**400", "line 1, column 5: 10.0 ** 400.0 does not fit in a float"),
        ("(-8)**0.5", "line 1, column 5: (-8.0) ** 0.5 is a complex number"),
        ("'a' + 1", "line 1, column 5: expected two numbers for `+`, got str and int"),
        ("[1] + (2,)", "line 1, column 5: expected two numbers for `+`, got list and list"),
        ("-'a'", "line 1, column 2: expected a number, got str"),
        ("float('x')", "line 1, column 1: expected a number in the string given to `float`, got `x`"),
        ("int(1e300)", "line 1, column 1: expected a number of 64 bits given to `int`, got something else"),
        ("{1: 2}", "line 1, column 2: expected a string as a key, got int"),
        ("[1][1]", "line 1, column 4: index 1 is outside a list of 1 element"),
        (
            "dict(momentum=1).momentun",
            "line 1, column 17: there is no key `momentun`; did you mean `momentum`?",
        ),
        (r#"{"a": 1, "a": tru}"#, "line 1, column 18: not valid JSON: expected ident"),
        (
            r#"{"lr": 1e-3, "betas": (0.9, 0.99}"#,
            "line 1, column 33: expected `)` for the `(` at 1:23, got `}`",
        ),
        (r#"{"lr": true "a": 1}"#, "line 1, column 13: expected `,` or `}`, got the string `a`"),
        ("[optimizer]\nlr = \n", "line 2, column 4: expected a value after this, got the end"),
        ("$x", "line 1, column 1: expected Python, got `$`"),
        ("'\\x4'", "line 1, column 2: expected 2 hexadecimal digits after `\\x`, got 1"),
        ("'\\ud800'", "line 1, column 2: expected the code of a character, got d800"),
        (
            "'{{fileBasename}}'",
            "line 1, column 1: `{{fileBasename}}` in text without a file is not understood: WHY",
        ),
        (
            "'{{$FALLLINE_NO_SUCH_VARIABLE:}}'",
            "line 1, column 1: environment variable `FALLLINE_NO_SUCH_VARIABLE` is not set, and `{{$FALLLINE_NO_SUCH_VARIABLE:}}` names no default",
        ),
        ("type = 'SGD'\nlr 0.1", "line 2, column 4: expected the end of the statement, got `0.1`"),
        ("lr = 0.1\ntype = Adam", "line 2, column 8: `Adam` is not defined"),
    ] {
        let why = "a configuration holds literals, `dict(...)`, arithmetic and names assigned earlier, and nothing is executed \
                   (MMEngine's `cfg.dump(\"plain.py\")` writes it resolved)";
        assert_eq!(inline_error(text), expected.replace("WHY", why), "{text}");
    }
}

/// What is not understood, the place of it in `x = …`, and what the error calls it.
const NOT_UNDERSTOOD: [(&str, u32, &str); 27] = [
    ("[i for i in range(3)]", 8, "a comprehension"),
    ("{k: v for k, v in d}", 11, "a comprehension"),
    ("dict(a=(i for i in y))", 15, "a comprehension"),
    ("1 if y else 2", 7, "a conditional expression"),
    ("lambda a: a", 5, "a lambda"),
    ("f'{y}'", 5, "an f-string"),
    ("'a' f'{y}'", 9, "an f-string"),
    ("b'abc'", 5, "a bytes literal"),
    (r"'\N{DASH}'", 5, "a `\\N{…}` escape"),
    ("{1, 2}", 6, "a set"),
    ("1j", 5, "a complex number"),
    ("y == 2", 7, "a comparison"),
    ("1 < y", 7, "a comparison"),
    ("y and 1", 7, "`and`"),
    ("not y", 5, "`not`"),
    ("1 << 3", 7, "`<<`"),
    ("...", 5, "`...`"),
    ("[1, 2][0:1]", 11, "a slice"),
    ("[1, 2][:]", 11, "a slice"),
    ("foo(1)", 5, "a call of `foo`"),
    ("len([1])", 5, "a call of `len`"),
    ("dict(a=1).keys()", 14, "a call of `.keys` on dict"),
    ("[].sort()", 7, "a call of `.sort` on list"),
    ("dict(a=1)()", 14, "this call"),
    ("dict(*y)", 10, "a starred argument"),
    ("'%d' % 3", 10, "formatting with `%`"),
    ("(yield)", 6, "`yield`"),
];

#[test]
fn python_that_is_not_understood_is_named_and_passed_over() {
    for (text, column, what) in NOT_UNDERSTOOD {
        let source =
            format!("optimizer = dict(lr=1)\nx = {text}\nz = dict(a=[x])\nz2 = 2\nz3 = x\nx2 = x3 = 1\n");
        let entries = parse_python(&source, "a.py").unwrap();
        let expected = format!(
            "a.py:2:{column}: {what} is not understood: a configuration holds literals, `dict(...)`, arithmetic and \
             names assigned earlier, and nothing is executed (MMEngine's `cfg.dump(\"plain.py\")` writes it resolved)"
        );
        for key in ["x", "z", "z3"] {
            assert_eq!(entries.get(key).unwrap_err().to_string(), expected, "{key} in {text}");
        }
        for key in ["optimizer", "z2", "x2"] {
            assert!(entries.get(key).unwrap().is_some(), "{key} in {text}");
        }
        assert!(entries.to_dict().is_err());
    }
}

#[test]
fn statements_that_are_not_understood_taint_what_they_may_change() {
    // The source, and which of a, b, c (each a dict) can still be read.
    for (statement, readable) in [
        ("if x:\n    a = 1", "bc"),
        ("if x: a = 1; b = 2\nc['y'] = 1", "c"),
        ("for i in range(3):\n\n  # comment\n  a['k'] = i\n  if i:\n    b = 1", "c"),
        ("for a in b: pass", "c"),
        ("for k, v in a.items():\n    v['x'] = 1", "bc"),
        ("while True:\n    a.update(b)", "c"),
        ("try:\n    a = 1\nexcept ValueError as b:\n    pass", "c"),
        ("with open('f') as a:\n    pass", "bc"),
        ("def a(b):\n    c = 1\n    b = 2", "bc"),
        // A class's own names are not the module's, but `global` in it could make them so.
        ("class a(Base):\n    b = 1", "c"),
        ("@decorator\ndef a(b): pass", "bc"),
        ("async def a():\n    pass", "bc"),
        ("import a.d, os as b", "c"),
        ("from m import (x as a,\n  b)", "c"),
        ("from .m import a", "bc"),
        ("from m import *", ""),
        ("a.foo(1)", "bc"),
        ("a.items()", "abc"),
        ("a.update(foo())", "bc"),
        ("a.update(x=foo())", "bc"),
        ("a.update([f(x) for x in y])", "bc"),
        ("foo(a, k=[b])", "c"),
        ("a.foo(b)", "c"),
        ("a.pop(b)", "bc"),
        // What a comprehension walks over may be changed through its elements.
        ("a.pop([i for i in b])", "c"),
        ("y = [foo(i)(b) for i in c]", "a"),
        ("y = foo(a)", "bc"),
        ("y = [foo(i) for i in a]", "bc"),
        ("y = [foo(b) for i in a]", "c"),
        ("y = len(a)", "abc"),
        ("print(a, b)", "abc"),
        ("import copy\ny = copy.deepcopy(a)", "abc"),
        ("a['x'] = foo()", "bc"),
        ("a[foo()] = 1", "bc"),
        ("a['x']['y'] = 1", "bc"),
        ("a.x.y = [i for i in b]", "bc"),
        ("a['x'], b = c if x else y", "c"),
        ("a += 1", "bc"),
        ("a |= b", "bc"),
        ("del a['nope']", "bc"),
        ("del a, b", "c"),
        ("y = (a := 1)", "bc"),
        ("a: dict = b or c", "bc"),
        ("a, b = 1", "c"),
        ("a, b = 1, 2, 3", "c"),
        ("a, *b = 1, 2", "c"),
        ("y = a\ny.foo()", "bc"),
        ("y = [dict(z=a)]\ny[0]['z'].foo()", "bc"),
        ("y = dict(a)\ny.foo()", "abc"),
        ("y = a if x else b\ny['k'] = 2", "c"),
        ("y = a if x else b\nz = dict(y=y)\nz['y'].update(k=2)", "c"),
        ("y = a if x else b\ny += [1]", "c"),
        ("y = list(a)\ny[0]['k'] = 2", "bc"),
        ("def f():\n    a['x'] = 1", "abc"),
        ("def f():\n    a['x'] = 1\nf()", "bc"),
        ("f = lambda: a.clear()\nf()", "bc"),
        ("y = [a]\nz = y\nz *= foo()", "bc"),
        ("y = z = [a]\ny += 'xy'", "bc"),
        ("y = foo() + a.pop('k')", "bc"),
        ("y = foo(b) + 1", "ac"),
        ("a['x'] += foo(b)", "c"),
        ("_base_.x = a\n_base_.x.clear()", "abc"),
        ("a = foo()\na = dict()", "abc"),
        ("a.foo()\na = dict()", "abc"),
        ("assert a", "abc"),
        ("raise foo(b)", "ac"),
        ("global a", "abc"),
        ("match = 1", "abc"),
        ("match a:\n    case b:\n        c = 1", ""),
        ("_base_.update(a)", "abc"),
    ] {
        let source = format!("a = dict(k=1)\nb = dict(k=1)\nc = dict(k=1)\n{statement}\nz = 1\n");
        let entries = parse_python(&source, "a.py").unwrap_or_else(|e| panic!("{statement}: {e}"));
        let good: String =
            ["a", "b", "c"].into_iter().filter(|key| matches!(entries.get(key), Ok(Some(_)))).collect();
        assert_eq!(good, readable, "{statement}");
        assert!(entries.get("z").unwrap().is_some(), "{statement}");
    }
}

#[test]
fn some_text_is_wrong_whatever_is_needed() {
    for (source, expected) in [
        ("a = 1\nb = [1,\nc = 2\n", "a.py:2:5: `[` opened here is never closed"),
        ("a = 1\nb = 'x\nc = 2\n", "a.py:2:5: the string `'` opened here is never closed"),
        ("b = '''x\n", "a.py:1:5: the string `'''` opened here is never closed"),
        ("a = 1\n  b = 2\n", "a.py:2:3: expected a statement at the left margin, got an indented line"),
        ("a = 1 ? 2\n", "a.py:1:7: expected Python, got `?`"),
        ("a = 1\noptimizer dict(lr=1)\n", "a.py:2:11: expected the end of the statement, got `dict`"),
        ("a = 1\n1 = a\n", "a.py:2:1: expected a name, key or attribute to assign to, got an expression"),
        ("a = \\ 1\n", "a.py:1:5: expected the end of the line after `\\`, got ` `"),
        (
            "optimizer = dict()\noptimiser.update(lr=1)\n",
            "a.py:2:1: `optimiser` is not defined; did you mean `optimizer`?",
        ),
        (
            "optimizer = dict()\noptimiser['lr'] = 1\n",
            "a.py:2:1: `optimiser` is not defined; did you mean `optimizer`?",
        ),
        ("_base_ = [x for x in y]\n", "a.py:1:13: a comprehension is not understood: WHY"),
        ("_base_ = base\n", "a.py:1:10: `base` is not defined"),
        ("_base_ = 3\n", "a.py:1:10: expected a file name, or a list of them, for `_base_`, got int"),
        (
            "_base_ = ['a.py', 3]\n",
            "nowhere/a.py: cannot be read: No such file or directory (os error 2) (a base of a.py:1:11)",
        ),
        ("_base_ = 'a.txt'\n", "a.txt: expected a .py, .json, .toml, .yaml or .yml file, got .txt"),
    ] {
        let why = "a configuration holds literals, `dict(...)`, arithmetic and names assigned earlier, and nothing is executed \
                   (MMEngine's `cfg.dump(\"plain.py\")` writes it resolved)";
        let error = parse_python(source, "a.py").expect_err(source).to_string();
        assert_eq!(error, expected.replace("WHY", why).replace("nowhere/", ""), "{source}");
    }
}

#[test]
fn bases_in_other_packages_are_refused_where_needed() {
    let entries = load(sample("wrong/foreign.py")).unwrap();
    for key in ["optim_wrapper", "auto_scale_lr", "x"] {
        let name = if key == "x" { "auto_scale_lr" } else { key };
        assert_eq!(
            message(&entries.get(key).unwrap_err()),
            format!(
                "wrong/foreign.py:1:48: `{name}` may come from `mmdet::_base_/schedules/schedule_1x.py`, a base in another \
                 package, which is not read: copy that file beside this one, or set `_delete_=True` in the dict if it \
                 needs nothing from there (MMEngine's `cfg.dump(\"plain.py\")` writes it resolved)"
            )
        );
    }
    // A list replaces, `_delete_` replaces, and what another base has this one cannot have.
    assert!(entries.get("param_scheduler").unwrap().is_some());
    assert_eq!(entries.get("optimizer").unwrap().unwrap().to_string(), r#"dict(type="SGD", lr=0.1)"#);
    assert_eq!(
        entries.get("default_hooks").unwrap().unwrap().to_string(),
        r#"dict(timer=dict(type="IterTimerHook", interval=10), param_scheduler=dict(type="ParamSchedulerHook"))"#
    );
}

#[test]
fn bases_that_do_not_fit_are_refused() {
    for (name, expected) in [
        (
            "wrong/circle_a.py",
            "wrong/circle_c.yaml:1:9: `_base_` goes round in a circle: wrong/circle_a.py -> wrong/circle_b.json -> \
             wrong/circle_c.yaml -> wrong/circle_a.py",
        ),
        (
            "wrong/twice.py",
            "swin/swin_adamw.py:23:1: `train_cfg` is here and at swin/_base_/schedules/schedule_1x.py:2:1: bases merged \
             together must not share a key",
        ),
        (
            "wrong/missing.py",
            "wrong/no_such_file.py: cannot be read: No such file or directory (os error 2) (a base of \
             wrong/missing.py:2:25)",
        ),
        ("wrong/nothing.py", "wrong/nothing.py: cannot be read: No such file or directory (os error 2)"),
        ("wrong", "wrong: expected a .py, .json, .toml, .yaml or .yml file, got none"),
    ] {
        assert_eq!(message(&load(sample(name)).expect_err(name)), expected, "{name}");
    }
    let entries = load(sample("wrong/inherit.py")).unwrap();
    assert_eq!(
        message(&entries.get("optimizer").unwrap_err()),
        "wrong/inherit.py:2:23: `type` is a dict here but str in the base (mixed/base.py:3:23): set `_delete_=True` in it to \
         replace the base's value"
    );
    assert_eq!(
        message(&entries.get("lr").unwrap_err()),
        "wrong/inherit.py:3:6: `lr` is a dict here but float in the base (mixed/base.py:2:6): set `_delete_=True` in it to \
         replace the base's value"
    );
    assert_eq!(entries.get("kept").unwrap().unwrap().to_string(), "dict(b=1)");
}

#[test]
fn other_notations_name_the_place_of_errors() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text, expected) in [
        ("a.json", "{\"a\": 1,\n \"b\": }", "a.json:2:7: not valid JSON: expected value"),
        ("a.json", "{\"a\": 1, \"a\": 2}", "a.json:1:10: `a` is here and at a.json:1:2"),
        (
            "a.json",
            "{\"a\": 12345678901234567890}",
            "a.json:1:7: 12345678901234567890 does not fit in 64 bits",
        ),
        ("a.json", "[1]", "a.json:1:1: expected a dict at the top, got list"),
        ("a.json", "", "a.json:1:1: not valid JSON: the file is empty"),
        ("a.yaml", "# nothing\n", "a.yaml:1:1: not valid YAML: the file is empty"),
        (
            "a.toml",
            "a = 1\nb = \"é\" x",
            "a.toml:2:9: not valid TOML: unexpected key or value, expected newline, `#`",
        ),
        ("a.toml", "a = 1\na = 2", "a.toml:2:1: not valid TOML: duplicate key"),
        ("a.toml", "\"é\" = [2020-01-01]", "a.toml:1:8: expected a value, got a date or time"),
        ("a.toml", "a = 0xffffffffffffffff", "a.toml:1:5: 0xffffffffffffffff does not fit in 64 bits"),
        ("a.yaml", "a: 1\nb: [1", "a.yaml:3:1: not valid YAML: did not find expected ',' or ']'"),
        ("a.yaml", "a: 1\na: 2", "a.yaml:1:1: not valid YAML: the key `a` is there twice"),
        ("a.yml", "a: !x 1", "a.yml:1:4: not valid YAML: a: the tag `!x` is not understood"),
        ("a.yml", "a: *b", "a.yml:1:4: not valid YAML: unknown anchor"),
        ("a.yml", "- 1", "a.yml: expected a dict at the top, got list"),
        (
            "a.json",
            "{\"_base_\": [1]}",
            "a.json:1:13: expected a file name, or a list of them, for `_base_`, got int",
        ),
        (
            "a.yaml",
            "_base_: {}",
            "a.yaml:1:9: expected a file name, or a list of them, for `_base_`, got dict",
        ),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let error = load(&path).and_then(|entries| entries.to_dict()).expect_err(text).to_string();
        assert_eq!(error.replace(&format!("{}/", folder.path().display()), ""), expected, "{text}");
    }
    let path = folder.path().join("a.py");
    std::fs::write(&path, b"a = '\xff'").unwrap();
    assert!(load(&path).unwrap_err().to_string().ends_with("a.py: cannot be read: not UTF-8 after byte 5"));
}

#[test]
fn a_file_may_be_a_bare_dict() {
    let entries = parse_python("# SGD\ndict(type='SGD', lr=0.1)\n", "a.py").unwrap();
    assert_eq!(entries.to_dict().unwrap().to_string(), r#"dict(type="SGD", lr=0.1)"#);
    let entries = parse_python("type = 'SGD'\nlr = 0.1\n", "a.py").unwrap();
    assert_eq!(entries.get("type").unwrap().unwrap().value.as_str(), Some("SGD"));
    assert!(parse_python("", "a.py").unwrap().keys().next().is_none());
}

#[test]
fn depth_and_size_are_bounded() {
    let deep = |open: &str, n: usize| format!("a = {}", open.repeat(n));
    for n in [65, 100_000] {
        for open in ["[", "(", "{'a': ", "dict(a="] {
            let error = parse_python(&deep(open, n), "a.py").unwrap_err();
            assert!(matches!(error, ConfigError::TooDeep { .. }), "{error}");
        }
        assert!(parse_inline(&"[".repeat(n)).is_err());
        assert!(parse_inline(&"{\"a\":".repeat(n)).is_err());
        assert!(parse_inline(&format!("a: {}", "[".repeat(n))).is_err());
        assert!(parse_inline(&format!("a:\n  {}1", "- ".repeat(n))).is_err());
    }
    assert!(parse_inline(&format!("{}{}", "[".repeat(64), "]".repeat(64))).is_ok());
    assert!(parse_inline(&format!("{}1", "-".repeat(100_000))).is_err());
    assert!(parse_inline(&format!("1{}", "**1".repeat(100_000))).is_err());
    // Chains are no nesting.
    assert_eq!(parse_inline(&format!("0{}", "+1".repeat(10_000))).unwrap().value, Value::Int(10_000));

    let grown = |line: &str, n: usize| format!("a = [1]\n{}", line.repeat(n));
    for (source, good) in [
        (grown("a = [a]\n", 60), true),
        (grown("a = [a]\n", 1000), false),
        (grown("a = [a, a]\n", 50), false),
        (grown("a.append(a)\n", 1), false),
    ] {
        let entries = parse_python(&format!("{source}b = 1\n"), "a.py").unwrap();
        assert_eq!(entries.get("a").is_ok(), good);
        assert!(entries.get("b").is_ok());
    }
    for line in ["a += a\n", "a = a + a\n", "a = a * 2\n", "a.extend(a)\n", "a = ['x' * 10000000000]\n"] {
        let error = parse_python(&grown(line, 60), "a.py").unwrap_err();
        assert!(matches!(error, ConfigError::TooLarge { .. }), "{line}: {error}");
    }
    let large = " ".repeat((4 << 20) + 1);
    assert_eq!(inline_error(&large), "configuration: more than 4 MiB of text");
    let bomb: String =
        (1..40).map(|i| format!("a{i}: &a{i} [*a{0}, *a{0}, *a{0}, *a{0}]\n", i - 1)).collect();
    assert!(parse_inline(&format!("a0: &a0 [1, 1, 1]\n{bomb}")).is_err());
}

#[test]
fn conversions_between_values() {
    let dict = Dict::from_iter([
        ("a", Node::from(1)),
        ("b", 0.5.into()),
        ("c", vec![true, false].into()),
        ("d", None::<i64>.into()),
        ("e", "text".into()),
        ("f", f64::NAN.into()),
    ]);
    assert_eq!(dict.to_string(), r#"dict(a=1, b=0.5, c=[True, False], d=None, e="text", f=float("nan"))"#);
    let value = Value::from(dict.clone());
    assert_eq!(value, value.clone());
    assert_eq!(
        value.to_json().to_string(),
        r#"{"a":1,"b":0.5,"c":[true,false],"d":null,"e":"text","f":"nan"}"#
    );
    let entries = Entries::from(dict);
    assert_eq!(entries.get("b").unwrap().unwrap().value.as_float(), Some(0.5));
    assert_eq!(entries.to_dict().unwrap().len(), 6);
    assert_ne!(Value::from(1), Value::from(1.0));
    assert!(Entries::inline("[1]").is_err());
    assert!(Entries::inline("x = foo()\ntype = 'SGD'\n").unwrap().get("type").unwrap().is_some());
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        prop_oneof![any::<i64>(), Just(i64::MIN), -9i64..9].prop_map(Value::Int),
        prop_oneof![any::<f64>(), any::<u64>().prop_map(f64::from_bits), -1.0..1.0].prop_map(Value::Float),
        prop_oneof![any::<String>(), "[{}$_a.:'\"\\\\\n-]{0,12}", Just("{{_base_.x}}".to_owned())]
            .prop_map(Value::Str),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        let key = prop_oneof!["[a-z_]{1,6}", any::<String>(), Just("if".to_owned())];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..6)
                .prop_map(|pairs| Value::Dict(pairs.into_iter().collect())),
        ]
    })
}

/// Reads a text in every way there is, and asks for all of it.
fn exercise(text: &str, folder: &Path) {
    for read in [parse_python(text, "a.py"), Entries::inline(text)].into_iter().flatten() {
        for key in read.keys() {
            let _ = read.get(key);
        }
        let _ = read.to_dict();
    }
    let _ = parse_inline(text);
    for extension in ["py", "json", "toml", "yaml"] {
        let path = folder.join(format!("a.{extension}"));
        std::fs::write(&path, text).unwrap();
        if let Ok(entries) = load(&path) {
            let _ = entries.to_dict();
        }
    }
}

const SAMPLES: [&str; 9] = [
    include_str!("config_files/literals.py"),
    include_str!("config_files/arithmetic.py"),
    include_str!("config_files/changes.py"),
    include_str!("config_files/templates.py"),
    include_str!("config_files/swin/swin_adamw.py"),
    include_str!("config_files/wrong/new_style.py"),
    include_str!("config_files/mixed/child.json"),
    include_str!("config_files/mixed/child.toml"),
    include_str!("config_files/mixed/child.yaml"),
];

proptest! {
    #[test]
    fn a_value_is_read_back_from_what_it_is_written_as(value in values()) {
        let text = value.to_string();
        let node = parse_inline(&text).map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
        prop_assert_eq!(&node.value, &value);
        prop_assert_eq!(node.to_string(), text);
    }

    #[test]
    fn no_text_panics(text in prop_oneof![
        any::<String>(),
        "[a-c\\[\\](){}=:,.;+*/%'\"#\\\\ \n0-9-]{0,60}",
        "(x|=|dict|\\(|\\)|\\[|\\]|,|1|'|for|if|:|\n|  |\\{\\{|\\}\\}|_base_|\\.|\\*|-|\\$|@){0,40}",
    ]) {
        exercise(&text, tempfile::tempdir().unwrap().path());
    }

    #[test]
    fn no_damaged_configuration_panics(
        sample in 0..SAMPLES.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[\\[\\](){}=:,'\"\\\\ \n0-9a-c*-]{0,3}"), 1..6),
    ) {
        let mut text: Vec<char> = SAMPLES[sample].chars().collect();
        for (at, remove, insert) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + remove).min(text.len());
            text.splice(at..end, insert.chars());
        }
        exercise(&text.into_iter().collect::<String>(), tempfile::tempdir().unwrap().path());
    }
}
