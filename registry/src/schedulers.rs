//! The key `param_scheduler`: MMEngine's names and arguments.

mod curves;

use crate::config::{self, Dict, Entries, Node, Value};
use crate::error::{Error, Result};
use crate::hints::several;
pub use crate::length::Length;
use crate::near::{known_are, nearest};
use crate::read::{bare_name, expect_dict, refuse_unknown, type_of};
use fallline_optim::schedule::{Curve, Schedule, Scheduled, Scheduler, Target};
use std::path::Path;

/// The schedulers of a configuration, in order.
///
/// ```
/// use fallline_optim::schedule::Numbers;
/// use fallline_registry::schedulers::{Chain, Length};
/// let chain = Chain::from_text("dict(type='StepLR', step_size=2, gamma=0.5, by_epoch=False)")?;
/// let mut numbers = Numbers::new([("lr", 0.1)]);
/// let mut schedule = chain.schedule(Length::new(1), &mut numbers)?;
/// (0..2).try_for_each(|_| schedule.after_iteration(&mut numbers))?;
/// assert_eq!(numbers["lr"], 0.05);
/// # Ok::<(), fallline_registry::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chain(Vec<Entry>);

impl Chain {
    /// Reads inline text: one scheduler or a list of them, in any notation, or a configuration that has the key
    /// `param_scheduler`.
    ///
    /// # Errors
    /// [`Error`] names the place, what was expected, and the nearest name that exists.
    pub fn from_text(text: &str) -> Result<Chain> {
        let node = config::parse_inline(text)?;
        let keyed = node.value.as_dict().filter(|dict| dict.get("type").is_none());
        Chain::read(keyed.and_then(|dict| dict.get("param_scheduler")).unwrap_or(&node))
    }

    /// Reads the key `param_scheduler` of entries; without it the chain is empty.
    ///
    /// # Errors
    /// As [`from_text`](Chain::from_text).
    pub fn from_entries(entries: &Entries) -> Result<Chain> {
        entries.get("param_scheduler")?.map_or(Ok(Chain::default()), Chain::read)
    }

    /// Reads the key `param_scheduler` of a file.
    ///
    /// # Errors
    /// As [`from_text`](Chain::from_text).
    pub fn from_file(path: impl AsRef<Path>) -> Result<Chain> {
        Chain::from_entries(&config::load(path)?)
    }

    /// Reads one entry or a list of them.
    pub(crate) fn read(node: &Node) -> Result<Chain> {
        Ok(Chain(match &node.value {
            Value::None => Vec::new(),
            Value::List(entries) => entries.iter().map(entry).collect::<Result<_>>()?,
            _ => vec![entry(node)?],
        }))
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the schedule, which sets the first values.
    ///
    /// # Errors
    /// When an entry is wrong, or there is nothing of the name that it schedules.
    pub fn schedule<S: Scheduled + ?Sized>(&self, length: Length, numbers: &mut S) -> Result<Schedule> {
        Ok(Schedule::new(self.schedulers(length), numbers)?)
    }

    /// Returns the schedulers for training of this length.
    pub fn schedulers(&self, length: Length) -> Vec<Scheduler> {
        self.0.iter().map(|entry| entry.scheduler(length)).collect()
    }

    /// Returns the entries that nothing ends in training of this length. They do not say where they end, and it is
    /// not known how long training is. An entry that follows a metric needs no end, and is not one of them; nor is one
    /// that has its own `total_steps`.
    pub fn without_end(&self, length: Length) -> Vec<String> {
        let needs_none = |entry: &Entry| match &entry.scheduler.curve {
            Curve::ReduceOnPlateau(_) => true,
            Curve::OneCycle(cycle) => cycle.total_steps.is_some(),
            _ => false,
        };
        let endless = self
            .0
            .iter()
            .enumerate()
            .filter(|(_, entry)| !(entry.ends || needs_none(entry) || length.is_known()));
        endless.map(|(place, entry)| format!("param_scheduler[{place}] ({})", entry.name)).collect()
    }

    /// Returns whether an entry needs to be told how long training is.
    pub(crate) fn needs_length(&self) -> bool {
        self.0.iter().any(|entry| !entry.ends)
    }

    /// Returns whether an entry counts epochs, whatever the length of one.
    pub(crate) fn counts_epochs(&self) -> bool {
        self.0.iter().any(|entry| entry.scheduler.by_epoch && !entry.convert_to_iter_based)
    }

    /// Returns whether an entry has steps in it that are those of training of some length. Training of another
    /// length would follow half of the plan, or be through with it half-way.
    pub fn has_own_steps(&self) -> bool {
        self.0.iter().any(|entry| entry.ends || entry.scheduler != entry.scheduler.clone().stretched(2.0))
    }

    /// Returns the same plan over `factor` times as many steps.
    pub fn stretched(&self, factor: f64) -> Chain {
        let stretched =
            |entry: &Entry| Entry { scheduler: entry.scheduler.clone().stretched(factor), ..entry.clone() };
        Chain(self.0.iter().map(stretched).collect())
    }
}

/// One entry, before the length of an epoch is known.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    /// Its type.
    name: String,
    scheduler: Scheduler,
    convert_to_iter_based: bool,
    /// Whether the configuration says where it ends.
    ends: bool,
}

