//! From an optimizer's dict to the method that its name means.

use crate::config::Node;
use crate::error::{Error, Result};
use crate::formats;
use crate::hints;
use crate::modifiers;
use crate::near::{near_are, nearest};
use crate::read::{bare_name, convert, expect_dict, type_of, typed};
use crate::registry::Registry;
use crate::schedulers;
use fallline_optim::hyper::{HyperError, Value};
use fallline_optim::{Method, algorithms};

/// Returns what an optimizer's dict asks for.
pub(crate) fn method(node: &Node, registry: &Registry) -> Result<Method> {
    let dict = expect_dict(node, "an optimizer")?;
    let kind = type_of(dict, node, "an optimizer")?;
    let name = kind.value.as_str().map(bare_name).unwrap_or_default();
    let known = || registry.entries().iter().map(|entry| entry.name);
    let entry = registry.find(name).ok_or_else(|| {
        if schedulers::is_name(name) {
            return schedulers::misplaced(kind);
        }
        let (at, name) = (kind.at.clone(), name.to_owned());
        match algorithms::feature_of(&name) {
            Some(feature) if !known().any(|known| known.eq_ignore_ascii_case(&name)) => {
                Error::NotBuilt { at, name, feature }
            }
            _ => Error::UnknownName {
                at,
                what: "optimizer",
                nearest: nearest(&name, known()).map(str::to_owned),
                known: near_are(&name, known()),
                name,
            },
        }
    })?;
    // One at a time first, so that an error has the position of the value that is wrong.
    let probe = entry.with_in(registry, &[]);
    let mut probe = probe.map_err(|source| Error::Hyper { at: kind.at.clone(), source })?;
    let mut values = Vec::new();
    // What decides which other keys there are comes first.
    let decides = "optimizer_type";
    if probe.algorithm().is_some_and(|algorithm| algorithm.sharded()) && dict.get(decides).is_none() {
        return Err(Error::Missing { at: kind.at.clone(), what: name.to_owned(), key: decides });
    }
    let first = dict.iter().filter(|(key, _)| *key == decides);
    let modifies = |key: &str| modifiers::given(&probe, key);
    let aside: Vec<&str> = modifiers::KEYS.into_iter().filter(|key| modifies(key)).collect();
    let own = |key: &str| !["type", decides].contains(&key) && !formats::KEYS.contains(&key);
    let others = dict.iter().filter(|(key, _)| own(key) && !aside.contains(key));
    for (key, node) in first.chain(others) {
        let Some(value) = convert(node) else {
            return Err(match probe.set(&[(key, Value::None)]) {
                Err(HyperError::Unknown { algorithm, known, .. }) => {
                    hints::unknown_hyper((algorithm, dict, node), key, known.into_iter().chain(aside))
                }
                _ => Error::Value {
                    at: node.at.clone(),
                    key: key.to_owned(),
                    expected: "a number, a bool, a string, None or a list of them".into(),
                    got: typed(node),
                },
            });
        };
        match probe.set(&[(key, value.clone())]) {
            // Whether values go together shows when all are there.
            Ok(()) | Err(HyperError::Combination { .. }) => values.push((key, value)),
            Err(HyperError::Unknown { algorithm, known, .. }) => {
                let known = known.into_iter().chain(aside);
                return Err(hints::unknown_hyper((algorithm, dict, node), key, known));
            }
            Err(source) => return Err(Error::Hyper { at: node.at.clone(), source }),
        }
    }
    let built = entry.with_in(registry, &values).map_err(|source| {
        // It is at the first key with which what is given can no longer be built.
        let fits = |count: &usize| entry.with_in(registry, &values[..*count]).is_ok();
        let last = (0..values.len()).rev().find(fits).and_then(|count| dict.key_at(values[count].0));
        Error::Hyper { at: last.unwrap_or(&kind.at).clone(), source }
    });
    modifiers::around(built?, dict, &kind.at, &aside)
}
