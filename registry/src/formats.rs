//! The keys of an optimizer's dict that are not hyperparameters: how its states are stored, and which momenta there are.

use crate::config::{Node, Value as Setting};
use crate::error::{Error, Result};
use crate::near::{known_are, nearest};
use crate::read::typed;
use fallline_core::Format;
use fallline_cpu::Cpu;
use fallline_optim::hyper::HyperError;
use fallline_optim::line_search::Search;
use fallline_optim::mask::MomentumMask;
use fallline_optim::{AnyAlgorithm, Driver, ParamPrecision, StateFormat, StateStorage, can_offload};
use std::path::PathBuf;

/// Each of them.
const STATE_FORMAT: &str = "state_format";

const PARAM_FORMAT: &str = "param_format";
const SEED: &str = "seed";
const PAGE_FOLDER: &str = "page_folder";

const OFFLOAD: &str = "offload";
const MASK: &str = "exp_avg_mask";
/// Those of a whole optimizer, not of a group.
pub(crate) const OF_WHOLE: [&str; 2] = [PAGE_FOLDER, OFFLOAD];

/// The keys that are not hyperparameters.
pub(crate) const KEYS: [&str; 6] = [STATE_FORMAT, PARAM_FORMAT, SEED, PAGE_FOLDER, OFFLOAD, MASK];

/// Whose keys they are.
#[derive(Clone, Copy)]
pub(crate) enum Of<'a> {
    Algorithm(&'a dyn AnyAlgorithm),
    /// A search, which takes none of them: its vectors are stored in the compute type, where they are computed.
    Search(&'a Search),
}

impl Of<'_> {
    fn name(self) -> &'static str {
        match self {
            Of::Algorithm(algorithm) => algorithm.name(),
            Of::Search(search) => search.name(),
        }
    }

    fn is_offloaded(self) -> bool {
        matches!(self, Of::Algorithm(algorithm) if algorithm.storage().offload)
    }

    fn can_offload(self) -> Result<(), String> {
        match self {
            Of::Algorithm(algorithm) => can_offload(algorithm),
            Of::Search(search) => {
                Err(format!("{} cannot be offloaded: it evaluates the loss itself", search.name()))
            }
        }
    }

    fn check_mask(self) -> fallline_optim::Result<()> {
        match self {
            Of::Algorithm(algorithm) => MomentumMask::check(algorithm),
            Of::Search(search) => Err(MomentumMask::refused(search.name())),
        }
    }

    fn check_formats(self, formats: &StateStorage) -> fallline_optim::Result<()> {
        match self {
            Of::Algorithm(algorithm) => formats.check(algorithm),
            Of::Search(search) => formats.check_search(search.name()),
        }
    }
}

/// How an optimizer's states and parameters are stored, and which elements have a momentum.
#[derive(Clone, Debug, Default)]
pub(crate) struct StorageOptions {
    states: StateStorage,
    params: ParamPrecision,
    folder: Option<PathBuf>,
    /// Whether states are offloaded to the host, and whether that is the algorithm's default.
    offload: bool,
    by_default: bool,
    mask: Option<MomentumMask>,
}

impl StorageOptions {
    /// Reads those of an optimizer's dict.
    pub(crate) fn read(node: &Node, of: Of<'_>) -> Result<StorageOptions> {
        let by_default = of.is_offloaded();
        StorageOptions { offload: by_default, by_default, ..StorageOptions::default() }.overridden(node, of)
    }