impl Entry {
    /// Returns the entry for training of this length.
    fn scheduler(&self, length: Length) -> Scheduler {
        let mut scheduler = self.scheduler.clone();
        if !self.ends {
            scheduler.end = length.end(scheduler.by_epoch);
        }
        match self.convert_to_iter_based {
            true => scheduler.in_iterations(length.epoch),
            false => scheduler,
        }
    }
}

/// The arguments that every kind has.
const COMMON: &[&str] =
    &["type", "begin", "end", "last_step", "by_epoch", "verbose", "convert_to_iter_based", "param_name"];
/// What may follow a kind, and whose scheduler it is then.
const SUFFIXES: [&str; 3] = ["ParamScheduler", "Momentum", "LR"];

/// Returns every name of a scheduler.
pub fn names() -> Vec<String> {
    let mut names = Vec::new();
    for kind in curves::KINDS {
        let suffixes = SUFFIXES.into_iter().filter(|suffix| kind.has_momentum() || *suffix != "Momentum");
        names.extend(suffixes.map(|suffix| format!("{}{suffix}", kind.name)));
    }
    names.sort();
    names
}

/// Returns whether it is a scheduler's.
pub(crate) fn is_name(name: &str) -> bool {
    names().iter().any(|known| known == name)
}

/// Returns the error of a scheduler where an optimizer is needed.
pub(crate) fn misplaced(kind: &Node) -> Error {
    let what = format!("{} is a scheduler, and an optimizer is needed here", kind.value);
    let hint =
        "`fallline schedule` takes it alone; beside an `optimizer` it is the value of `param_scheduler`"
            .into();
    Error::Misplaced { at: kind.at.clone(), what, hint }
}

fn entry(node: &Node) -> Result<Entry> {
    let dict = expect_dict(node, "param_scheduler")?;
    let is_chain = |node: &Node| {
        let is_entry = |node: &Node| node.value.as_dict().is_some_and(|dict| dict.contains_key("type"));
        is_entry(node)
            || node.value.as_list().is_some_and(|list| !list.is_empty() && list.iter().all(is_entry))
    };
    if let (None, Some(names)) = (dict.get("type"), several(dict, is_chain)) {
        let what = format!("param_scheduler is of several optimizers ({})", names.join(", "));
        let hint = "there is one here: give the list of one of them".into();
        return Err(Error::Misplaced { at: node.at.clone(), what, hint });
    }
    let kind = type_of(dict, node, "an entry of param_scheduler")?;
    let full = kind.value.as_str().map(bare_name).unwrap_or_default();
    let unknown = || {
        let known = names();
        Error::UnknownName {
            at: kind.at.clone(),
            what: "scheduler",
            name: full.to_owned(),
            nearest: nearest(full, known.iter().map(String::as_str)).map(str::to_owned),
            known: known_are(known),
        }
    };
    if !is_name(full) {
        return Err(unknown());
    }
    let split = SUFFIXES.into_iter().find_map(|suffix| Some((full.strip_suffix(suffix)?, suffix)));
    let (stem, suffix) = split.ok_or_else(unknown)?;
    let kind = curves::KINDS.iter().find(|kind| kind.name == stem).ok_or_else(unknown)?;
    let read = Reader { dict, node };
    let known: Vec<&str> = COMMON.iter().chain(kind.arguments).copied().collect();
    refuse_unknown(dict, node, full, &known)?;
    read.flag("verbose")?;
    let target = match (suffix, dict.get("param_name")) {
        ("LR", None) => "lr".into(),
        ("Momentum", None) => Target::Momentum,
        ("ParamScheduler", Some(name)) => match name.value.as_str() {
            Some(name) => name.into(),
            None => return Err(read.wrong("param_name", "a name", name)),
        },
        ("ParamScheduler", None) => return Err(read.missing(full, "param_name")),
        _ => {
            let (at, what) = (read.at("param_name"), full.to_owned());
            return Err(Error::UnknownKey { at, what, key: "param_name".into(), nearest: None, hint: None });
        }
    };
    if !kind.has_momentum() && target.name() != "lr" {
        return Err(read.wrong("param_name", "\"lr\" for a OneCycle", read.value("param_name")));
    }
    let by_epoch = read.flag("by_epoch")?.unwrap_or(true);
    let convert_to_iter_based = read.flag("convert_to_iter_based")?.unwrap_or(false);
    if convert_to_iter_based && (!by_epoch || stem == "ReduceOnPlateau") {
        let expected = if by_epoch { "False for a ReduceOnPlateau" } else { "False with by_epoch=False" };
        return Err(read.wrong("convert_to_iter_based", expected, read.value("convert_to_iter_based")));
    }
    let begin = read.number_from("begin", 0.0)?.unwrap_or(0.0);
    let end = read.number_from("end", 0.0)?;
    if let (Some(end), Some(at)) = (end, dict.get("end"))
        && end <= begin
    {
        return Err(read.wrong("end", &format!("above begin ({begin})"), at));
    }
    let last_step = match read.int("last_step")? {
        None | Some(-1) => None,
        Some(step) => match u64::try_from(step) {
            Ok(step) => Some(step),
            Err(_) => {
                return Err(read.wrong("last_step", "an integer of at least -1", read.value("last_step")));
            }
        },
    };
    let curve = (kind.read)(&read, full)?;
    let scheduler = Scheduler { curve, target, begin, end, by_epoch, last_step };
    Ok(Entry { name: full.to_owned(), scheduler, convert_to_iter_based, ends: dict.get("end").is_some() })
}

