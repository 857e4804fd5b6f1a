//! The key `param_scheduler`: MMEngine's names and arguments.

use crate::config::{Dict, Node, Value};
use crate::error::{Error, Result};
use crate::names::nearest;
use crate::recipe::{bare_name, expect_dict, type_of};
use fallline_optim::schedule::{Curve, Minimum, SchedulerSpec};

/// One entry, before the length of an epoch is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scheduler {
    spec: SchedulerSpec,
    convert_to_iter_based: bool,
}

impl Scheduler {
    /// The entry for epochs of this many iterations.
    pub(crate) fn spec(&self, epoch_length: u64) -> SchedulerSpec {
        match self.convert_to_iter_based {
            true => self.spec.clone().in_iterations(epoch_length),
            false => self.spec.clone(),
        }
    }
}

/// The kinds that are built, and their own arguments.
const KINDS: &[(&str, &[&str])] = &[
    ("CosineAnnealing", &["T_max", "eta_min", "eta_min_ratio"]),
    ("Linear", &["start_factor", "end_factor"]),
];
/// MMEngine's other kinds, to tell them from mistakes.
const OTHERS: &[&str] =
    &["Constant", "CosineRestart", "Exponential", "MultiStep", "OneCycle", "Poly", "ReduceOnPlateau", "Step"];
/// The arguments that every kind has.
const COMMON: &[&str] =
    &["type", "begin", "end", "last_step", "by_epoch", "verbose", "convert_to_iter_based", "param_name"];

/// Reads one entry or a list of them.
pub(crate) fn read(node: &Node) -> Result<Vec<Scheduler>> {
    match &node.value {
        Value::None => Ok(Vec::new()),
        Value::List(entries) => entries.iter().map(entry).collect(),
        _ => Ok(vec![entry(node)?]),
    }
}

fn entry(node: &Node) -> Result<Scheduler> {
    let dict = expect_dict(node, "param_scheduler")?;
    let kind = type_of(dict, node, "an entry of param_scheduler")?;
    let full = kind.value.as_str().map(bare_name).unwrap_or_default();
    let suffixes = [("ParamScheduler", None), ("Momentum", Some("momentum")), ("LR", Some("lr"))];
    let split = suffixes.iter().find_map(|(suffix, param)| Some((full.strip_suffix(suffix)?, *param)));
    let known = || KINDS.iter().map(|(name, _)| format!("{name}LR")).collect::<Vec<_>>();
    let unknown = || Error::UnknownName {
        at: kind.at.clone(),
        what: "scheduler",
        name: full.to_owned(),
        nearest: nearest(full, known().iter().map(String::as_str)).map(str::to_owned),
        known: known().join(", "),
    };
    let (stem, param) = split.ok_or_else(unknown)?;
    if OTHERS.contains(&stem) {
        return Err(Error::Unsupported { at: kind.at.clone(), what: format!("the scheduler {full}") });
    }
    let (_, own) = KINDS.iter().find(|(name, _)| *name == stem).ok_or_else(unknown)?;
    if let Some(key) = dict.keys().find(|key| !COMMON.contains(key) && !own.contains(key)) {
        let at = dict.key_at(key).unwrap_or(&node.at).clone();
        let nearest = nearest(key, COMMON.iter().chain(*own).copied()).map(str::to_owned);
        return Err(Error::UnknownKey { at, what: full.to_owned(), key: key.to_owned(), nearest });
    }
    let read = Reader { dict };
    if read.int("last_step")?.is_some_and(|step| step != -1) {
        let at = dict.key_at("last_step").unwrap_or(&node.at).clone();
        return Err(Error::Unsupported {
            at,
            what: "last_step (a run is resumed from its checkpoint)".into(),
        });
    }
    read.flag("verbose")?;
    let param = match (param, dict.get("param_name")) {
        (Some(param), None) => param.to_owned(),
        (None, Some(name)) => match name.value.as_str() {
            Some(name) => name.to_owned(),
            None => return Err(read.wrong("param_name", "a name", name)),
        },
        (None, None) => {
            return Err(Error::Missing { at: node.at.clone(), what: full.to_owned(), key: "param_name" });
        }
        (Some(_), Some(_)) => {
            let at = dict.key_at("param_name").unwrap_or(&node.at).clone();
            return Err(Error::UnknownKey {
                at,
                what: full.to_owned(),
                key: "param_name".into(),
                nearest: None,
            });
        }
    };
    let curve = match stem {
        "Linear" => Curve::Linear {
            start_factor: read.factor("start_factor", 1.0 / 3.0)?,
            end_factor: read.factor("end_factor", 1.0)?,
        },
        _ => Curve::CosineAnnealing { t_max: read.count("T_max", 1)?, minimum: minimum(&read)? },
    };
    let by_epoch = read.flag("by_epoch")?.unwrap_or(true);
    let convert_to_iter_based = read.flag("convert_to_iter_based")?.unwrap_or(false);
    if convert_to_iter_based && !by_epoch {
        let at = dict.get("convert_to_iter_based").map_or(&node.at, |node| &node.at).clone();
        let (key, expected) = ("convert_to_iter_based".into(), "False with by_epoch=False".into());
        return Err(Error::Value { at, key, expected, got: "True".into() });
    }
    let begin = read.count("begin", 0)?.unwrap_or(0);
    let end = read.count("end", 1)?.filter(|&end| end < INFINITE);
    if let (Some(end), Some(at)) = (end, dict.get("end"))
        && end <= begin
    {
        return Err(read.wrong("end", &format!("above begin ({begin})"), at));
    }
    let spec = SchedulerSpec { curve, param, begin, end, by_epoch };
    Ok(Scheduler { spec, convert_to_iter_based })
}

