//! A registry with algorithms beside the shipped ones.

use fallline_optim::algorithms::Adagrad;
use fallline_optim::alias;
use fallline_registry::Registry;
use fallline_registry::names::ENTRIES;

alias! {
    /// Under a name between others.
    Middle as "Lingon" is Adagrad
}

alias! {
    /// Under a name of another.
    Taken as "Lion" is Adagrad, with { lr = 0.5 }
}

alias! {
    /// With a module.
    Scoped as "own.Adagrad" is Adagrad
}

alias! {
    /// With a default that is out of range.
    Wrong as "Wrong" is Adagrad, with { lr = -1.0 }
}

#[test]
fn names_stay_sorted_and_are_found() {
    let registry = Registry::standard().with::<Middle>().unwrap();
    assert!(registry.entries().windows(2).all(|pair| pair[0].name < pair[1].name));
    assert_eq!(registry.entries().len(), ENTRIES.len() + 1);
    for entry in ENTRIES.iter().map(|entry| entry.name).chain(["Lingon"]) {
        assert_eq!(registry.find(entry).unwrap().defaults().name(), entry);
    }
    assert!(Registry::standard().find("Lingon").is_none());
}

#[test]
fn a_name_that_is_taken_is_refused_unless_forced() {
    let error = Registry::standard().with::<Taken>().unwrap_err().to_string();
    assert_eq!(
        error,
        "\"Lion\" cannot be registered: the registry has an algorithm of this name; with_forced replaces it"
    );
    let registry = Registry::standard().with_forced::<Taken>().unwrap();
    assert_eq!(registry.entries().len(), ENTRIES.len());
    assert_eq!(registry.find("Lion").unwrap().defaults().algorithm().unwrap().states(), ["sum"]);
}

#[test]
fn what_no_configuration_can_name_or_build_is_refused() {
    let scoped = Registry::standard().with::<Scoped>().unwrap_err().to_string();
    assert!(scoped.starts_with("\"own.Adagrad\" cannot be registered: "), "{scoped}");
    let wrong = Registry::standard().with_forced::<Wrong>().unwrap_err().to_string();
    assert_eq!(wrong, "\"Wrong\" cannot be registered: Wrong: lr must be \u{2265} 0, got -1.0");
}

#[test]
fn what_a_name_needs_is_found() {
    let needs = ENTRIES.iter().map(|entry| (entry.name, entry.needs()));
    let special: Vec<_> = needs.filter(|(_, needs)| !needs.is_empty()).collect();
    let expected: [(&str, &[&str]); 8] = [
        ("AdaMuon", &["matrix"]),
        ("LBFGS", &["closure"]),
        ("Muon", &["matrix"]),
        ("MuonHyperball", &["matrix"]),
        ("NorMuon", &["matrix"]),
        ("Spel", &["matrix"]),
        ("SparseAdam", &["rows"]),
        ("ZeroRedundancyOptimizer", &["ranks"]),
    ];
    assert!(expected.iter().all(|row| special.contains(row)), "{special:?}");
    assert!(special.iter().all(|(_, needs)| needs.len() == 1), "{special:?}");
}
