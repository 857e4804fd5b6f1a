//! Changes of a configuration from outside it, as a command line makes them: `optimizer.lr=1e-3`.

use super::entries::Entries;
use super::error::{ConfigError, nearest};
use super::inline::literal;
use super::merge::DELETE;
use super::value::{Dict, Node, Position, Value};

/// A change: the dotted path of a value, and what it becomes.
///
/// Keys and indices of lists are separated by dots. The value is a Python literal, or a word without quotes. As in
/// MMEngine's `--cfg-options`, a dict merges into a dict, unless `_delete_=True` is in it.
///
/// ```
/// use fallline_config::{Change, parse_python};
/// let mut entries = parse_python("optimizer = dict(type='SGD', lr=0.1, betas=[0.9, 0.99])", "a.py")?;
/// for text in ["optimizer.lr=1e-3", "optimizer.betas.1=0.95", "optimizer.type=AdamW"] {
///     entries.change(&Change::parse(text, "--set")?)?;
/// }
/// let optimizer = entries.get("optimizer")?.unwrap();
/// assert_eq!(optimizer.to_string(), r#"dict(type="AdamW", lr=0.001, betas=[0.9, 0.95])"#);
/// # Ok::<(), fallline_config::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Change {
    path: Vec<Key>,
    value: Node,
}

/// A key or an index of a path, and its position.
#[derive(Debug, Clone)]
struct Key {
    text: String,
    at: Position,
}

impl Change {
    /// Reads `PATH=VALUE`. Positions are those in this text, as if it were the file `name`.
    pub fn parse(text: &str, name: &str) -> Result<Change, ConfigError> {
        let at = |column: usize| Position { file: Some(name.into()), line: 1, column: column as u32 };
        let expected = |column: usize, expected: &str, got: &str| ConfigError::Syntax {
            at: at(column),
            expected: expected.into(),
            got: got.into(),
        };
        let Some((path, value)) = text.split_once('=') else {
            return Err(expected(text.chars().count() + 1, "`=` and a value", "the end"));
        };
        let (mut keys, mut column) = (Vec::new(), 1);
        for part in path.split('.') {
            if part.trim().is_empty() {
                return Err(expected(column, "a key", "nothing"));
            }
            keys.push(Key { text: part.trim().to_owned(), at: at(column) });
            column += part.chars().count() + 1;
        }
        // Spaces in place of the path, so that columns are right.
        let padded = format!("{}{value}", " ".repeat(path.chars().count() + 1));
        Ok(Change { path: keys, value: literal(&padded, name)? })
    }

    /// Creates a change that replaces what a path of keys leads to. An empty path changes nothing.
    pub fn replacing(path: &[&str], mut value: Node) -> Change {
        let at = value.at.clone();
        if let Value::Dict(dict) = &mut value.value {
            dict.insert_at(DELETE, at.clone(), Node::new(true, at.clone()));
        }
        let key = |text: &&str| Key { text: (*text).to_owned(), at: at.clone() };
        Change { path: path.iter().map(key).collect(), value }
    }

    /// Returns the path: keys and indices with dots between them.
    pub fn path(&self) -> String {
        self.path.iter().map(|key| key.text.as_str()).collect::<Vec<_>>().join(".")
    }

    /// Returns the key at the top, and its position.
    pub fn top(&self) -> Option<(&str, &Position)> {
        self.path.first().map(|key| (&*key.text, &key.at))
    }
}

impl Entries {
    /// Changes a value. A key that is missing is added, with the dicts above it, unless the dict has
    /// one that is spelled nearly so.
    ///
    /// # Errors
    /// The path leads through something that is no dict or list, an index is outside its list, or a key seems to be
    /// misspelled. Nothing is changed then.
    pub fn change(&mut self, change: &Change) -> Result<(), ConfigError> {
        let Some((top, rest)) = change.path.split_first() else { return Ok(()) };
        if let Some(list) = self.list()? {
            let expected = "a configuration that is a dict".to_owned();
            let got = list.value.type_name().to_owned();
            return Err(ConfigError::Type { at: top.at.clone(), expected, got });
        }
        let mut node = self.get_present(&top.text)?.cloned();
        if node.is_none() && !rest.is_empty() {
            refuse_near(top, self.keys())?;
        }
        match &mut node {
            Some(node) => put(node, rest, &change.value)?,
            None => node = Some(under(rest, &change.value)),
        }
        if let Some(node) = node {
            self.insert(&top.text, top.at.clone(), node);
        }
        Ok(())
    }
}

/// Refuses a key that one of these is spelled nearly like.
fn refuse_near<'k>(key: &Key, known: impl Iterator<Item = &'k str>) -> Result<(), ConfigError> {
    match nearest(&key.text, known) {
        None => Ok(()),
        near => Err(ConfigError::MissingKey { at: key.at.clone(), key: key.text.clone(), nearest: near }),
    }
}

