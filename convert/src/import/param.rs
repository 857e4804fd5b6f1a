//! What is given in addition to a file, and the parameters that follow from it.

use crate::value::Key;

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
}

/// A parameter as the file has it.
pub(crate) struct Param {
    /// Its number, or its name in files whose states are found by name.
    pub(super) id: Key,
    pub(super) group: usize,
    pub(crate) name: String,
    pub(crate) shape: Option<Vec<usize>>,
}
