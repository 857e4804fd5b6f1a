//! The samples, and what MMEngine reads from them.

use std::path::{Path, PathBuf};

use fallline_config::{ConfigError, load};

/// Returns where a sample is.
pub fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config_files").join(name)
}

/// Returns what MMEngine 0.10.7 read from a sample (written by `config_files/expected.py`).
fn expected(name: &str) -> serde_json::Map<String, serde_json::Value> {
    let text = std::fs::read_to_string(sample(&format!("{name}.expected"))).expect("run expected.py");
    serde_json::from_str(&text).expect("a JSON object")
}

/// Returns an error without the folder that the samples are in.
pub fn message(error: &ConfigError) -> String {
    error.to_string().replace(&format!("{}/", sample("").display().to_string().trim_end_matches('/')), "")
}

/// Checks that every key has MMEngine's value but those named, which are not understood.
pub fn check_sample(name: &str, not_understood: &[&str]) {
    let entries = load(sample(name)).unwrap();
    let expected = expected(name);
    let mut bad = Vec::new();
    let data = |value: &serde_json::Value| !value.as_str().is_some_and(|text| text.starts_with('<'));
    for (key, value) in expected.iter().filter(|(_, value)| data(value)) {
        match entries.get(key) {
            Ok(node) => assert_eq!(node.map(|n| n.value.to_json()).as_ref(), Some(value), "{name}: {key}"),
            Err(_) => bad.push(key.as_str()),
        }
    }
    bad.sort_unstable();
    assert_eq!(bad, not_understood, "{name}");
    let extra: Vec<_> =
        entries.keys().filter(|key| !expected.contains_key(*key) && entries.get(key).is_ok()).collect();
    assert!(extra.is_empty(), "{name} has {extra:?}, and MMEngine has not");
}