/// Puts a value below a node.
fn put(node: &mut Node, path: &[Key], value: &Node) -> Result<(), ConfigError> {
    let Some((key, rest)) = path.split_first() else {
        merge(node, value);
        return Ok(());
    };
    match &mut node.value {
        Value::Dict(dict) => match dict.get_mut(&key.text) {
            Some(below) => put(below, rest, value),
            None => {
                if !rest.is_empty() {
                    refuse_near(key, dict.keys())?;
                }
                dict.insert_at(key.text.as_str(), key.at.clone(), under(rest, value));
                Ok(())
            }
        },
        Value::List(items) => {
            let (count, outside) =
                (items.len(), |problem| ConfigError::Arithmetic { at: key.at.clone(), problem });
            let index: usize = key.text.parse().map_err(|_| {
                outside(format!("expected an index, as the list has {count} elements, got `{}`", key.text))
            })?;
            let item = items
                .get_mut(index)
                .ok_or_else(|| outside(format!("there is no index {index} in a list of {count} elements")))?;
            put(item, rest, value)
        }
        Value::None => {
            *node = under(path, value);
            Ok(())
        }
        other => Err(ConfigError::Type {
            at: key.at.clone(),
            expected: format!("a dict or a list that has `{}`", key.text),
            got: format!("{} {other}", other.type_name()),
        }),
    }
}

/// Puts a value in the place of another; a dict merges into a dict.
fn merge(below: &mut Node, above: &Node) {
    let deletes = |from: &Dict| from.get(DELETE).is_some_and(|node| node.value.as_bool() == Some(true));
    match (&mut below.value, &above.value) {
        (Value::Dict(into), Value::Dict(from)) if !deletes(from) => {
            for (key, node) in from.iter().filter(|(key, _)| *key != DELETE) {
                match into.get_mut(key) {
                    Some(below) => merge(below, node),
                    None => {
                        into.insert_at(key, from.key_at(key).unwrap_or(&node.at).clone(), whole(node));
                    }
                }
            }
        }
        _ => *below = whole(above),
    }
}

/// Returns a value without the mark that it replaces another.
fn whole(node: &Node) -> Node {
    let mut node = node.clone();
    if let Value::Dict(dict) = &mut node.value {
        dict.remove(DELETE);
    }
    node
}

/// Returns a value with the dicts of a path around it.
fn under(path: &[Key], value: &Node) -> Node {
    path.iter().rev().fold(whole(value), |inner, key| {
        let mut dict = Dict::new();
        dict.insert_at(key.text.as_str(), key.at.clone(), inner);
        Node::new(dict, key.at.clone())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_python;

    const FILE: &str = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1), clip_grad=None)\n\
                        param_scheduler = [dict(type='StepLR', step_size=3), dict(type='PolyLR')]\n";

    fn changed(text: &str) -> Result<String, String> {
        let mut entries = parse_python(FILE, "a.py").unwrap();
        let before = entries.to_dict().unwrap();
        let change = Change::parse(text, "--set").map_err(|error| error.to_string())?;
        if let Err(error) = entries.change(&change) {
            assert_eq!(entries.to_dict().unwrap(), before, "{text}");
            return Err(error.to_string());
        }
        Ok(Value::Dict(entries.to_dict().unwrap()).to_string())
    }

    #[test]
    fn values_are_set_where_the_path_leads() {
        for (text, part) in [
            ("optim_wrapper.optimizer.lr=1e-3", "lr=0.001"),
            ("optim_wrapper.optimizer.betas=(0.9, 0.95)", r#"dict(type="SGD", lr=0.1, betas=[0.9, 0.95])"#),
            ("optim_wrapper.optimizer.type=mmdet::Lion", r#"type="mmdet::Lion""#),
            ("optim_wrapper.optimizer=dict(momentum=0.9)", r#"dict(type="SGD", lr=0.1, momentum=0.9)"#),
            ("optim_wrapper.optimizer=dict(_delete_=True, type='Lion')", r#"optimizer=dict(type="Lion")"#),
            ("optim_wrapper.clip_grad.max_norm=1", "clip_grad=dict(max_norm=1)"),
            ("optim_wrapper.loss.scale=None", "loss=dict(scale=None)"),
            ("param_scheduler.0.step_size=30", r#"dict(type="StepLR", step_size=30)"#),
            ("param_scheduler.1=dict(power=2)", r#"dict(type="PolyLR", power=2)"#),
            ("train.epochs=3", "train=dict(epochs=3)"),
            ("name=a=b", r#"name="a=b""#),
        ] {
            match changed(text) {
                Ok(told) => assert!(told.contains(part), "{text}: {told}"),
                Err(error) if text == "name=a=b" => assert!(error.starts_with("--set:1:"), "{error}"),
                Err(error) => panic!("{text}: {error}"),
            }
        }
    }

    #[test]
    fn what_cannot_be_set_is_refused() {
        for (text, error) in [
            (
                "optim_wraper.optimizer.lr=1",
                "--set:1:1: there is no key `optim_wraper`; did you mean `optim_wrapper`?",
            ),
            (
                "optim_wrapper.optimiser.lr=1",
                "--set:1:15: there is no key `optimiser`; did you mean `optimizer`?",
            ),
            ("param_scheduler.2.end=1", "--set:1:17: there is no index 2 in a list of 2 elements"),
            ("param_scheduler.end=1", "--set:1:17: expected an index, as the list has 2 elements, got `end`"),
            (
                "optim_wrapper.optimizer.lr.a=1",
                "--set:1:28: expected a dict or a list that has `a`, got float 0.1",
            ),
            ("lr", "--set:1:3: expected `=` and a value, got the end"),
            ("optimizer..lr=1", "--set:1:11: expected a key, got nothing"),
        ] {
            assert_eq!(changed(text).unwrap_err(), error, "{text}");
        }
        assert!(changed("a=dict(").unwrap_err().starts_with("--set:1:"));
        assert!(changed("a=").unwrap_err().starts_with("--set:1:3:"), "{:?}", changed("a="));
    }
}
