//! How the states of parameters are stored.

use crate::order::sort_names;
use crate::{AnyAlgorithm, Error, ParamPrecision, Result};
use fallline_core::{Codes, Format, Role};
use std::collections::BTreeMap;

/// How a state in bfloat16 is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Round-to-nearest-even.
    ToNearest,
    /// Stochastic rounding: up or down, the nearer the likelier ([`fallline_core::codec::stochastic`]).
    Stochastic,
}

/// How a state is stored: a format, and how it is rounded where that is bfloat16.
///
/// Without a rounding, a [slow](crate::State::slow) state in bfloat16 is rounded stochastically, and any other to nearest.
/// Where parameters are rounded stochastically, all states are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateFormat {
    /// The format.
    pub format: Format,
    /// The rounding, where it is chosen.
    pub rounding: Option<Rounding>,
}

impl From<Format> for StateFormat {
    fn from(format: Format) -> StateFormat {
        StateFormat { format, rounding: None }
    }
}

impl StateFormat {
    /// bfloat16 with stochastic rounding.
    pub const BF16_SR: StateFormat =
        StateFormat { format: Format::Bf16, rounding: Some(Rounding::Stochastic) };
    /// bfloat16 with round-to-nearest-even.
    pub const BF16_RNE: StateFormat =
        StateFormat { format: Format::Bf16, rounding: Some(Rounding::ToNearest) };

    /// Returns the name that configurations use.
    pub fn name(self) -> &'static str {
        match self {
            StateFormat::BF16_SR => "bf16_sr",
            StateFormat::BF16_RNE => "bf16_rne",
            StateFormat { format, .. } => format.name(),
        }
    }

    /// Returns the state format of a [name](StateFormat::name).
    pub fn named(name: &str) -> Option<StateFormat> {
        let chosen = [StateFormat::BF16_SR, StateFormat::BF16_RNE].into_iter();
        chosen.clone().find(|chosen| chosen.name() == name).or_else(|| Format::named(name).map(Into::into))
    }
}

/// The storage formats of a group's states, where they are not the algorithm's (mostly the compute type). There is
/// one for all, or one for each named state.
///
/// ```
/// use fallline_core::Format;
/// use fallline_optim::{StateFormat, StateStorage};
/// let formats = StateStorage::all(Format::named("q8").expect("it is a format"));
/// let mixed = StateStorage::default().with("m", Format::Bf16).with("v", StateFormat::BF16_SR);
/// assert_ne!(formats, mixed);
/// ```
///
/// A block format takes its unsigned codes for a state that is never negative, as the algorithm says. Half precision for
/// all means bfloat16 for such a state: it holds squares, and those of gradients below 2e-4 would be zero. It means
/// bfloat16 for a slow state too. A copy of the parameter (`x0`, `z`, `ax`, `p0`) is stored in the compute type, unless it
/// is named.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateStorage {
    all: Option<StateFormat>,
    named: BTreeMap<String, StateFormat>,
    seed: u64,
}

impl StateStorage {
    /// Returns all states in one format.
    pub fn all(format: impl Into<StateFormat>) -> StateStorage {
        StateStorage { all: Some(format.into()), ..StateStorage::default() }
    }

    /// Returns these, with another format for one state.
    pub fn with(mut self, state: &str, format: impl Into<StateFormat>) -> StateStorage {
        self.named.insert(state.to_owned(), format.into());
        self
    }

    /// Returns these, with another seed of the random bits than 0. Stochastic rounding of the parameters comes with a seed
    /// for both.
    pub fn with_seed(self, seed: u64) -> StateStorage {
        StateStorage { seed, ..self }
    }

    /// Returns the seed of the random bits.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Returns whether no format is chosen.
    pub fn is_empty(&self) -> bool {
        self.all.is_none() && self.named.is_empty()
    }

    /// Returns the format of all states that are not named.
    pub fn for_all(&self) -> Option<StateFormat> {
        self.all
    }

    /// Returns the states that have a separate format, sorted by name.
    pub fn named(&self) -> impl Iterator<Item = (&str, StateFormat)> {
        self.named.iter().map(|(state, format)| (state.as_str(), *format))
    }

    /// Returns what is chosen for a state, if anything is.
    fn of(&self, state: &str) -> Option<StateFormat> {
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
        for (state, &StateFormat { format, .. }) in &self.named {
            let spec = algorithm.state(state);
            let problem = match format {
                _ if spec.full_precision && format.block().is_some() => {
                    "is a copy of the parameter, which blocks would change: \"f32\", or \"bf16\" if the parameter has it"
                }
                Format::F16 if spec.non_negative => {
                    "holds squares, which f16 makes 0 below 3e-8, and the step of any size: \"bf16\" has their range"
                }
                Format::F16 if spec.slow => {
                    "moves by less than f16 can tell, and is not rounded stochastically in it: \"bf16\" is"
                }
                _ => continue,
            };
            let problem = format!("its state {state:?} {problem}");
            return Err(Error::StateFormat { algorithm: algorithm.name(), problem });
        }
        let programs = || algorithm.programs();
        let mut known: Vec<&str> = programs().flat_map(|program| program.operands(Role::State)).collect();
        sort_names(&mut known);
        known.dedup();
        let ops = || programs().flat_map(|program| program.ops().collect::<Vec<_>>());
        let whole = ops().any(|op| op.whole_states.is_none());
        self.check_states(algorithm.name(), &known, whole)?;
        let kept = |state: &&str| self.named.contains_key(*state) || self.all.is_some();
        match ops().flat_map(|op| op.whole_states.unwrap_or_default()).find(|state| kept(state)) {
            None => Ok(()),
            Some(state) => {
                let others: Vec<&str> = known.into_iter().filter(|known| known != state).collect();
                let (others, algorithm) = (others.join(", "), algorithm.name());
                let problem = format!(
                    "it works on its state {state:?} as a whole, which is stored in the compute type; the \
                     others may be named: {others}"
                );
                Err(Error::StateFormat { algorithm, problem })
            }
        }
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
    #[cfg(feature = "checkpoints")]
    pub(crate) fn was_stored_as(&self, state: &str, was: Format) -> bool {
        let said = self.of(state).map(|said| said.format.with_codes(Codes::Signed));
        said == Some(was.with_codes(Codes::Signed))
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
        match self.of(state).map(|said| said.format) {
            Some(_) if spec.full_precision && !self.named.contains_key(state) => computed,
            Some(Format::F16) if spec.non_negative || spec.slow => Format::Bf16,
            Some(format) if spec.non_negative => format.with_codes(Codes::Unsigned),
            Some(format) => format,
            None => algorithm.state_format(state, elements).unwrap_or(computed),
        }
    }

    /// Returns whether a state that is stored as `format` is rounded stochastically, with parameters of this precision.
    pub fn rounds_stochastically(
        &self,
        algorithm: &dyn AnyAlgorithm,
        state: &str,
        format: Format,
        params: ParamPrecision,
    ) -> bool {
        let by_default =
            || algorithm.state(state).slow || matches!(params, ParamPrecision::StochasticRounding { .. });
        format == Format::Bf16
            && match self.of(state).and_then(|said| said.rounding) {
                Some(rounding) => rounding == Rounding::Stochastic,
                None => by_default(),
            }
    }
}