    /// Returns these, but for what a dict says otherwise.
    pub(crate) fn overridden(self, node: &Node, of: Of<'_>) -> Result<StorageOptions> {
        let Some(dict) = node.value.as_dict() else { return Ok(self) };
        let before = self.states.seed();
        let states = match dict.get(STATE_FORMAT) {
            Some(node) => read(node, of)?,
            None => self.states,
        };
        let seed = match dict.get(SEED).map(|node| (node, &node.value)) {
            None => None,
            Some((_, Setting::Int(seed))) if *seed >= 0 => Some(*seed as u64),
            Some((node, value)) => {
                return Err(wrong(node, SEED, "an integer of at least 0", value.to_string()));
            }
        };
        let params = match dict.get(PARAM_FORMAT).map(|node| (node, &node.value)) {
            None => match (self.params, seed) {
                (ParamPrecision::StochasticRounding { .. }, Some(seed)) => {
                    ParamPrecision::StochasticRounding { seed }
                }
                (params, _) => params,
            },
            Some((_, Setting::None)) => ParamPrecision::RoundToNearest,
            Some((_, Setting::Str(name))) if name == "bf16_sr" => {
                ParamPrecision::StochasticRounding { seed: seed.unwrap_or(0) }
            }
            Some((_, Setting::Str(name))) if name == "master" => ParamPrecision::MasterWeights,
            Some((node, value)) => {
                return Err(wrong(node, PARAM_FORMAT, "\"bf16_sr\" or \"master\"", value.to_string()));
            }
        };
        let states = states.with_seed(seed.unwrap_or(before));
        let stochastic = matches!(params, ParamPrecision::StochasticRounding { .. }) || may_round(&states);
        if let (Some(node), false) = (dict.get(SEED), stochastic) {
            let got = "one without param_format=\"bf16_sr\" or states in 16 bits".to_owned();
            return Err(wrong(node, SEED, "the seed of stochastic rounding", got));
        }
        if let (Some(node), Of::Search(search)) = (dict.get(PARAM_FORMAT), of)
            && params != ParamPrecision::RoundToNearest
        {
            let problem = format!("{PARAM_FORMAT}: it evaluates the loss at parameters in the compute type");
            let source = HyperError::Combination { algorithm: search.name(), problem };
            return Err(Error::Algorithm { at: node.at.clone(), source: source.into() });
        }
        let folder = match dict.get(PAGE_FOLDER).map(|node| (node, &node.value)) {
            None => self.folder,
            Some((_, Setting::None)) => None,
            Some((_, Setting::Str(folder))) => Some(PathBuf::from(folder)),
            Some((node, value)) => return Err(wrong(node, PAGE_FOLDER, "a folder", value.to_string())),
        };
        let offload = match dict.get(OFFLOAD).map(|node| (node, &node.value)) {
            None => self.offload && !matches!(params, ParamPrecision::StochasticRounding { .. }),
            Some((_, Setting::None)) => false,
            Some((node, Setting::Str(name))) if name == "cpu" => {
                let problem = match (of.can_offload(), params) {
                    (Err(problem), _) => Some(problem),
                    (_, ParamPrecision::StochasticRounding { .. }) => {
                        Some("offload keeps parameters in full precision: not with \"bf16_sr\"".to_owned())
                    }
                    _ => None,
                };
                if let Some(problem) = problem {
                    let algorithm = of.name();
                    let source = HyperError::Combination { algorithm, problem };
                    return Err(Error::Algorithm { at: node.at.clone(), source: source.into() });
                }
                true
            }
            Some((node, value)) => return Err(wrong(node, OFFLOAD, "\"cpu\"", value.to_string())),
        };
        let mask = match dict.get(MASK) {
            None => self.mask,
            Some(node) => mask(node, of)?,
        };
        Ok(StorageOptions { states, params, folder, offload, by_default: self.by_default, mask })
    }

    /// Returns how a state of a parameter with so many elements is stored, computed in `f32`.
    pub(crate) fn state_format(&self, algorithm: &dyn AnyAlgorithm, state: &str, elements: usize) -> Format {
        self.states.resolve(algorithm, state, elements, Format::F32)
    }

    /// Returns whether there are master weights.
    pub(crate) fn keeps_master(&self) -> bool {
        self.params == ParamPrecision::MasterWeights
    }

    /// Gives it to a group of an optimizer.
    pub(crate) fn apply(&self, driver: &mut Driver, group: usize) -> fallline_optim::Result<()> {
        driver.set_state_storage(group, self.states.clone())?;
        driver.set_param_precision(group, self.params)?;
        driver.set_momentum_mask(group, self.mask.clone())?;
        if group == 0 {
            driver.set_spill_dir(self.folder.clone());
            if self.offload && !driver.backend().is_host_accessible() {
                let host = Cpu::new().or_else(|_| Cpu::with_threads(1))?;
                driver.offload(host.shared())?;
            }
        }
        Ok(())
    }

    /// As it is written in a configuration.
    pub(crate) fn to_text(&self) -> String {
        let mut text = to_text(&self.states);
        match self.params {
            ParamPrecision::StochasticRounding { seed } => {
                text += &format!(", {PARAM_FORMAT}=\"bf16_sr\", {SEED}={seed}")
            }
            ParamPrecision::MasterWeights => text += &format!(", {PARAM_FORMAT}=\"master\""),
            _ => {}
        }
        let seed = self.states.seed();
        if seed != 0
            && may_round(&self.states)
            && !matches!(self.params, ParamPrecision::StochasticRounding { .. })
        {
            text += &format!(", {SEED}={seed}");
        }
        if let Some(folder) = &self.folder {
            text += &format!(", {PAGE_FOLDER}={:?}", folder.display().to_string());
        }
        match (self.offload, self.by_default) {
            (true, false) => text += &format!(", {OFFLOAD}=\"cpu\""),
            (false, true) => text += &format!(", {OFFLOAD}=None"),
            _ => {}
        }
        if let Some(MomentumMask::Rows(rows)) = &self.mask {
            text += &format!(", {MASK}=({}, {})", rows.start, rows.end);
        }
        text
    }
}

