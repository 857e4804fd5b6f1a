//! Names that are near to one that is not known.

use fallline_registry::names::{ENTRIES, near_are, nearest};

#[test]
fn what_is_no_name_is_answered_at_once() {
    let text = "AdamV".to_owned() + &"y".repeat(10_000_000);
    assert_eq!(nearest(&text, ["AdamW"]), None);
    assert!(near_are(&text, ["AdamW", "SGD"]).starts_with("near are AdamW, SGD"));
}

#[test]
fn a_near_name_is_found() {
    let names = || ENTRIES.iter().map(|entry| entry.name);
    assert_eq!(nearest("adamw", names()), Some("AdamW"));
    assert_eq!(nearest("AdmaW", names()), Some("AdamW"));
    assert_eq!(nearest("Rotogravure", names()), None);
}

#[test]
fn three_near_names_are_told() {
    let near = near_are("AdmaW", ENTRIES.iter().map(|entry| entry.name));
    assert!(near.starts_with("near are AdamW, ") && near.matches(',').count() == 2, "{near}");
}
