//! The keys `cautious` and `wrap` of an optimizer's dict: modifiers of any algorithm.

use crate::config::{Dict, Node, Position};
use crate::error::{Error, Result};
use crate::near::{known_are, nearest};
use crate::read::{bare_name, expect_dict, refuse_unknown, type_of};
use fallline_optim::hyper::HyperError;
use fallline_optim::{AnyAlgorithm, Lookahead, Method, Modified};

/// The keys.
pub(crate) const KEYS: [&str; 2] = [CAUTIOUS, WRAP];
const CAUTIOUS: &str = "cautious";
pub(crate) const WRAP: &str = "wrap";
/// What an algorithm can be wrapped in.
const WRAPS: [&str; 1] = ["Lookahead"];

/// Returns whether a key is read here: an algorithm's own hyperparameter of that name is the algorithm's.
pub(crate) fn given(method: &Method, key: &str) -> bool {
    KEYS.contains(&key) && !method.table().iter().any(|hyper| hyper.name == key)
}

/// Returns a method with the modifiers that the keys of its dict ask for.
pub(crate) fn around(method: Method, dict: &Dict, at: &Position, keys: &[&str]) -> Result<Method> {
    let get = |key: &str| dict.get(key).filter(|node| keys.contains(&key) && !node.value.is_none());
    let cautious = match get(CAUTIOUS) {
        None => false,
        Some(node) => node.value.as_bool().ok_or_else(|| {
            let (expected, got) = ("bool", node.value.to_string());
            let source = HyperError::Type { algorithm: method.name(), name: CAUTIOUS, expected, got };
            Error::Hyper { at: node.at.clone(), source }
        })?,
    };
    let wrap = get(WRAP).map(|node| Ok::<_, Error>((node, lookahead(node)?))).transpose()?;
    let mut algorithm = match method {
        Method::Algorithm(algorithm) => algorithm,
        Method::Search(search) => {
            let node = if cautious { get(CAUTIOUS) } else { get(WRAP) };
            return match node {
                None => Ok(Method::Search(search)),
                Some(node) => {
                    let what = if cautious { CAUTIOUS } else { WRAPS[0] };
                    let problem =
                        format!("{what} does not go with it: it searches along all parameters together");
                    let source = HyperError::Combination { algorithm: search.name(), problem };
                    Err(Error::Hyper { at: node.at.clone(), source })
                }
            };
        }
    };
    if cautious {
        let at = get(CAUTIOUS).map_or(at, |node| &node.at).clone();
        algorithm = Modified::cautious(algorithm).map_err(|source| Error::Hyper { at, source })?;
    }
    if let Some((node, lookahead)) = wrap {
        let wrapped = Modified::lookahead(algorithm, lookahead);
        algorithm = wrapped.map_err(|source| Error::Hyper { at: node.at.clone(), source })?;
    }
    Ok(Method::Algorithm(algorithm))
}

/// Reads `wrap`.
fn lookahead(node: &Node) -> Result<Lookahead> {
    let dict = expect_dict(node, WRAP)?;
    let kind = type_of(dict, node, "a wrap")?;
    let name = kind.value.as_str().map(bare_name).unwrap_or_default();
    if !WRAPS.contains(&name) {
        return Err(Error::UnknownName {
            at: kind.at.clone(),
            what: "wrap",
            name: name.to_owned(),
            nearest: nearest(name, WRAPS).map(str::to_owned),
            known: known_are(WRAPS),
        });
    }
    refuse_unknown(dict, node, name, &["type", "k", "alpha"])?;
    let wrong = |key: &str, expected: &str, node: &Node| {
        let (at, got) = (node.at.clone(), node.value.to_string());
        Error::Value { at, key: key.to_owned(), expected: expected.to_owned(), got }
    };
    let mut lookahead = Lookahead::default();
    if let Some(node) = dict.get("k") {
        let k = node.value.as_int().and_then(|k| u64::try_from(k).ok()).filter(|&k| k > 0);
        lookahead.k = k.ok_or_else(|| wrong("k", "an integer of at least 1", node))?;
    }
    if let Some(node) = dict.get("alpha") {
        let alpha = node.value.as_float().filter(|alpha| (0.0..1.0).contains(alpha));
        lookahead.alpha = alpha.ok_or_else(|| wrong("alpha", "a number in [0, 1)", node))?;
    }
    Ok(lookahead)
}

/// Returns the algorithm of a group with what is around it: its own `cautious`, and the wrap of the whole optimizer.
/// Given are the algorithm of the others, the group's entry and its optimizer's dict, and whether that is the group's
/// own.
pub(crate) fn in_group(
    mut own: Box<dyn AnyAlgorithm>,
    base: &dyn AnyAlgorithm,
    (entry, optimizer): (&Dict, &Dict),
    other: bool,
) -> Result<Box<dyn AnyAlgorithm>> {
    let theirs = optimizer.key_at(WRAP).filter(|_| other && own.modifiers().lookahead.is_some());
    if let Some(at) = entry.key_at(WRAP).or(theirs) {
        return Err(wrap_of_group(at));
    }
    if let Some(node) = entry.get(CAUTIOUS).filter(|node| node.value.as_bool() == Some(true))
        && !own.table().iter().any(|hyper| hyper.name == CAUTIOUS)
    {
        own = Modified::cautious(own).map_err(|source| Error::Hyper { at: node.at.clone(), source })?;
    }
    if let (true, Some(lookahead), Some(at)) = (other, base.modifiers().lookahead, optimizer.key_at("type")) {
        own =
            Modified::lookahead(own, lookahead).map_err(|source| Error::Hyper { at: at.clone(), source })?;
    }
    Ok(own)
}

/// Returns whether a group's key says that it is not cautious, which it is not without the key either.
pub(crate) fn is_off(own: &dyn AnyAlgorithm, name: &str, node: &Node) -> bool {
    let known = own.table().iter().any(|hyper| hyper.name == name);
    name == CAUTIOUS && !known && node.value.as_bool() == Some(false)
}

/// Returns the error of a group with a separate wrap.
pub(crate) fn wrap_of_group(at: &Position) -> Error {
    let what = "wrap of one group: it is around the whole optimizer".into();
    Error::Unsupported { at: at.clone(), what }
}

/// Returns whether a hyperparameter is one of the wrap's.
pub(crate) fn is_of_wrap(algorithm: &dyn AnyAlgorithm, name: &str) -> bool {
    algorithm.modifiers().lookahead.is_some() && ["lookahead_k", "lookahead_alpha"].contains(&name)
}

/// Returns the wrap as a configuration gives it, with a comma in front.
pub(crate) fn to_text(algorithm: &dyn AnyAlgorithm) -> String {
    algorithm.modifiers().lookahead.map_or(String::new(), |Lookahead { k, alpha }| {
        format!(", wrap=dict(type=\"Lookahead\", k={k}, alpha={alpha:?})")
    })
}
