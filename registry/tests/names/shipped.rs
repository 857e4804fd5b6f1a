//! The shipped names.

use fallline_optim::algorithms::feature_of;
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

/// What a build without it says. ZeRO and LBFGS are in every build.
#[test]
fn every_algorithm_is_in_a_feature_by_its_name() {
    let in_every_build = ["LBFGS", "ZeroRedundancyOptimizer"];
    let without: Vec<&str> =
        ENTRIES.iter().map(|entry| entry.name).filter(|name| feature_of(name).is_none()).collect();
    assert_eq!(without, in_every_build);
    assert_eq!(feature_of("DeepSpeedCPUAdam"), Some("deepspeed"));
    assert_eq!(feature_of("bnb_AdamW"), Some("bitsandbytes"));
    assert_eq!(feature_of("Adafactor"), Some("matrix"));
}
