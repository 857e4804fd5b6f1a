//! Whether the options of a resumed run agree with those that it was started with.

use super::Args;
use fallline::registry::config::{Node, Value, parse_inline};

/// A value that differs between a configuration and that of a run.
#[derive(Debug, PartialEq)]
pub struct Difference {
    /// The path to it.
    pub path: String,
    /// What the run has there.
    has: String,
    /// What the configuration has there.
    asked: String,
}

/// Returns the first difference between a configuration and the one that a run was begun with. What earlier versions did
/// not read, they did not keep.
pub fn difference(asked: &str, saved: &str) -> Option<Difference> {
    let added = ["train_cfg", "custom_hooks", "optimizer_config"];
    let (Ok(asked), Ok(saved)) = (parse_inline(asked), parse_inline(saved)) else { return None };
    let (mut asked, saved) = (asked.value, saved.value);
    if let (Value::Dict(asked), Value::Dict(saved)) = (&mut asked, &saved) {
        for key in added.into_iter().filter(|key| !saved.contains_key(key)) {
            asked.remove(key);
        }
    }
    between("", &asked, &saved)
}

fn between(path: &str, asked: &Value, has: &Value) -> Option<Difference> {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (asked, has) {
        _ if asked == has => None,
        (Value::Dict(asked), Value::Dict(has)) => {
            let mut keys = asked.keys().chain(has.keys().filter(|key| !asked.contains_key(key)));
            keys.find_map(|key| match (asked.get(key), has.get(key)) {
                (Some(asked), Some(has)) => between(&below(key), &asked.value, &has.value),
                (asked, has) => Some(Difference { path: below(key), has: told(has), asked: told(asked) }),
            })
        }
        (Value::List(asked), Value::List(has)) if asked.len() == has.len() => {
            let mut pairs = asked.iter().zip(has).enumerate();
            pairs.find_map(|(place, (asked, has))| {
                between(&below(&place.to_string()), &asked.value, &has.value)
            })
        }
        _ => Some(Difference { path: path.to_owned(), has: has.to_string(), asked: asked.to_string() }),
    }
}

fn told(node: Option<&Node>) -> String {
    node.map_or_else(|| "not set".into(), |node| node.value.to_string())
}

/// The path of the wrapper that a run's optimizer may be in.
const WRAPPER: &str = "optim_wrapper.";

/// Returns the paths of `--set` as a run's configuration has them, which keeps the optimizer in a wrapper or bare.
pub fn laid_out(set: &[String], saved: &str) -> Vec<String> {
    let saved = parse_inline(saved).map(|node| node.value);
    let has = |key: &str| matches!(&saved, Ok(Value::Dict(saved)) if saved.contains_key(key));
    let is_bare = !has("optim_wrapper") && has("optimizer");
    let in_layout = |text: &String| match text.trim_start().strip_prefix(WRAPPER) {
        Some(inner) if is_bare && is_optimizer(inner) => inner.to_owned(),
        None if has("optim_wrapper") && is_optimizer(text.trim_start()) => {
            format!("{WRAPPER}{}", text.trim_start())
        }
        _ => text.clone(),
    };
    set.iter().map(in_layout).collect()
}

fn is_optimizer(path: &str) -> bool {
    path.strip_prefix("optimizer").is_some_and(|rest| rest.trim_start().starts_with(['.', '=']))
}

impl Difference {
    /// Says what asks for it, what the run has and what is asked for.
    pub fn refusal(&self, args: &Args, folder: &str) -> String {
        let Difference { path, has, asked } = self;
        let culprit = self.culprit(args);
        format!(
            "{culprit} is not the configuration that {folder} was started with: {path} is {has} there, and {asked} is asked for"
        )
    }

    /// Returns the argument that asks for it.
    fn culprit(&self, args: &Args) -> String {
        let bare = |path: &str| path.strip_prefix(WRAPPER).unwrap_or(path).to_owned();
        let path = bare(&self.path);
        let within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let of = |text: &String| text.split('=').next().unwrap_or_default().trim().to_owned();
        let set = args.changes.set.iter().rev().map(of);
        let set = set.map(|own| (bare(&own), own)).find(|(own, _)| within(&path, own) || within(own, &path));
        match (set, &args.config) {
            _ if args.seed.is_some() && path == "train.seed" => "--seed".into(),
            (Some((_, own)), _) => format!("--set {own}"),
            _ if args.optimizer.is_some() && within(&path, "optimizer") => "--optimizer".into(),
            (None, Some(config)) => config.display().to_string(),
            (None, None) => "what --optimizer, --set and --seed ask for".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_told() {
        let saved = "dict(optimizer=dict(type='AdamW', lr=0.1), train=dict(hidden=[4, 5]))";
        assert_eq!(difference(saved, saved), None);
        let told = |asked: &str| {
            let found = difference(asked, saved).unwrap();
            (found.path, found.has, found.asked)
        };
        let part = |path: &str, has: &str, asked: &str| (path.to_owned(), has.to_owned(), asked.to_owned());
        assert_eq!(told(&saved.replace("0.1", "0.2")), part("optimizer.lr", "0.1", "0.2"));
        assert_eq!(told(&saved.replace("5]", "6]")), part("train.hidden.1", "5", "6"));
        assert_eq!(told(&saved.replace(", lr=0.1", "")), part("optimizer.lr", "0.1", "not set"));
    }

    #[test]
    fn paths_follow_the_layout_of_the_run() {
        let set = ["optim_wrapper.optimizer.lr=1", "optimizer.lr=1", "train.seed=2"].map(str::to_owned);
        let bare = laid_out(&set, "dict(optimizer=dict(type='SGD'))");
        assert_eq!(bare, ["optimizer.lr=1", "optimizer.lr=1", "train.seed=2"]);
        let wrapped = laid_out(&set, "dict(optim_wrapper=dict(optimizer=dict(type='SGD')))");
        assert_eq!(wrapped, ["optim_wrapper.optimizer.lr=1", "optim_wrapper.optimizer.lr=1", "train.seed=2"]);
    }
}
