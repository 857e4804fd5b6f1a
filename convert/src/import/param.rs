//! What is given in addition to a file, and the parameters that follow from it.

/// What is given in addition to a file.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The way to the optimizer's state, with dots; where it is usually found if not given.
    pub key: Option<String>,
    /// The parameters' names in the order of the optimizer (group by group), with their shapes where they are known.
    pub names: Option<Vec<(String, Option<Vec<usize>>)>>,
    /// Without names, number the parameters.
    pub number: bool,
    /// Leave out keys and states that have no place here, instead of refusing them.
    pub lenient: bool,
}

/// A parameter as the file has it.
pub(crate) struct Param {
    pub(super) id: i64,
    pub(super) group: usize,
    pub(crate) name: String,
    pub(crate) shape: Option<Vec<usize>>,
}
