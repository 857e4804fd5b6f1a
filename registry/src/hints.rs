//! Keys that mean something, but not where they are; and names that other projects have.

use crate::config::{Dict, Entries, Node, Position};
use crate::error::{Error, Result};
use crate::near::nearest;
use crate::read::bare_name;

/// The keys of an `optim_wrapper` that people write next to or into its optimizer.
const OF_WRAPPER: [&str; 4] = ["clip_grad", "paramwise_cfg", "accumulative_counts", "loss_scale"];

/// What other projects call a hyperparameter (in small letters, without `_` and `-`), and what it is called here.
const FOREIGN: [(&str, &[&str]); 17] = [
    ("learningrate", &["lr"]),
    ("lrate", &["lr"]),
    ("baselr", &["lr"]),
    ("stepsize", &["lr"]),
    ("eta", &["lr"]),
    ("beta", &["betas", "momentum"]),
    ("beta1", &["betas", "momentum"]),
    ("beta2", &["betas"]),
    ("b1", &["betas", "momentum"]),
    ("b2", &["betas"]),
    ("epsilon", &["eps"]),
    ("wd", &["weight_decay"]),
    ("decay", &["weight_decay"]),
    ("decayrate", &["weight_decay"]),
    ("weightdecayrate", &["weight_decay"]),
    ("l2", &["weight_decay"]),
    ("mu", &["momentum"]),
];

/// Returns the one of some names that a key is, but for one slip of the fingers; none for the name itself.
pub(crate) fn slip<'n>(key: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let lower = key.to_lowercase();
    let is_as_long = |name: &str| key.chars().count().abs_diff(name.chars().count()) <= 1;
    let near = |name: &&str| {
        *name != key && is_as_long(name) && strsim::damerau_levenshtein(&lower, &name.to_lowercase()) <= 1
    };
    names.into_iter().find(near)
}

/// Returns the key of an `optim_wrapper` that a key is or is meant to be.
fn of_wrapper(key: &str) -> Option<&'static str> {
    // MMCV 1.x, Lightning and transformers have it the other way round.
    if matches!(key, "grad_clip" | "gradient_clip" | "gradient_clip_val" | "max_grad_norm") {
        return Some("clip_grad");
    }
    OF_WRAPPER.into_iter().find(|name| *name == key).or_else(|| slip(key, OF_WRAPPER))
}

/// Refuses keys next to a bare `optimizer` that only mean something in an `optim_wrapper`: they would be ignored.
pub(crate) fn check_beside(entries: &Entries) -> Result<()> {
    for key in entries.keys() {
        if let Some(meant) = of_wrapper(key) {
            let at = entries.key_at(key).unwrap_or(entries.at()).clone();
            let what = format!("`{key}` beside a bare `optimizer` would be ignored");
            return Err(Error::Misplaced { at, what, hint: belongs(meant) });
        }
    }
    Ok(())
}

fn belongs(key: &str) -> String {
    format!(
        "it belongs beside `optimizer` in `optim_wrapper`: optim_wrapper=dict(optimizer=dict(…), {key}=…)"
    )
}

/// Refuses keys at the top that are those read here but for one slip, where these are not there themselves.
pub(crate) fn check_top(entries: &Entries) -> Result<()> {
    let wrapped = entries.key_at("optim_wrapper").is_some();
    let read = ["optim_wrapper", "optimizer", "param_scheduler", "train_cfg"];
    for name in read.into_iter().filter(|name| entries.key_at(name).is_none()) {
        let Some(key) = entries.keys().find(|key| slip(key, [name]).is_some()) else { continue };
        if name == "optimizer" && wrapped {
            continue;
        }
        let at = entries.key_at(key).unwrap_or(entries.at()).clone();
        let (what, key, nearest) = ("a configuration".into(), key.to_owned(), Some(name.to_owned()));
        return Err(Error::UnknownKey { at, what, key, nearest, hint: None });
    }
    Ok(())
}

/// Returns the error about a key that an optimizer has not.
pub(crate) fn unknown_hyper(
    (algorithm, dict, node): (&str, &Dict, &Node),
    key: &str,
    known: impl IntoIterator<Item = &'static str>,
) -> Error {
    let known: Vec<&str> = known.into_iter().collect();
    let at = dict.key_at(key).unwrap_or(&node.at).clone();
    if key == "_delete_" {
        let what = "there is nothing below this dict that `_delete_` could replace".into();
        let hint = "leave it out, or name the base in `_base_`".into();
        return Error::Misplaced { at, what, hint };
    }
    if let Some(meant) = of_wrapper(key) {
        let what = format!("{algorithm} has no {key:?}");
        return Error::Misplaced { at, what, hint: belongs(meant) };
    }
    let of_type = dict.get("type").and_then(|kind| changed_by(&kind.at));
    let hint = match (of_type, changed_by(&at)) {
        (Some(path), None) => {
            let path = path.strip_suffix("type").unwrap_or(path).trim_end_matches('.');
            let all = if path.is_empty() { "optimizer" } else { path };
            format!(
                "`--set` changes the type and keeps this key: \
                 --set '{all}=dict(_delete_=True, type={algorithm:?}, …)' replaces all of the optimizer"
            )
        }
        (None, None) if from_base(dict, &at) => {
            "it comes from the base: `_delete_=True` in this dict replaces all that the base has".to_owned()
        }
        _ => format!("it has {}", known.join(", ")),
    };
    let plain: String = key.to_lowercase().chars().filter(|c| !matches!(c, '_' | '-')).collect();
    let foreign = FOREIGN.iter().find(|(name, _)| *name == plain).into_iter().flat_map(|(_, names)| *names);
    let foreign = foreign.copied().find(|name| known.contains(name));
    let nearest = foreign.or_else(|| nearest(key, known.iter().copied())).map(str::to_owned);
    Error::UnknownKey { at, what: algorithm.to_owned(), key: key.to_owned(), nearest, hint: Some(hint) }
}

/// Returns the path of the `--set` that a position is in, if it is in one.
fn changed_by(at: &Position) -> Option<&str> {
    let rest = at.file.as_ref()?.strip_prefix("--set")?;
    (rest.is_empty() || rest.starts_with(' ')).then(|| rest.trim())
}

/// Returns whether a key comes from another file than the type next to it.
fn from_base(dict: &Dict, at: &Position) -> bool {
    let of_type = dict.get("type").and_then(|kind| kind.at.file.as_ref());
    of_type.is_some() && at.file.is_some() && of_type != at.file.as_ref()
}

/// Returns whether a dict says that it is an `optim_wrapper`.
pub(crate) fn is_wrapper(node: &Node) -> bool {
    let kind = node.value.as_dict().and_then(|dict| dict.get("type")).and_then(|kind| kind.value.as_str());
    kind.is_some_and(|kind| bare_name(kind).ends_with("OptimWrapper"))
}

/// Returns the names under which a dict holds several of something: MMEngine's `OptimWrapperDict`.
pub(crate) fn several(dict: &Dict, is_one: impl Fn(&Node) -> bool) -> Option<Vec<&str>> {
    let names: Vec<&str> = dict.iter().filter(|(_, node)| is_one(node)).map(|(key, _)| key).collect();
    (!names.is_empty()).then_some(names)
}
