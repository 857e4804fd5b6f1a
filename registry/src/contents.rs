//! What a configuration holds of what a recipe is made of, and what else is in it.

use crate::config::{Dict, Entries, Node, Value as Setting};
use crate::error::{Error, Result};
use crate::hints;
use crate::hooks;
use crate::length::Length;
use crate::mmcv;
use crate::schedulers::Chain;
use crate::wrapper::{self, Wrapped};
use fallline_optim::average::Average;
use fallline_optim::gradient_config::GradientConfig;

/// The optimizer of a configuration's entries, and its context.
pub(crate) struct Contents<'e> {
    pub(crate) wrapped: Wrapped<'e>,
    pub(crate) context: Context,
}

/// What a recipe knows in addition to its optimizer.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) chain: Chain,
    /// Of epochs of one iteration.
    pub(crate) length: Length,
    pub(crate) average: Option<Average>,
    pub(crate) warnings: Vec<String>,
    /// The keys that were read, and the others.
    pub(crate) read: Vec<String>,
    pub(crate) ignored: Vec<String>,
    /// All that was needed, which reads back to the same recipe.
    pub(crate) source: Node,
}

/// The keys of `train_cfg` that say how long training is.
const OF_LENGTH: [&str; 4] = ["type", "by_epoch", "max_epochs", "max_iters"];

/// Returns a configuration that is one dict with a `type`: an optimizer, or an `optim_wrapper`.
pub(crate) fn whole(entries: &Entries) -> Result<Option<Node>> {
    // No file that is not read (another package's base) has this key.
    match entries.get_present("type")? {
        Some(_) => Ok(Some(Node::new(Setting::Dict(entries.to_dict()?), entries.at().clone()))),
        None => Ok(None),
    }
}

/// Returns the `optim_wrapper` or the bare optimizer of a configuration.
pub(crate) fn optimizer<'e>(entries: &'e Entries, whole: Option<&'e Node>) -> Result<(&'e Node, bool)> {
    if let Some(whole) = whole {
        return Ok((whole, hints::is_wrapper(whole)));
    }
    if let Some(around) = entries.get("optim_wrapper")?.filter(|node| !node.value.is_none()) {
        return Ok((around, true));
    }
    hints::check_top(entries)?;
    if let Some(list) = entries.list()? {
        let what = "this is a list, and a configuration is a dict".into();
        let hint = "`fallline schedule` takes a list of schedulers".into();
        return Err(Error::Misplaced { at: list.at.clone(), what, hint });
    }
    let optimizer = entries.get("optimizer")?.ok_or_else(|| Error::Missing {
        at: entries.at().clone(),
        what: "a configuration".into(),
        key: "optim_wrapper",
    })?;
    Ok((optimizer, hints::is_wrapper(optimizer)))
}

impl<'e> Contents<'e> {
    /// Takes a configuration apart; `whole` where it is one dict with a type.
    pub(crate) fn read(entries: &'e Entries, whole: Option<&'e Node>) -> Result<Contents<'e>> {
        let (node, is_wrapper) = optimizer(entries, whole)?;
        let mut wrapped = match is_wrapper {
            true => wrapper::read(node)?,
            false => Wrapped { optimizer: node, paramwise: None, wrapper: GradientConfig::default() },
        };
        let mut context = Context {
            chain: Chain::default(),
            length: Length::new(1),
            average: None,
            warnings: Vec::new(),
            read: entries.keys().map(str::to_owned).collect(),
            ignored: Vec::new(),
            source: node.clone(),
        };
        if is_wrapper {
            context.warnings.extend(wrapper::read_as(node));
        } else if whole.is_some() {
            return Ok(Contents { wrapped, context });
        }
        let mut source = Dict::new();
        if whole.is_none() {
            hints::check_top(entries)?;
            context.chain = Chain::from_entries(entries)?;
            context.length = match Length::from_entries(entries, 1) {
                Err(_) if !context.chain.needs_length() => Length::new(1),
                read => read?,
            };
        }
        let plain = wrapped.paramwise.is_none() && wrapped.wrapper == GradientConfig::default();
        match is_wrapper && !plain {
            true => source.insert("optim_wrapper", node.clone()),
            false => source.insert("optimizer", wrapped.optimizer.clone()),
        };
        let mut read =
            vec![if entries.key_at("optim_wrapper").is_some() { "optim_wrapper" } else { "optimizer" }];
        if !is_wrapper {
            hints::check_beside(entries)?;
            let old = mmcv::read(entries)?;
            context.warnings.extend(old.warnings);
            if let Some((clip, node)) = old.clip {
                wrapped.wrapper.clip = Some(clip);
                source.insert("optimizer_config", node.clone());
                read.push("optimizer_config");
            }
        }
        for key in ["param_scheduler", "train"] {
            if let Some(node) = entries.get_present(key)?.filter(|_| whole.is_none()) {
                source.insert(key, node.clone());
                read.push(key);
            }
        }
        if context.length.is_known() && !has_epochs(entries)? {
            read.push("train_cfg");
            source.insert("train_cfg", of_length(entries)?);
        }
        let hooks = hooks::read(entries)?;
        context.average = hooks.average;
        context.warnings.extend(hooks.warnings);
        if let Some(hook) = hooks.source {
            read.push("custom_hooks");
            source.insert("custom_hooks", Node::new(Setting::List(vec![hook]), entries.at().clone()));
        }
        if whole.is_none() {
            let is_read = |key: &str| read.contains(&key);
            context.ignored = entries.keys().filter(|key| !is_read(key)).map(str::to_owned).collect();
            // Without any that is read, the key is ignored, and each of them with it.
            context.ignored.extend(hooks.ignored.into_iter().filter(|_| is_read("custom_hooks")));
            context.read = read.into_iter().map(str::to_owned).collect();
        }
        context.source = Node::new(Setting::Dict(source), entries.at().clone());
        Ok(Contents { wrapped, context })
    }
}

/// Returns whether `train` says how many epochs there are.
fn has_epochs(entries: &Entries) -> Result<bool> {
    let train = entries.get_present("train")?.and_then(|node| node.value.as_dict());
    Ok(train.is_some_and(|dict| dict.contains_key("epochs")))
}

/// Returns what `train_cfg` says of the length of training.
fn of_length(entries: &Entries) -> Result<Node> {
    let mut own = Dict::new();
    let Some(node) = entries.get_present("train_cfg")? else { return Ok(own.into()) };
    for (key, value) in node.value.as_dict().into_iter().flat_map(Dict::iter) {
        if OF_LENGTH.contains(&key) {
            own.insert(key, value.clone());
        }
    }
    Ok(Node::new(own, node.at.clone()))
}
