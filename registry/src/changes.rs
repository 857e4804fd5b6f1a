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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AnyRecipe, Recipe, Registry};

    fn recipe(entries: &Entries) -> Recipe {
        AnyRecipe::from_entries(entries, &Registry::standard()).unwrap().stepping().unwrap()
    }

    fn changed(config: &str, text: &str) -> Result<String> {
        let mut entries = Entries::inline(config)?;
        change(&mut entries, &Change::parse(text, "--set")?)?;
        Ok(recipe(&entries).to_source())
    }

    #[test]
    fn keys_at_the_top_are_those_that_are_read() {
        let wrapped = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))\nmodel = dict(a=1)\n";
        let source = changed(wrapped, "optim_wrapper.optimizer.lr=0.5").unwrap();
        assert_eq!(source, r#"dict(optimizer=dict(type="SGD", lr=0.5))"#);
        assert!(changed(wrapped, "train.seed=3").unwrap().contains("train=dict(seed=3)"));
        assert!(changed(wrapped, "model.a=2").is_ok());
        let bare = "dict(type='SGD', lr=0.1)";
        assert_eq!(changed(bare, "momentum=0.9").unwrap(), r#"dict(type="SGD", lr=0.1, momentum=0.9)"#);
        assert_eq!(
            changed(bare, "train.seed=3").unwrap(),
            r#"dict(optimizer=dict(type="SGD", lr=0.1), train=dict(seed=3))"#
        );
        for (config, text, error) in [
            (wrapped, "optim_wraper.optimizer.lr=1", "did you mean \"optim_wrapper\"?"),
            (wrapped, "learning=1", "it has optim_wrapper, optimizer"),
            (wrapped, "optimizer.lr=1", "the optimizer is `optim_wrapper.optimizer` there"),
            (
                "optimizer = dict(type='SGD')\n",
                "optim_wrapper.optimizer.lr=1",
                "the optimizer is `optimizer` there",
            ),
            (bare, "lerning_rate=1", "\"lerning_rate\""),
            (bare, "optim_wrapper.optimizer.lr=3", "its keys are at the top: `--set lr=…`"),
            (bare, "optim_wrapper.clip_grad.max_norm=3", "that takes dict(optimizer=dict(…), …)"),
        ] {
            let told = match Entries::inline(config).map_err(Error::from).and_then(|mut entries| {
                change(&mut entries, &Change::parse(text, "--set")?)?;
                AnyRecipe::from_entries(&entries, &Registry::standard()).map(|_| ())
            }) {
                Ok(()) => panic!("{text} is taken"),
                Err(told) => told,
            };
            assert!(
                told.to_string().starts_with("--set:1:1: ") && told.to_string().contains(error),
                "{told}"
            );
        }
    }

    #[test]
    fn the_optimizer_is_replaced_where_it_stands() {
        let wrapped = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1), clip_grad=dict(max_norm=1))\n\
                       param_scheduler = dict(type='StepLR', step_size=3)\n";
        for (config, text, source) in [
            (
                wrapped,
                "Lion",
                r#"dict(optim_wrapper=dict(optimizer=dict(type="Lion"), clip_grad=dict(max_norm=1)), "#,
            ),
            (
                wrapped,
                "dict(type='OptimWrapper', optimizer=dict(type='Lion'))",
                r#"dict(optimizer=dict(type="Lion"), "#,
            ),
            ("dict(type='SGD', lr=0.1)", "Lion", r#"dict(optimizer=dict(type="Lion"))"#),
            (
                "optimizer = dict(type='SGD')\n",
                "dict(type='Lion', lr=0.5)",
                r#"dict(optimizer=dict(type="Lion", lr=0.5))"#,
            ),
            (
                wrapped,
                "optim_wrapper = dict(optimizer=dict(type='Lion'))\n",
                r#"dict(optimizer=dict(type="Lion"), "#,
            ),
        ] {
            let mut entries = Entries::inline(config).unwrap();
            replace_optimizer(&mut entries, text).unwrap();
            let told = recipe(&entries).to_source();
            assert!(told.starts_with(source), "{text}: {told}");
        }
        let mut entries = Entries::inline(wrapped).unwrap();
        assert!(replace_optimizer(&mut entries, "dict(type=").is_err());
        assert_eq!(recipe(&entries).algorithm().name(), "SGD");
    }
}
