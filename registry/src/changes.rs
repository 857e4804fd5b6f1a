//! Changes of a configuration from outside it, before it is read.

use crate::config::{Change, Dict, Entries, Node};
use crate::contents::whole;
use crate::error::{Error, Result};
use crate::hints;
use crate::near::nearest;

/// The keys at the top that a recipe or `fallline train` reads.
const READ: [&str; 7] = [
    "optim_wrapper",
    "optimizer",
    "optimizer_config",
    "param_scheduler",
    "train",
    "train_cfg",
    "custom_hooks",
];

/// Changes a configuration. At the top, only keys that are read, or that are there, can be set.
///
/// ```
/// use fallline_registry::config::{Change, Entries};
/// use fallline_registry::{AnyRecipe, Registry, change};
/// let mut entries = Entries::inline("dict(type='AdamW', lr=0.1)")?;
/// change(&mut entries, &Change::parse("lr=1e-3", "--set")?)?;
/// let recipe = AnyRecipe::from_entries(&entries, &Registry::standard())?.stepping()?;
/// assert_eq!(recipe.algorithm().get("lr").unwrap().as_f64(), Some(1e-3));
/// # Ok::<(), fallline_registry::Error>(())
/// ```
///
/// # Errors
/// A key at the top means nothing, or the path leads nowhere ([`Entries::change`]). Nothing is changed then.
pub fn change(entries: &mut Entries, change: &Change) -> Result<()> {
    let Some((key, at)) = change.top() else { return Ok(()) };
    let is_new = entries.key_at(key).is_none();
    let is_whole = entries.key_at("type").is_some();
    let other = match key {
        "optimizer" => "optim_wrapper",
        _ => "optimizer",
    };
    if is_new && !is_whole && !READ.contains(&key) {
        return Err(Error::UnknownKey {
            at: at.clone(),
            what: "a configuration".into(),
            key: key.to_owned(),
            nearest: nearest(key, READ).map(str::to_owned),
            hint: Some(format!("it has {}", READ.join(", "))),
        });
    }
    if is_new && !is_whole && ["optim_wrapper", "optimizer"].contains(&key) && entries.key_at(other).is_some()
    {
        let inner = if other == "optimizer" { "optimizer" } else { "optim_wrapper.optimizer" };
        let hint = format!("the optimizer is `{inner}` there");
        return Err(Error::Misplaced {
            at: at.clone(),
            what: format!("the configuration has no `{key}`"),
            hint,
        });
    }
    let path = change.path();
    if let (true, Some(below)) = (is_new && is_whole, path.strip_prefix("optim_wrapper."))
        && let Some(node) = whole(entries)?
    {
        let own = if hints::is_wrapper(&node) { Some(below) } else { below.strip_prefix("optimizer.") };
        let hint = match own {
            Some(own) => format!("its keys are at the top: `--set {own}=…`"),
            None => "that takes dict(optimizer=dict(…), …)".to_owned(),
        };
        let what = "an optimizer alone has no `optim_wrapper`".to_owned();
        return Err(Error::Misplaced { at: at.clone(), what, hint });
    }
    if is_new && is_whole && READ.contains(&key) {
        // What is one dict with a type becomes the optimizer of a configuration with several keys.
        let mut several = several(entries)?;
        several.change(change)?;
        *entries = several;
        return Ok(());
    }
    Ok(entries.change(change)?)
}

/// Returns a configuration that is one dict with a type, as the optimizer of one with several keys.
fn several(entries: &Entries) -> Result<Entries> {
    let mut dict = Dict::new();
    if let Some(whole) = whole(entries)? {
        dict.insert("optimizer", whole);
    }
    Ok(dict.into())
}

/// Replaces the optimizer of a configuration by another text's. What else the text has replaces that of the
/// configuration, too.
///
/// # Errors
/// The text or the configuration cannot be read. Nothing is changed then.
pub fn replace_optimizer(entries: &mut Entries, text: &str) -> Result<()> {
    let given = Entries::inline(text)?;
    let mut changed = if entries.key_at("type").is_some() { several(entries)? } else { entries.clone() };
    let wrapped = changed.key_at("optim_wrapper").is_some();
    let replaced: Vec<(Vec<&str>, Node)> = match whole(&given)? {
        Some(node) if hints::is_wrapper(&node) && !wrapped => vec![(vec!["optimizer"], node)],
        Some(node) if hints::is_wrapper(&node) => vec![(vec!["optim_wrapper"], node)],
        Some(node) if wrapped => vec![(vec!["optim_wrapper", "optimizer"], node)],
        Some(node) => vec![(vec!["optimizer"], node)],
        None => {
            let mut each = Vec::new();
            for key in given.keys() {
                if let Some(node) = given.get_present(key)? {
                    each.push((vec![key], node.clone()));
                }
            }
            each
        }
    };
    for (path, node) in replaced {
        changed.change(&Change::replacing(&path, node))?;
    }
    *entries = changed;
    Ok(())
}