/// MMEngine's stand-in for 'no end'.
const INFINITE: u64 = 1_000_000_000;

fn minimum(read: &Reader<'_>) -> Result<Minimum> {
    match (read.number("eta_min")?, read.number("eta_min_ratio")?) {
        (None, Some(ratio)) => Ok(Minimum::Ratio(ratio)),
        (value, None) => Ok(Minimum::Value(value.unwrap_or(0.0))),
        (Some(_), Some(_)) => {
            let at = read.dict.key_at("eta_min_ratio").cloned().unwrap_or_default();
            let expected = "left out where eta_min is given".to_owned();
            Err(Error::Value { at, key: "eta_min_ratio".into(), expected, got: "both".into() })
        }
    }
}

/// Typed access to an entry's arguments.
struct Reader<'a> {
    dict: &'a Dict,
}

impl Reader<'_> {
    fn wrong(&self, key: &str, expected: &str, node: &Node) -> Error {
        let (at, got) = (node.at.clone(), node.value.to_string());
        Error::Value { at, key: key.to_owned(), expected: expected.to_owned(), got }
    }

    /// The value of a key, unless it is `None`.
    fn get(&self, key: &str) -> Option<&Node> {
        self.dict.get(key).filter(|node| !node.value.is_none())
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let read = |node: &Node| node.value.as_float().filter(|x| x.is_finite());
        self.get(key).map(|node| read(node).ok_or_else(|| self.wrong(key, "a number", node))).transpose()
    }

    fn factor(&self, key: &str, default: f64) -> Result<f64> {
        let factor = self.number(key)?.unwrap_or(default);
        match self.get(key) {
            Some(node) if !(0.0..=1.0).contains(&factor) => Err(self.wrong(key, "in [0, 1]", node)),
            _ => Ok(factor),
        }
    }

    fn int(&self, key: &str) -> Result<Option<i64>> {
        let read = |node: &Node| node.value.as_int();
        self.get(key)
            .map(|node| read(node).ok_or_else(|| self.wrong(key, "a whole number", node)))
            .transpose()
    }

    fn count(&self, key: &str, least: u64) -> Result<Option<u64>> {
        let Some(node) = self.get(key) else { return Ok(None) };
        let count = self.int(key)?.and_then(|x| u64::try_from(x).ok()).filter(|&x| x >= least);
        count.map(Some).ok_or_else(|| self.wrong(key, &format!("a whole number of at least {least}"), node))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        let read = |node: &Node| node.value.as_bool();
        self.get(key).map(|node| read(node).ok_or_else(|| self.wrong(key, "True or False", node))).transpose()
    }
}
