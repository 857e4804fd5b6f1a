//! The key `optim_wrapper`: MMEngine's wrappers and their arguments; and averages of the weights.

use crate::config::{Dict, Node, Value};
use crate::error::{Error, Result};
use crate::hints::{is_wrapper, several};
use crate::near::{known_are, nearest};
use crate::read::{bare_name, expect_dict, refuse_unknown, type_of};
use fallline_optim::average::{Average, Averaging};
use fallline_optim::gradient_config::{Clip, GradientConfig, LossScaler};

/// An `optim_wrapper`, taken apart.
pub(crate) struct Wrapped<'c> {
    /// The optimizer in it.
    pub(crate) optimizer: &'c Node,
    /// `paramwise_cfg`, if it says anything.
    pub(crate) paramwise: Option<&'c Node>,
    /// The gradient pipeline.
    pub(crate) wrapper: GradientConfig,
}

/// The arguments of `OptimWrapper`.
const PLAIN: [&str; 6] =
    ["type", "optimizer", "constructor", "paramwise_cfg", "accumulative_counts", "clip_grad"];
/// Those that `AmpOptimWrapper` adds.
const AMP: [&str; 3] = ["loss_scale", "dtype", "use_fsdp"];
/// The types of `dtype`. Forward and backward passes are the training loop's, so that it changes nothing here.
const TYPES: [&str; 4] = ["float16", "bfloat16", "float32", "float64"];

/// Reads an `optim_wrapper`.
pub(crate) fn read(node: &Node) -> Result<Wrapped<'_>> {
    let dict = expect_dict(node, "optim_wrapper")?;
    let read = Reader { dict, node };
    if let Some(names) = several_of(dict) {
        let what = format!("optim_wrapper is of several optimizers ({})", names.join(", "));
        let hint =
            "a recipe has one: make each a configuration of its own, optim_wrapper=dict(optimizer=…)".into();
        return Err(Error::Misplaced { at: node.at.clone(), what, hint });
    }
    let amp = match dict.get("type") {
        None => false,
        Some(kind) => match kind.value.as_str().map(bare_name) {
            Some(name) if name.ends_with("AmpOptimWrapper") => true,
            Some(name) if name.ends_with("OptimWrapper") => false,
            _ => return Err(read.unsupported("type", kind)),
        },
    };
    // What somebody's own constructor takes is its own, too.
    if let Some(constructor) = read.get("constructor")
        && constructor.value.as_str().map(bare_name) != Some("DefaultOptimWrapperConstructor")
    {
        return Err(read.unsupported("constructor", constructor));
    }
    let what = if amp { "an AmpOptimWrapper" } else { "an OptimWrapper" };
    let known: Vec<&str> = PLAIN.into_iter().chain(AMP.into_iter().filter(|_| amp)).collect();
    refuse_unknown(dict, node, what, &known)?;
    let mut wrapper = GradientConfig::default();
    wrapper.accumulate.accumulation_steps = read.count("accumulative_counts")?.unwrap_or(1);
    wrapper.clip = read.get("clip_grad").map(clip).transpose()?;
    if amp {
        wrapper.scaler = scaler(&read)?;
        if let Some(dtype) = read.get("dtype")
            && !dtype.value.as_str().is_some_and(|name| TYPES.contains(&name.trim_start_matches("torch.")))
        {
            return Err(read.wrong("dtype", &format!("one of {}", TYPES.join(", ")), dtype));
        }
        read.flag("use_fsdp")?;
    }
    let optimizer = dict.get("optimizer").ok_or_else(|| Error::Missing {
        at: node.at.clone(),
        what: "an optim_wrapper".into(),
        key: "optimizer",
    })?;
    let paramwise = read.get("paramwise_cfg");
    Ok(Wrapped { optimizer, paramwise, wrapper })
}

