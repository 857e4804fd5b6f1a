//! The key `paramwise_cfg`: which parameters have other hyperparameters, or another optimizer.
//!
//! The rules are those of MMEngine 0.10.7's `DefaultOptimWrapperConstructor`:
//!
//! - `custom_keys`: the longest of the keys that a parameter's name contains counts; of equally long ones the first
//!   in alphabetical order. No other rule applies then. `lr_mult` and `decay_mult` multiply the optimizer's `lr` and
//!   `weight_decay`; hyperparameters of the optimizer replace its own; so do `state_format`, `param_format`, `seed`
//!   and `exp_avg_mask`.
//! - `bias_lr_mult`: `lr` of biases, except those of norms and of deformable convolutions' offsets.
//! - `dcn_offset_lr_mult`: `lr` of the offsets of deformable convolutions.
//! - `norm_decay_mult`, `bias_decay_mult`, `dwconv_decay_mult`, `flat_decay_mult` (parameters of one dimension):
//!   `weight_decay`; the first of them that is given and fits decides. The last three do not apply to offsets, but for
//!   `dwconv_decay_mult`.
//! - `bypass_duplicate` is accepted: a parameter is bound once here.
//!
//! A parameter is a bias when the last part of its name is `bias`. It is an offset of a deformable convolution when a
//! part before it contains `conv_offset`. The training loop gives the kind of its module, or it is guessed
//! ([`ModuleKind::guess`]).
//!
//! `optimizer=dict(type=…)` in an entry of `custom_keys` is this project's extension. Its parameters have that
//! optimizer, and the entry's multipliers multiply its `lr` and `weight_decay`. `cautious` may be any group's own; a
//! `wrap` is around all of them.

use crate::config::{Dict, Node, Position};
use crate::error::{Error, Result};
use crate::formats::{KEYS as STORING, OF_WHOLE, Of, StorageOptions};
use crate::method::method;
use crate::modifiers;
use crate::near::nearest;
use crate::read::{convert, expect_dict, refuse_unknown};
use crate::registry::Registry;
use fallline_optim::hyper::{HyperError, Value};
use fallline_optim::{AnyAlgorithm, Driver, Method, ModuleKind, ParamInfo};
use std::sync::Arc;

/// The multipliers next to `custom_keys`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Multipliers {
    bias_lr: Option<f64>,
    dcn_offset_lr: Option<f64>,
    norm_decay: Option<f64>,
    bias_decay: Option<f64>,
    dwconv_decay: Option<f64>,
    flat_decay: Option<f64>,
}

/// A multiplier that applies, by its name.
type Applied = Option<(&'static str, f64)>;

/// Which rule decides for a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    /// This of the custom keys.
    Custom(usize),
    /// A multiplier of `lr` and one of `weight_decay`, if any.
    Multiplied(Applied, Applied),
}

/// An entry of `custom_keys`.
#[derive(Debug)]
struct Custom {
    key: String,
    at: Position,
    algorithm: Box<dyn AnyAlgorithm>,
    /// How its states are stored, where the entry says so or it is another optimizer.
    storing: Option<StorageOptions>,
    /// Whether it is another optimizer than the configuration's.
    other: bool,
}

/// `paramwise_cfg`, read.
#[derive(Debug)]
pub(crate) struct Paramwise {
    rules: Arc<Rules>,
    /// The algorithms of the groups that [`Rules::groups`] lists.
    algorithms: Vec<Box<dyn AnyAlgorithm>>,
}

/// What decides to which group a parameter belongs.
#[derive(Debug)]
struct Rules {
    /// In the order in which they are tried: longest first, then by alphabet.
    custom: Vec<Custom>,
    multipliers: Multipliers,
    /// The rules of the groups after the first.
    groups: Vec<Rule>,
}

/// What is known of a parameter in addition to its name.
#[derive(Clone, Copy, Debug)]
struct Traits {
    kind: ModuleKind,
    bias: bool,
    flat: bool,
    offset: bool,
}

const KEYS: [&str; 8] = [
    "custom_keys",
    "bias_lr_mult",
    "bias_decay_mult",
    "norm_decay_mult",
    "dwconv_decay_mult",
    "flat_decay_mult",
    "dcn_offset_lr_mult",
    "bypass_duplicate",
];