/// Reads rows of the first dimension: a number of them, or where they begin and end.
fn mask(node: &Node, of: Of<'_>) -> Result<Option<MomentumMask>> {
    let row = |setting: &Setting| match setting {
        Setting::Int(row) => usize::try_from(*row).ok(),
        _ => None,
    };
    let rows = match &node.value {
        Setting::None => return Ok(None),
        Setting::List(items) => match &items[..] {
            [start, end] => row(&start.value).zip(row(&end.value)),
            _ => None,
        },
        other => row(other).map(|end| (0, end)),
    };
    let Some((start, end)) = rows.filter(|(start, end)| start <= end) else {
        let expected = "a number of rows, or the first and the one after the last";
        return Err(wrong(node, MASK, expected, node.value.to_string()));
    };
    of.check_mask().map_err(|source| Error::Algorithm { at: node.at.clone(), source })?;
    Ok(Some(MomentumMask::Rows(start..end)))
}

/// Returns the names that formats of states have in configurations.
fn names() -> Vec<&'static str> {
    let mut names = Vec::new();
    let plain = Format::ALL.into_iter().map(StateFormat::from);
    let chosen = [StateFormat::BF16_SR, StateFormat::BF16_RNE].into_iter();
    for format in plain.chain(chosen).chain(Format::BLOCKS.into_iter().map(StateFormat::from)) {
        if !names.contains(&format.name()) {
            names.push(format.name());
        }
    }
    names
}

/// Returns whether a state may be rounded stochastically.
fn may_round(states: &StateStorage) -> bool {
    let half = |format: StateFormat| {
        matches!(format.format, Format::Bf16 | Format::F16) && format != StateFormat::BF16_RNE
    };
    states.for_all().is_some_and(half) || states.named().any(|(_, format)| half(format))
}

/// Returns a format's name, or a dict from the names of states to those of formats, for an algorithm.
fn read(node: &Node, of: Of<'_>) -> Result<StateStorage> {
    let mut formats = match &node.value {
        Setting::None => return Ok(StateStorage::default()),
        Setting::Str(_) => return checked(node, StateStorage::all(format(node)?), of),
        Setting::Dict(_) => StateStorage::default(),
        _ => return Err(wrong(node, STATE_FORMAT, FORMATS, typed(node))),
    };
    for (state, node) in node.value.as_dict().into_iter().flat_map(|dict| dict.iter()) {
        formats = checked(node, formats.with(state, format(node)?), of)?;
    }
    Ok(formats)
}

fn checked(node: &Node, formats: StateStorage, of: Of<'_>) -> Result<StateStorage> {
    match of.check_formats(&formats) {
        Ok(()) => Ok(formats),
        Err(source) => Err(Error::Algorithm { at: node.at.clone(), source }),
    }
}

fn format(node: &Node) -> Result<StateFormat> {
    let name = node.value.as_str();
    let name = name.ok_or_else(|| wrong(node, STATE_FORMAT, FORMATS, typed(node)))?;
    StateFormat::named(name).ok_or_else(|| Error::UnknownName {
        at: node.at.clone(),
        what: "format",
        name: name.to_owned(),
        nearest: nearest(name, names()).map(str::to_owned),
        known: known_are(names()),
    })
}

/// What the key of formats takes.
const FORMATS: &str = "a format or a dict from states to formats";

fn wrong(node: &Node, key: &str, expected: &str, got: String) -> Error {
    Error::Value { at: node.at.clone(), key: key.to_owned(), expected: expected.to_owned(), got }
}

/// Returns states' formats as they are written in a configuration.
fn to_text(formats: &StateStorage) -> String {
    let named = formats.named().map(|(state, format)| format!("{state:?}: {:?}", format.name()));
    let named = named.collect::<Vec<_>>().join(", ");
    match formats.for_all() {
        Some(format) => format!(", {STATE_FORMAT}={:?}", format.name()),
        None if named.is_empty() => String::new(),
        None => format!(", {STATE_FORMAT}={{{named}}}"),
    }
}