/// Returns what to say of a wrapper that is somebody's own, and is read as one of MMEngine's.
pub(crate) fn read_as(node: &Node) -> Option<String> {
    let kind = node.value.as_dict()?.get("type")?;
    let name = kind.value.as_str().map(bare_name)?;
    let meant = if name.ends_with("AmpOptimWrapper") { "AmpOptimWrapper" } else { "OptimWrapper" };
    let own = name != meant && name.ends_with(meant);
    own.then(|| {
        format!("{}: {name} is not known: it is read as MMEngine's {meant}, whatever else it does", kind.at)
    })
}

/// Returns the names of the optimizers in a dict that has one for each part of a model.
pub(crate) fn several_of(dict: &Dict) -> Option<Vec<&str>> {
    let is_one = |node: &Node| {
        is_wrapper(node) || node.value.as_dict().is_some_and(|dict| dict.contains_key("optimizer"))
    };
    if dict.contains_key("optimizer") { None } else { several(dict, is_one) }
}

/// Reads a `clip_grad`.
pub(crate) fn clip(node: &Node) -> Result<Clip> {
    let dict = expect_dict(node, "clip_grad")?;
    let read = Reader { dict, node };
    let kind = match dict.get("type") {
        None => "norm",
        Some(kind) => match kind.value.as_str() {
            Some(name @ ("norm" | "value")) => name,
            _ => return Err(read.wrong("type", "\"norm\" or \"value\"", kind)),
        },
    };
    let keys: &[&str] = match kind {
        "norm" => &["type", "max_norm", "norm_type", "error_if_nonfinite", "foreach"],
        _ => &["type", "clip_value", "foreach"],
    };
    refuse_unknown(dict, node, &format!("clip_grad of type {kind:?}"), keys)?;
    read.flag("foreach")?;
    let missing = |key| Error::Missing { at: node.at.clone(), what: "clip_grad".into(), key };
    if kind == "value" {
        let clip_value = read.number("clip_value")?.ok_or_else(|| missing("clip_value"))?;
        return match clip_value >= 0.0 {
            true => Ok(Clip::Value { clip_value }),
            false => Err(read.wrong("clip_value", "0 or more", read.value("clip_value"))),
        };
    }
    let max_norm = read.number("max_norm")?.ok_or_else(|| missing("max_norm"))?;
    if max_norm < 0.0 {
        return Err(read.wrong("max_norm", "0 or more", read.value("max_norm")));
    }
    let norm_type = match read.get("norm_type").map(|node| &node.value) {
        // As torch takes it, in addition to a number.
        Some(Value::Str(name)) if name == "inf" => f64::INFINITY,
        Some(Value::Str(name)) if name == "-inf" => f64::NEG_INFINITY,
        _ => read.number("norm_type")?.unwrap_or(2.0),
    };
    let error_if_nonfinite = read.flag("error_if_nonfinite")?.unwrap_or(false);
    Ok(Clip::Norm { max_norm, norm_type, error_if_nonfinite })
}

/// Reads `loss_scale`: `"dynamic"`, a number, or the arguments of torch's `GradScaler`.
fn scaler(read: &Reader<'_>) -> Result<Option<LossScaler>> {
    let Some(node) = read.get("loss_scale") else { return Ok(Some(LossScaler::default())) };
    let built = |built: fallline_optim::Result<LossScaler>, node: &Node| {
        built.map(Some).map_err(|expected| Error::Value {
            at: node.at.clone(),
            key: "loss_scale".into(),
            expected: "a loss scale".into(),
            got: format!("{} ({expected})", node.value),
        })
    };
    match &node.value {
        Value::Str(name) if name == "dynamic" => Ok(Some(LossScaler::default())),
        Value::Int(_) | Value::Float(_) => {
            built(LossScaler::fixed(node.value.as_float().unwrap_or(f64::NAN)), node)
        }
        Value::Dict(dict) => {
            let keys =
                ["init_scale", "growth_factor", "backoff_factor", "growth_interval", "enabled", "device"];
            refuse_unknown(dict, node, "loss_scale", &keys)?;
            let own = Reader { dict, node };
            let number = |key: &str, default: f64| Ok::<f64, Error>(own.number(key)?.unwrap_or(default));
            let scaler = LossScaler::dynamic(
                number("init_scale", 65536.0)?,
                number("growth_factor", 2.0)?,
                number("backoff_factor", 0.5)?,
                own.count("growth_interval")?.unwrap_or(2000),
            );
            let scaler = built(scaler, node)?;
            Ok(scaler.filter(|_| own.flag("enabled").is_ok_and(|enabled| enabled != Some(false))))
        }
        _ => Err(read.wrong("loss_scale", "\"dynamic\", a number or a dict", node)),
    }
}