impl Multipliers {
    /// Returns the rule for a parameter that no custom key matches, in MMEngine's order.
    fn rule(&self, of: Traits) -> Rule {
        let norm = of.kind == ModuleKind::Norm;
        let mut lr = self.bias_lr.filter(|_| of.bias && !norm && !of.offset).map(|x| ("bias_lr_mult", x));
        if let (Some(x), true) = (self.dcn_offset_lr, of.offset) {
            lr = Some(("dcn_offset_lr_mult", x));
        }
        let decays = [
            ("norm_decay_mult", norm, self.norm_decay),
            ("bias_decay_mult", of.bias && !of.offset, self.bias_decay),
            ("dwconv_decay_mult", of.kind == ModuleKind::DepthwiseConv, self.dwconv_decay),
            ("flat_decay_mult", of.flat && !of.offset, self.flat_decay),
        ];
        let decay = decays.into_iter().find_map(|(name, fits, x)| Some((name, x.filter(|_| fits)?)));
        Rule::Multiplied(lr, decay)
    }

    /// Returns every rule that some parameter may come under, each once.
    fn rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        for (_, kind) in ModuleKind::ALL {
            for bits in 0..8 {
                let [bias, flat, offset] = [1, 2, 4].map(|bit| bits & bit != 0);
                let rule = self.rule(Traits { kind, bias, flat, offset });
                if rule != Rule::Multiplied(None, None) && !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
        }
        rules
    }
}

impl Rules {
    fn rule(&self, member: &ParamInfo<'_>) -> Rule {
        if let Some(place) = self.custom.iter().position(|custom| matches(&custom.key, member.name)) {
            return Rule::Custom(place);
        }
        let (module, own) = member.name.rsplit_once('.').unwrap_or(("", member.name));
        self.multipliers.rule(Traits {
            kind: member.kind,
            bias: own == "bias",
            flat: member.shape.rank() == 1,
            offset: module.contains("conv_offset"),
        })
    }
}

/// Returns whether a key matches: MMEngine puts the module's name and a dot in front, which is empty for the model
/// itself.
fn matches(key: &str, name: &str) -> bool {
    match name.contains('.') {
        true => name.contains(key),
        false => format!(".{name}").contains(key),
    }
}

impl Paramwise {
    /// Reads it, for the optimizer of a configuration: its node, and the algorithm that this means in a registry.
    pub(crate) fn read(
        node: &Node,
        (optimizer, base): (&Node, &dyn AnyAlgorithm),
        registry: &Registry,
    ) -> Result<Paramwise> {
        let dict = expect_dict(node, "paramwise_cfg")?;
        refuse_unknown(dict, node, "paramwise_cfg", &KEYS)?;
        if let Some(flag) = given(dict, "bypass_duplicate")
            && flag.value.as_bool().is_none()
        {
            return Err(wrong(flag, "bypass_duplicate", "True or False"));
        }
        let multipliers = Multipliers {
            bias_lr: multiplier(dict, "bias_lr_mult")?,
            dcn_offset_lr: multiplier(dict, "dcn_offset_lr_mult")?,
            norm_decay: multiplier(dict, "norm_decay_mult")?,
            bias_decay: multiplier(dict, "bias_decay_mult")?,
            dwconv_decay: multiplier(dict, "dwconv_decay_mult")?,
            flat_decay: multiplier(dict, "flat_decay_mult")?,
        };
        let mut custom = Vec::new();
        if let Some(keys) = given(dict, "custom_keys") {
            let keys_dict = expect_dict(keys, "custom_keys")?;
            for (key, entry) in keys_dict.iter() {
                let at = keys_dict.key_at(key).unwrap_or(&keys.at).clone();
                custom.push(read_custom((key, at), entry, (optimizer, base), registry)?);
            }
        }
        custom.sort_by(|a, b| {
            let length = |custom: &Custom| core::cmp::Reverse(custom.key.chars().count());
            length(a).cmp(&length(b)).then_with(|| a.key.cmp(&b.key))
        });
        let optimizer = expect_dict(optimizer, "an optimizer")?;
        let mut groups: Vec<Rule> = (0..custom.len()).map(Rule::Custom).collect();
        let mut algorithms: Vec<_> = custom.iter().map(|custom| custom.algorithm.boxed()).collect();
        for rule in multipliers.rules() {
            let Rule::Multiplied(lr, decay) = rule else { continue };
            let mut algorithm = base.boxed();
            for (name, applied) in [("lr", lr), ("weight_decay", decay)] {
                if let Some((key, factor)) = applied {
                    let node = given(dict, key).unwrap_or(node);
                    multiply(&mut *algorithm, optimizer, name, key, factor, node)?;
                }
            }
            groups.push(rule);
            algorithms.push(algorithm);
        }
        Ok(Paramwise { rules: Arc::new(Rules { custom, multipliers, groups }), algorithms })
    }

