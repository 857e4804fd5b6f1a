//! The table of shipped names: the one place where these algorithms are linked with the CPU's lanes, and so compiled.

pub use crate::near::{near_are, nearest};
use crate::registry::Registry;
use fallline_cpu::Native;
use fallline_optim::hyper::{Hyperparameters, Value};
use fallline_optim::line_search::{Lbfgs, Search};
use fallline_optim::ranks::ZeroRedundancy;
use fallline_optim::{Method, for_each_algorithm};

pub use crate::registry::Entry;

impl Registry {
    /// Returns the shipped algorithms.
    pub const fn standard() -> Registry {
        Registry::of(ENTRIES)
    }
}

const fn search() -> Entry {
    Entry {
        name: Lbfgs::NAME,
        make: |_, values| {
            let mut search = Lbfgs::default();
            values.iter().try_for_each(|(name, value)| search.set(name, value))?;
            Ok(Method::Search(Search::new::<Native>(search)?))
        },
    }
}

const fn sharded() -> Entry {
    Entry {
        name: ZeroRedundancy::NAME,
        make: |registry, values| {
            let registry = registry.clone();
            let find = move |name: &str, values: &[(&str, Value)]| {
                registry.find(name).map(|entry| entry.with_in(&registry, values))
            };
            Ok(Method::Algorithm(Box::new(ZeroRedundancy::new(find, values)?)))
        },
    }
}

/// The entries of all types of the list in `optim/src/algorithms.rs`, and of what is no algorithm.
macro_rules! entries {
    ([$($algorithm:ident,)*] [$($alias:ident,)*]) => {
        sorted([
            search(),
            sharded(),
            $(crate::registry::entry::<fallline_optim::algorithms::$algorithm, Native>(),)*
            $(crate::registry::entry::<fallline_optim::algorithms::$alias, Native>(),)*
        ])
    };
}

/// Every shipped name, sorted: those of [`Registry::standard`].
pub static ENTRIES: &[Entry] = &for_each_algorithm!(entries);

/// Returns the entries by name.
const fn sorted<const N: usize>(mut entries: [Entry; N]) -> [Entry; N] {
    let mut end = 1;
    while end < N {
        let mut i = end;
        while i > 0 && is_before(entries[i].name, entries[i - 1].name) {
            (entries[i], entries[i - 1]) = (entries[i - 1], entries[i]);
            i -= 1;
        }
        end += 1;
    }
    entries
}

/// Returns whether a name is sorted before another.
const fn is_before(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut i = 0;
    while i < one.len() && i < other.len() && one[i] == other[i] {
        i += 1;
    }
    i < other.len() && (i == one.len() || one[i] < other[i])
}

/// Returns the entry of a shipped name.
pub fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.name == name)
}

/// Returns the entry of a shipped name as people type it: [`Registry::lookup`].
pub fn lookup(name: &str) -> Option<&'static Entry> {
    static STANDARD: Registry = Registry::standard();
    STANDARD.lookup(name)
}