/// Typed access to an entry's arguments.
pub(crate) struct Reader<'a> {
    dict: &'a Dict,
    node: &'a Node,
}

impl<'a> Reader<'a> {
    /// Returns the position of a key, or of the dict where it is missing.
    fn at(&self, key: &str) -> crate::config::Position {
        self.dict.key_at(key).unwrap_or(&self.node.at).clone()
    }

    /// Returns the value of a key, or the dict where there is none.
    fn value(&self, key: &str) -> &'a Node {
        self.dict.get(key).unwrap_or(self.node)
    }

    fn wrong(&self, key: &str, expected: &str, node: &Node) -> Error {
        let (at, got) = (node.at.clone(), node.value.to_string());
        Error::Value { at, key: key.to_owned(), expected: expected.to_owned(), got }
    }

    fn missing(&self, what: &str, key: &'static str) -> Error {
        Error::Missing { at: self.node.at.clone(), what: what.to_owned(), key }
    }

    /// Returns the value of a key, unless it is `None`.
    fn get(&self, key: &str) -> Option<&'a Node> {
        self.dict.get(key).filter(|node| !node.value.is_none())
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let read = |node: &Node| node.value.as_float().filter(|x| x.is_finite());
        self.get(key).map(|node| read(node).ok_or_else(|| self.wrong(key, "a number", node))).transpose()
    }

    fn number_from(&self, key: &str, least: f64) -> Result<Option<f64>> {
        match (self.number(key)?, self.get(key)) {
            (Some(x), Some(node)) if x < least => Err(self.wrong(key, &format!("at least {least}"), node)),
            (found, _) => Ok(found),
        }
    }

    fn number_above(&self, key: &str, low: f64) -> Result<Option<f64>> {
        match (self.number(key)?, self.get(key)) {
            (Some(x), Some(node)) if x <= low => Err(self.wrong(key, &format!("above {low}"), node)),
            (found, _) => Ok(found),
        }
    }

    fn factor(&self, key: &str, default: f64) -> Result<f64> {
        let factor = self.number(key)?.unwrap_or(default);
        match self.get(key) {
            Some(node) if !(0.0..=1.0).contains(&factor) => Err(self.wrong(key, "in [0, 1]", node)),
            _ => Ok(factor),
        }
    }

    /// Reads a list of numbers from `least` on.
    fn numbers(&self, key: &str, least: f64) -> Result<Option<Vec<f64>>> {
        let Some(node) = self.get(key) else { return Ok(None) };
        let items = node.value.as_list().map(|items| {
            items.iter().map(|item| item.value.as_float().filter(|x| x.is_finite() && *x >= least))
        });
        let expected = || match least {
            f64::NEG_INFINITY => "a list of numbers".to_owned(),
            _ => format!("a list of numbers from {least}"),
        };
        let numbers = items.and_then(Iterator::collect::<Option<Vec<f64>>>);
        numbers.map(Some).ok_or_else(|| self.wrong(key, &expected(), node))
    }

    fn int(&self, key: &str) -> Result<Option<i64>> {
        let read = |node: &Node| node.value.as_int();
        self.get(key).map(|node| read(node).ok_or_else(|| self.wrong(key, "an integer", node))).transpose()
    }

    fn count(&self, key: &str, least: u64) -> Result<Option<u64>> {
        let Some(node) = self.get(key) else { return Ok(None) };
        let count = self.int(key)?.and_then(|x| u64::try_from(x).ok()).filter(|&x| x >= least);
        count.map(Some).ok_or_else(|| self.wrong(key, &format!("an integer of at least {least}"), node))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        let read = |node: &Node| node.value.as_bool();
        self.get(key).map(|node| read(node).ok_or_else(|| self.wrong(key, "True or False", node))).transpose()
    }

    /// Reads one of two words; the first is the default.
    fn word<T: Copy>(&self, key: &str, words: [(&str, T); 2]) -> Result<T> {
        let Some(node) = self.get(key) else { return Ok(words[0].1) };
        let found = words.iter().find(|(word, _)| node.value.as_str() == Some(word));
        let expected = || format!("{:?} or {:?}", words[0].0, words[1].0);
        found.map(|(_, value)| *value).ok_or_else(|| self.wrong(key, &expected(), node))
    }
}
