//! The shipped names.

use fallline_registry::names::{ENTRIES, lookup};

#[test]
fn names_are_sorted_and_their_defaults_valid() {
    assert!(ENTRIES.windows(2).all(|pair| pair[0].name < pair[1].name));
    for entry in ENTRIES {
        assert_eq!(entry.defaults().name(), entry.name);
    }
}

#[test]
fn a_name_is_found_as_people_type_it() {
    for (typed, found) in [
        ("AdamW", Some("AdamW")),
        ("adamw", Some("AdamW")),
        ("torch.optim.AdamW", Some("AdamW")),
        ("mmdet::SGD", Some("SGD")),
        ("Rotogravure", None),
    ] {
        assert_eq!(lookup(typed).map(|entry| entry.name), found, "{typed}");
    }
}