    /// Adds the groups to an optimizer that has one. Unless unmatched keys are allowed, the first step fails where
    /// one of them matches no parameter.
    pub(crate) fn add_to(&self, driver: &mut Driver, allow_unmatched: bool) -> fallline_optim::Result<()> {
        for (place, algorithm) in self.algorithms.iter().enumerate() {
            let (rules, rule) = (Arc::clone(&self.rules), self.rules.groups[place]);
            let other = matches!(rule, Rule::Custom(key) if self.rules.custom[key].other);
            let own = move |member: &ParamInfo<'_>| rules.rule(member) == rule;
            let group = driver.add_group_of(algorithm.boxed(), own, (!other).then_some(0))?;
            if let Rule::Custom(key) = rule
                && let Some(storing) = &self.rules.custom[key].storing
            {
                storing.apply(driver, group)?;
            }
        }
        if !allow_unmatched {
            for Custom { key, at, .. } in &self.rules.custom {
                let own = key.clone();
                driver.expect_match(&named(key, at), move |name| matches(&own, name));
            }
        }
        Ok(())
    }

    /// Returns the custom keys that match none of these names, with their positions.
    pub(crate) fn unmatched<'n>(
        &self,
        names: impl Iterator<Item = &'n str> + Clone,
    ) -> Vec<(String, Position)> {
        let none = |custom: &&Custom| !names.clone().any(|name| matches(&custom.key, name));
        let unmatched = self.rules.custom.iter().filter(none);
        unmatched.map(|Custom { key, at, .. }| (named(key, at), at.clone())).collect()
    }

    /// Returns the rule of a group, in a human-readable form.
    pub(crate) fn rule_of(&self, group: usize) -> String {
        let Some(place) = group.checked_sub(1) else { return BASE.into() };
        match self.rules.groups.get(place) {
            None => BASE.into(),
            Some(Rule::Custom(key)) => format!("custom_keys[{:?}]", self.rules.custom[*key].key),
            Some(Rule::Multiplied(lr, decay)) => {
                let names =
                    [lr, decay].into_iter().flatten().map(|(name, factor)| format!("{name}={factor}"));
                names.collect::<Vec<_>>().join(", ")
            }
        }
    }
}

/// The rule of parameters that no other decides for.
pub const BASE: &str = "optimizer";

fn named(key: &str, at: &Position) -> String {
    format!("{at}: paramwise_cfg.custom_keys[{key:?}]")
}

/// Returns the error of groups with a search, which takes all parameters together.
pub(crate) fn of_search(at: &Position) -> Error {
    let what = "paramwise_cfg with an algorithm that evaluates the loss itself".into();
    Error::Unsupported { at: at.clone(), what }
}

