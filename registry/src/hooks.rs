//! The key `custom_hooks`: MMEngine's `EMAHook` is an average of the weights; other hooks are the training loop's.

use crate::config::{Dict, Entries, Node, Value};
use crate::error::{Error, Result};
use crate::hints::slip;
use crate::near::known_are;
use crate::read::{bare_name, refuse_unknown};
use crate::wrapper;
use fallline_optim::average::Average;

/// What `custom_hooks` says of averaging.
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) average: Option<Average>,
    /// The hook that it was read from.
    pub(crate) source: Option<Node>,
    pub(crate) warnings: Vec<String>,
    /// The others, as `custom_hooks[0] (Name)`.
    pub(crate) ignored: Vec<String>,
}

/// The hook that is read.
const EMA: &str = "EMAHook";
/// The arguments that say when and how the hook runs.
const OF_HOOK: [&str; 6] = ["type", "priority", "strict_load", "ema_type", "begin_iter", "begin_epoch"];
/// Those of the average that concern buffers and devices.
const ASIDE: [&str; 2] = ["update_buffers", "device"];
/// Those that are read.
const READ: [&str; 3] = ["momentum", "interval", "gamma"];

/// Reads it. What cannot be read is no error: hooks are the training loop's business.
pub(crate) fn read(entries: &Entries) -> Result<Hooks> {
    let mut hooks = Hooks::default();
    let Ok(Some(node)) = entries.get_present("custom_hooks") else { return Ok(hooks) };
    for (place, hook) in node.value.as_list().unwrap_or_default().iter().enumerate() {
        let Some(dict) = hook.value.as_dict() else { continue };
        let kind = dict.get("type").and_then(|kind| kind.value.as_str()).map(bare_name);
        if let (Some(name), Some(node)) = (kind.filter(|kind| slip(kind, [EMA]).is_some()), dict.get("type"))
        {
            return Err(Error::UnknownName {
                at: node.at.clone(),
                what: "hook",
                name: name.to_owned(),
                nearest: Some(EMA.to_owned()),
                known: known_are([EMA]),
            });
        }
        let own = format!("custom_hooks[{place}] ({})", kind.unwrap_or("no type"));
        if kind != Some(EMA) {
            hooks.ignored.push(own);
            continue;
        }
        let at = &hook.at;
        let mut pass = |why: String| {
            hooks.ignored.push(own.clone());
            hooks.warnings.push(format!("{at}: {own} is not read: {why}"));
        };
        if hooks.average.is_some() {
            pass("there is one already".into());
            continue;
        }
        let begins = ["begin_iter", "begin_epoch"]
            .into_iter()
            .find(|key| dict.get(key).is_some_and(|node| node.value.as_int() != Some(0)));
        if let Some(key) = begins {
            pass(format!("an average that begins later ({key}) is not supported"));
            continue;
        }
        let ema_type = dict.get("ema_type").map(|node| &node.value);
        let own = match ema_type {
            None => "ExponentialMovingAverage",
            Some(Value::Str(name)) => bare_name(name),
            Some(_) => "",
        };
        if !wrapper::AVERAGES.iter().any(|(name, _)| *name == own) {
            let known = wrapper::AVERAGES.map(|(name, _)| name).join(", ");
            pass(format!("ema_type={} is none of {known}", ema_type.unwrap_or(&Value::None)));
            continue;
        }
        let average = average(hook, dict, own)?;
        hooks.warnings.extend(average.warning().map(|warning| format!("{at}: {warning}")));
        hooks.average = Some(average);
        hooks.source = Some(hook.clone());
    }
    Ok(hooks)
}

fn average(hook: &Node, dict: &Dict, kind: &str) -> Result<Average> {
    let known: Vec<&str> = OF_HOOK.into_iter().chain(ASIDE).chain(READ).collect();
    refuse_unknown(dict, hook, EMA, &known)?;
    let mut own = Dict::new();
    own.insert("type", Node::new(kind, hook.at.clone()));
    for (key, node) in dict.iter().filter(|(key, _)| READ.contains(key)) {
        own.insert_at(key, dict.key_at(key).unwrap_or(&hook.at).clone(), node.clone());
    }
    wrapper::average(&Node::new(own, hook.at.clone()))
}