/// The averages that there are, with their arguments.
pub(crate) const AVERAGES: [(&str, &[&str]); 3] = [
    ("ExponentialMovingAverage", &["type", "interval", "momentum"]),
    ("MomentumAnnealingEMA", &["type", "interval", "momentum", "gamma"]),
    ("StochasticWeightAverage", &["type", "interval"]),
];

/// Reads an average of the weights, in MMEngine's names: `ExponentialMovingAverage`, `MomentumAnnealingEMA` or
/// `StochasticWeightAverage`.
///
/// # Errors
/// [`Error`] names the place, what was expected, and the nearest name that exists.
pub fn average(node: &Node) -> Result<Average> {
    let dict = expect_dict(node, "average")?;
    let kind = type_of(dict, node, "an average")?;
    let name = kind.value.as_str().map(bare_name).unwrap_or_default();
    let read = Reader { dict, node };
    let kinds = AVERAGES;
    let Some((_, keys)) = kinds.iter().find(|(known, _)| *known == name) else {
        return Err(Error::UnknownName {
            at: kind.at.clone(),
            what: "average",
            name: name.to_owned(),
            nearest: nearest(name, kinds.map(|(name, _)| name)).map(str::to_owned),
            known: known_are(kinds.map(|(name, _)| name)),
        });
    };
    refuse_unknown(dict, node, name, keys)?;
    let momentum = read.number("momentum")?.unwrap_or(0.0002);
    let kind = match name {
        "ExponentialMovingAverage" => Averaging::Exponential { momentum },
        "MomentumAnnealingEMA" => {
            Averaging::Annealed { momentum, gamma: read.number("gamma")?.unwrap_or(100.0) }
        }
        _ => Averaging::Equal,
    };
    let average = Average { kind, interval: read.count("interval")?.unwrap_or(1) };
    average.checked().map_err(|problem| Error::Value {
        at: node.at.clone(),
        key: "average".into(),
        expected: "in range".into(),
        got: problem.to_string(),
    })
}

/// Typed access to a dict.
struct Reader<'c> {
    dict: &'c Dict,
    node: &'c Node,
}

impl<'c> Reader<'c> {
    /// Returns the value of a key, unless it is `None`.
    fn get(&self, key: &str) -> Option<&'c Node> {
        self.dict.get(key).filter(|node| !node.value.is_none())
    }

    /// Returns the value of a key, or the dict where there is none.
    fn value(&self, key: &str) -> &'c Node {
        self.dict.get(key).unwrap_or(self.node)
    }

    fn wrong(&self, key: &str, expected: &str, node: &Node) -> Error {
        let (at, got) = (node.at.clone(), node.value.to_string());
        Error::Value { at, key: key.to_owned(), expected: expected.to_owned(), got }
    }

    fn unsupported(&self, key: &str, node: &Node) -> Error {
        let what = format!("{key}={} in an optim_wrapper", node.value);
        Error::Unsupported { at: self.dict.key_at(key).unwrap_or(&node.at).clone(), what }
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let read = |node: &Node| node.value.as_float().filter(|x| !x.is_nan());
        self.get(key).map(|node| read(node).ok_or_else(|| self.wrong(key, "a number", node))).transpose()
    }

    fn count(&self, key: &str) -> Result<Option<u64>> {
        let Some(node) = self.get(key) else { return Ok(None) };
        let count = node.value.as_int().and_then(|x| u64::try_from(x).ok()).filter(|&x| x > 0);
        count.map(Some).ok_or_else(|| self.wrong(key, "an integer of at least 1", node))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        let read = |node: &Node| node.value.as_bool();
        self.get(key).map(|node| read(node).ok_or_else(|| self.wrong(key, "True or False", node))).transpose()
    }
}