fn read_custom(
    (key, at): (&str, Position),
    entry: &Node,
    (optimizer, base): (&Node, &dyn AnyAlgorithm),
    registry: &Registry,
) -> Result<Custom> {
    let what = || format!("custom_keys[{key:?}]");
    let dict = expect_dict(entry, &what())?;
    let other = given(dict, "optimizer");
    let (mut own, whole) = match other {
        Some(node) => match method(node, registry)? {
            Method::Algorithm(algorithm) => (algorithm, node),
            Method::Search(_) => return Err(of_search(&node.at)),
        },
        None => (base.boxed(), optimizer),
    };
    let optimizer = expect_dict(whole, "an optimizer")?;
    if other.is_some()
        && let Some((key, at)) = OF_WHOLE.iter().find_map(|key| Some((key, optimizer.key_at(key)?)))
    {
        let what = format!("{key} of one group's optimizer");
        return Err(Error::Unsupported { at: at.clone(), what });
    }
    own = modifiers::in_group(own, base, (dict, optimizer), other.is_some())?;
    let stored = dict.keys().any(|key| STORING.contains(&key) && !OF_WHOLE.contains(&key));
    let storing = match stored || other.is_some() {
        true => {
            Some(StorageOptions::read(whole, Of::Algorithm(&*own))?.overridden(entry, Of::Algorithm(&*own))?)
        }
        false => None,
    };
    for (name, factor) in [("lr", "lr_mult"), ("weight_decay", "decay_mult")] {
        if let (Some(x), Some(node)) = (multiplier(dict, factor)?, dict.get(factor)) {
            multiply(&mut *own, optimizer, name, factor, x, node)?;
        }
    }
    // The other keys are hyperparameters of the group, as in torch's param_groups.
    let hyper = |name: &str| !["lr_mult", "decay_mult", "optimizer"].contains(&name);
    let hyper = |name: &str| hyper(name) && (OF_WHOLE.contains(&name) || !STORING.contains(&name));
    for (name, node) in dict.iter().filter(|(name, _)| hyper(name)) {
        let at = dict.key_at(name).unwrap_or(&entry.at).clone();
        if modifiers::is_off(&*own, name, node) {
            continue;
        }
        let value = convert(node).ok_or_else(|| wrong(node, name, "a number, a string or a list"))?;
        own.set(&[(name, value)]).map_err(|source| match source {
            HyperError::Unknown { known, .. } => {
                let known = known.iter().copied().chain(["lr_mult", "decay_mult", "optimizer"]);
                let nearest = nearest(name, known).map(str::to_owned);
                Error::UnknownKey { at: at.clone(), what: what(), key: name.to_owned(), nearest, hint: None }
            }
            source => Error::Hyper { at: node.at.clone(), source },
        })?;
        if own.modifiers().lookahead != base.modifiers().lookahead {
            return Err(modifiers::wrap_of_group(&at));
        }
    }
    Ok(Custom { key: key.to_owned(), at, algorithm: own, storing, other: other.is_some() })
}

/// Multiplies a hyperparameter. A weight decay must be in the configuration: what its default is is no one's plan.
fn multiply(
    algorithm: &mut dyn AnyAlgorithm,
    optimizer: &Dict,
    name: &'static str,
    key: &str,
    factor: f64,
    node: &Node,
) -> Result<()> {
    let given = name == "lr" || optimizer.get(name).is_some_and(|node| !node.value.is_none());
    match algorithm.get(name).and_then(|value| value.as_f64()).filter(|_| given) {
        Some(value) => algorithm
            .set(&[(name, Value::Float(value * factor))])
            .map_err(|source| Error::Hyper { at: node.at.clone(), source }),
        // Nothing is multiplied by 1: a key may be there for its other rules.
        None if factor == 1.0 && name == "lr" => Ok(()),
        None => {
            let what = format!("{key} must be left out, or {} given a {name}", algorithm.name());
            let hint = format!("there is no {name} to multiply");
            Err(Error::Misplaced { at: node.at.clone(), what, hint })
        }
    }
}

/// Returns the value of a key, unless it is `None`.
fn given<'a>(dict: &'a Dict, key: &str) -> Option<&'a Node> {
    dict.get(key).filter(|node| !node.value.is_none())
}

fn wrong(node: &Node, key: &str, expected: &str) -> Error {
    let (at, got) = (node.at.clone(), node.value.to_string());
    Error::Value { at, key: key.to_owned(), expected: expected.to_owned(), got }
}

fn multiplier(dict: &Dict, key: &str) -> Result<Option<f64>> {
    let Some(node) = given(dict, key) else { return Ok(None) };
    let number = node.value.as_float().filter(|x| x.is_finite());
    number.map(Some).ok_or_else(|| wrong(node, key, "a number"))
}
