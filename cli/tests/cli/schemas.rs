//! Schemas: what `--json` prints is what they describe.

use super::errors::SMALL;
use super::{COMMANDS, good, tell};
use jsonschema::Validator;
use serde_json::Value;
use std::path::Path;

fn schema(command: &str) -> Value {
    serde_json::from_str(&good(&["schema", command])).unwrap()
}

/// Whatever an object has is described: schemas allow more, so that they hold for later versions.
fn is_described(schema: &Value, value: &Value, at: &str) {
    if let Some(each) = schema["oneOf"].as_array() {
        let fits = |schema: &&Value| schema["type"] == if value.is_array() { "array" } else { "object" };
        return is_described(each.iter().find(fits).unwrap(), value, at);
    }
    match value {
        Value::Object(entries) if schema["properties"].is_object() => {
            for (key, value) in entries {
                let known = schema["properties"].get(key).or(schema.get("additionalProperties"));
                let known = known.unwrap_or_else(|| panic!("{at}.{key} is not described"));
                is_described(known, value, &format!("{at}.{key}"));
            }
        }
        Value::Array(items) if schema["items"].is_object() => {
            items.iter().for_each(|item| is_described(&schema["items"], item, at));
        }
        _ => {}
    }
}

#[test]
fn what_is_printed_is_what_the_schemas_say() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (config, run, params) = (at("small.py"), at("run"), at("params.json"));
    std::fs::write(&config, SMALL).unwrap();
    std::fs::write(&params, r#"{"head.weight": {"shape": [2, 3]}}"#).unwrap();
    good(&["train", "--config", &config, "--out", &run]);
    let checkpoint = format!("{run}/checkpoint.safetensors");
    let torch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/converted/AdamW.pth");
    let torch = torch.to_str().unwrap();
    let modified = "dict(type='AdamW', cautious=True)";
    let printed: [(&str, &[&str]); 18] = [
        ("bench", &["--elements", "1000", "--threads", "1", "--optimizer", "SGD", "Muon"]),
        ("bench", &["--products", "--elements", "65536", "--threads", "1"]),
        ("convert", &[&checkpoint, &at("run.pth"), "--number"]),
        ("describe", &["AdamW"]),
        ("describe", &["Muon"]),
        ("describe", &["LBFGS"]),
        ("describe", &[modified]),
        ("diff", &[&checkpoint, &checkpoint]),
        ("diff", &[&checkpoint, torch]),
        ("explain", &["--config", &config, "--params", &params]),
        ("explain", &["--optimizer", modified, "--params", &params]),
        ("explain", &["--optimizer", "LBFGS", "--params", &params]),
        ("inspect", &[&checkpoint]),
        ("inspect", &[torch]),
        ("list", &[]),
        ("minimize", &["beale", "--optimizer", "AdamW", "--steps", "3"]),
        ("minimize", &["rosenbrock", "--optimizer", "dict(type='SGD', lr=10)", "--steps", "50"]),
        ("schedule", &["--scheduler", "dict(type='PolyLR', end=4)", "--steps", "5"]),
    ];
    let mut seen = Vec::new();
    for (command, arguments) in printed {
        let told = tell(super::fallline().arg(command).args(arguments).arg("--json"));
        let value: Value =
            serde_json::from_str(&told.out).unwrap_or_else(|_| panic!("{command}: {}", told.error));
        let schema = schema(command);
        let validator = jsonschema::validator_for(&schema).unwrap();
        let wrong: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{command} {arguments:?}: {wrong:?}");
        is_described(&schema, &value, command);
        refuses_others(&validator, &value, command);
        seen.push(command);
    }
    // Every command with --json has one, in a version of its own.
    for command in COMMANDS {
        let has = good(&[command, "--help"]).lines().any(|line| line.trim_start().starts_with("--json"));
        assert_eq!(seen.contains(&command), has, "{command}");
        if has {
            assert_eq!(schema(command)["$id"], format!("urn:fallline:schema:{command}:1"));
        }
    }
}

/// A schema says something: without its first key an object is refused, and so is text.
fn refuses_others(validator: &Validator, value: &Value, command: &str) {
    assert!(!validator.is_valid(&"text".into()), "{command}");
    let mut lacks = value.clone();
    let first = match &mut lacks {
        Value::Array(items) => items.first_mut(),
        other => Some(other),
    };
    let Some(Value::Object(entries)) = first else { panic!("{command}: {value}") };
    let key = entries.keys().next().unwrap().clone();
    entries.remove(&key);
    assert!(!validator.is_valid(&lacks), "{command} without {key}");
}
