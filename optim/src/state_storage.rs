//! How the states of parameters are stored.

use crate::{AnyAlgorithm, Error, Result};
use fallline_core::{Codes, Format, Role};
use std::collections::BTreeMap;

/// The storage formats of a group's states, where they are not the algorithm's (mostly the compute type). There is
/// one for all, or one for each named state.
///
/// ```
/// use fallline_core::Format;
/// use fallline_optim::StateStorage;
/// let formats = StateStorage::all(Format::named("q8").expect("it is a format"));
/// let mixed = StateStorage::default().with("m", Format::Bf16).with("v", Format::F32);
/// assert_ne!(formats, mixed);
/// ```
///
/// A block format takes its unsigned codes for a state that is never negative, as the algorithm says. Half precision for
/// all means bfloat16 for such a state: it holds squares, and those of gradients below 2e-4 would be zero. A copy of the
/// parameter (`x0`, `z`, `ax`, `p0`) is stored in the compute type, unless it is named.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateStorage {
    all: Option<Format>,
    named: BTreeMap<String, Format>,
}

impl StateStorage {
    /// Returns all states in one format.
    pub fn all(format: Format) -> StateStorage {
        StateStorage { all: Some(format), named: BTreeMap::new() }
    }

    /// Returns these, with another format for one state.
    pub fn with(mut self, state: &str, format: Format) -> StateStorage {
        self.named.insert(state.to_owned(), format);
        self
    }

    /// Returns whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.all.is_none() && self.named.is_empty()
    }

    /// Returns the format of all states that are not named.
    pub fn for_all(&self) -> Option<Format> {
        self.all
    }

    /// Returns the states that have a separate format, sorted by name.
    pub fn named(&self) -> impl Iterator<Item = (&str, Format)> {
        self.named.iter().map(|(state, format)| (state.as_str(), *format))
    }

    /// Returns the format asked for a state, if one is.
    fn of(&self, state: &str) -> Option<Format> {
        self.named.get(state).copied().or(self.all)
    }

    /// Refuses what an algorithm cannot have: states that it has not, and any format for states that are more than
    /// operands of rules.
    ///
    /// # Errors
    /// [`Error::StateFormat`].
    pub fn check(&self, algorithm: &dyn AnyAlgorithm) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        for (state, &format) in &self.named {
            let spec = algorithm.state(state);
            let problem = match format {
                _ if spec.full_precision && format.block().is_some() => {
                    "is a copy of the parameter, which blocks would change: \"f32\", or \"bf16\" if the parameter has it"
                }
                Format::F16 if spec.non_negative => {
                    "holds squares, which f16 makes 0 below 3e-8, and the step of any size: \"bf16\" has their range"
                }
                _ => continue,
            };
            let problem = format!("its state {state:?} {problem}");
            return Err(Error::StateFormat { algorithm: algorithm.name(), problem });
        }
        let programs = || algorithm.programs();
        let mut known: Vec<&str> = programs().flat_map(|program| program.operands(Role::State)).collect();
        known.sort_unstable();
        known.dedup();
        let whole = programs().any(|program| program.ops().any(|op| !op.is_collective()));
        self.check_states(algorithm.name(), &known, whole)
    }

    /// Refuses what a search cannot have, which is any format: its vectors are of all parameters together.
    ///
    /// # Errors
    /// [`Error::StateFormat`].
    pub fn check_search(&self, search: &'static str) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        self.check_states(search, &[], true)
    }

    /// Refuses names that are not `known`, and any format where states are `whole`: more than operands of rules.
    fn check_states(&self, algorithm: &'static str, known: &[&str], whole: bool) -> Result<()> {
        let refuse = |problem: String| Err(Error::StateFormat { algorithm, problem });
        if let Some(name) = self.named.keys().find(|name| !known.contains(&name.as_str())) {
            let known = known.join(", ");
            return refuse(format!("there is no state {name:?}; its states are {known}"));
        }
        if whole {
            let problem = "it works on whole matrices or on all states together, which must be stored in the compute type";
            return refuse(problem.into());
        }
        Ok(())
    }

    /// Returns whether a version that kept every state in the format that was said for all would have stored one
    /// so. A checkpoint of it is converted: the format of a copy, or of squares, is another one now.
    pub(crate) fn was_stored_as(&self, state: &str, was: Format) -> bool {
        self.of(state).is_some_and(|said| was.with_codes(Codes::Signed) == said.with_codes(Codes::Signed))
    }

    /// Returns the format of a state of a parameter with so many elements, of type `computed` where nobody says
    /// otherwise.
    pub fn resolve(
        &self,
        algorithm: &dyn AnyAlgorithm,
        state: &str,
        elements: usize,
        computed: Format,
    ) -> Format {
        let spec = algorithm.state(state);
        let non_negative = spec.non_negative;
        match self.of(state) {
            Some(_) if spec.full_precision && !self.named.contains_key(state) => computed,
            Some(Format::F16) if non_negative => Format::Bf16,
            Some(format) if non_negative => format.with_codes(Codes::Unsigned),
            Some(format) => format,
            None => algorithm.state_format(state, elements).unwrap_or(computed),
        }
    }
}
