//! What is given in addition to a file, and the parameters that follow from it.

use crate::value::Key;
use crate::{Error, Result};

/// What is said in addition to a file.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The dotted path of the optimizer's state; where it is usually found if not given.
    pub key: Option<String>,
    /// The parameters' names in the order of the optimizer (group by group), with their shapes where they are known.
    pub names: Option<Vec<(String, Option<Vec<usize>>)>>,
    /// Without names, number the parameters.
    pub number: bool,
    /// Prefixes of names, and what replaces them: `("module.", "")` leaves `module.` out.
    pub rename: Vec<(String, String)>,
    /// Leave out whatever has no place here or does not fit, instead of refusing it. Where that is a state that an algorithm
    /// needs, its parameter starts anew.
    pub lenient: bool,
}

impl ImportOptions {
    /// Returns the name that a parameter has here.
    pub(crate) fn renamed(&self, name: &str) -> String {
        let renamed = |(old, new): &(String, String)| {
            name.strip_prefix(old.as_str()).map(|rest| format!("{new}{rest}"))
        };
        self.rename.iter().find_map(renamed).unwrap_or_else(|| name.to_owned())
    }

    /// Refuses a rule that renames none of these names.
    pub(super) fn check_rename(&self, names: Vec<String>) -> Result<()> {
        for (old, _) in &self.rename {
            check_rule(old, names.iter().map(String::as_str))?;
        }
        Ok(())
    }
}

/// Refuses a prefix that none of these names begins with.
pub(crate) fn check_rule<'n>(old: &str, names: impl Iterator<Item = &'n str> + Clone) -> Result<()> {
    /// How many names are told.
    const TOLD: usize = 4;
    if names.clone().any(|name| name.starts_with(old)) {
        return Ok(());
    }
    let common = |name: &str| name.chars().zip(old.chars()).take_while(|(a, b)| a == b).count();
    let mut near: Vec<&str> = names.collect();
    near.sort_by(|a, b| (common(b), a).cmp(&(common(a), b)));
    near.dedup();
    let problem = if near.is_empty() {
        "it has no names".to_owned()
    } else {
        let rest = if near.len() > TOLD { ", …" } else { "" };
        let told = near.iter().take(TOLD).map(|name| format!("{name:?}"));
        format!("it has {}{rest}", told.collect::<Vec<_>>().join(", "))
    };
    Err(Error::Names(format!("no name begins with {old:?}, which is to be renamed: {problem}")))
}

/// A parameter as the file has it.
pub(crate) struct Param {
    /// Its number, or its name in files whose states are found by name.
    pub(super) id: Key,
    pub(super) group: usize,
    pub(crate) name: String,
    pub(crate) shape: Option<Vec<usize>>,
}
