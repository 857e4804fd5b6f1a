//! The keys of an optimizer's dict that say how its states are stored.

use crate::config::{Node, Value as Setting};
use crate::error::{Error, Result};
use crate::names::nearest;
use fallline_core::Format;
use fallline_optim::{AnyAlgorithm, StateFormats};

/// The key.
pub(crate) const STATE_FORMAT: &str = "state_format";

/// The names that formats have in configurations.
fn names() -> Vec<&'static str> {
    let mut names = Vec::new();
    for format in Format::ALL.into_iter().chain(Format::BLOCKS) {
        if !names.contains(&format.name()) {
            names.push(format.name());
        }
    }
    names
}

/// A format's name, or a dict from the names of states to those of formats, for an algorithm.
pub(crate) fn read(node: &Node, algorithm: &dyn AnyAlgorithm) -> Result<StateFormats> {
    let mut formats = match &node.value {
        Setting::None => return Ok(StateFormats::default()),
        Setting::Str(_) => return checked(node, StateFormats::all(format(node)?), algorithm),
        Setting::Dict(_) => StateFormats::default(),
        other => return Err(wrong(node, format!("a {}", other.type_name()))),
    };
    for (state, node) in node.value.as_dict().into_iter().flat_map(|dict| dict.iter()) {
        formats = checked(node, formats.with(state, format(node)?), algorithm)?;
    }
    Ok(formats)
}

fn checked(node: &Node, formats: StateFormats, algorithm: &dyn AnyAlgorithm) -> Result<StateFormats> {
    match formats.check(algorithm) {
        Ok(()) => Ok(formats),
        Err(source) => Err(Error::Algorithm { at: node.at.clone(), source }),
    }
}

fn format(node: &Node) -> Result<Format> {
    let name = node.value.as_str().ok_or_else(|| wrong(node, format!("a {}", node.value.type_name())))?;
    Format::named(name).ok_or_else(|| Error::UnknownName {
        at: node.at.clone(),
        what: "format",
        name: name.to_owned(),
        nearest: nearest(name, names()).map(str::to_owned),
        known: names().join(", "),
    })
}

fn wrong(node: &Node, got: String) -> Error {
    let expected = "a format or a dict from states to formats".to_owned();
    Error::Value { at: node.at.clone(), key: STATE_FORMAT.to_owned(), expected, got }
}

/// As it is written in a configuration.
pub(crate) fn to_text(formats: &StateFormats) -> String {
    let named = formats.named().map(|(state, format)| format!("{state:?}: {:?}", format.name()));
    let named = named.collect::<Vec<_>>().join(", ");
    match formats.for_all() {
        Some(format) => format!(", {STATE_FORMAT}={:?}", format.name()),
        None if named.is_empty() => String::new(),
        None => format!(", {STATE_FORMAT}={{{named}}}"),
    }
}
