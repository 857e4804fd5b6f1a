//! Parameters of a checkpoint under other names, as wrappers of models give them.

use super::Checkpoint;
use crate::map::map_of;
use crate::{Error, ModuleKind, Result};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What wrappers put in front of a name: `DistributedDataParallel`, `torch.compile`, and models within models.
const WRAPPERS: [&str; 3] = ["module.", "_orig_mod.", "model."];

/// The new names of a checkpoint's parameters.
struct Names<'r> {
    rules: &'r [(String, String)],
}

impl Names<'_> {
    /// Returns the first rule that a name begins with, and the name that it gives.
    fn rule_of(&self, name: &str) -> Option<(usize, String)> {
        self.rules.iter().enumerate().find_map(|(place, (old, new))| {
            name.strip_prefix(old.as_str()).map(|rest| (place, format!("{new}{rest}")))
        })
    }

    fn of(&self, name: &str) -> String {
        self.rule_of(name).map_or_else(|| name.to_owned(), |(_, new)| new)
    }

    /// Returns an entry's key with the new name of its parameter.
    fn in_key(&self, key: &str) -> String {
        let (kind, rest) = key.split_once('/').unwrap_or(("", key));
        match kind {
            "param" | "window" | "average" => format!("{kind}/{}", self.of(rest)),
            "state" => match rest.rsplit_once('/') {
                Some((name, state)) => format!("state/{}/{state}", self.of(name)),
                None => key.to_owned(),
            },
            "rank" => {
                match rest.split_once('/').and_then(|(rank, rest)| Some((rank, rest.rsplit_once('/')?))) {
                    Some((rank, (name, what))) => format!("rank/{rank}/{}/{what}", self.of(name)),
                    None => key.to_owned(),
                }
            }
            _ => key.to_owned(),
        }
    }
}

impl Checkpoint {
    /// Renames the parameters whose names begin with `old`: `new` takes its place, in the manifest and in every entry.
    /// Returns how many there are.
    ///
    /// ```
    /// # fn load() -> fallline_optim::Result<()> {
    /// let mut checkpoint = fallline_optim::Checkpoint::read("ddp.safetensors")?;
    /// checkpoint.rename("module.", "")?; // "module.fc.weight" is "fc.weight" now
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Mismatch`] where two parameters would have one name; nothing is renamed then.
    pub fn rename(&mut self, old: &str, new: &str) -> Result<usize> {
        Ok(self.rename_by(&[(old.to_owned(), new.to_owned())])?[0])
    }

    /// Returns this under the names that rules give, of which the first that fits a name holds. A strict load has no
    /// rule without a parameter.
    pub(crate) fn renamed(&self, rules: &[(String, String)], lenient: bool) -> Result<Cow<'_, Checkpoint>> {
        if rules.is_empty() {
            return Ok(Cow::Borrowed(self));
        }
        let mut renamed = self.clone();
        let counts = renamed.rename_by(rules)?;
        match counts.iter().position(|count| *count == 0) {
            Some(idle) if !lenient => {
                let problem =
                    format!("no parameter's name begins with {:?}, which is renamed", rules[idle].0);
                Err(Error::Mismatch(problem))
            }
            _ => Ok(Cow::Owned(renamed)),
        }
    }

    /// Renames by rules. Returns how many parameters each has renamed.
    fn rename_by(&mut self, rules: &[(String, String)]) -> Result<Vec<usize>> {
        let names = Names { rules };
        let mut counts = vec![0; rules.len()];
        let mut taken: BTreeMap<String, &str> = BTreeMap::new();
        let params = self.manifest.optimizer.iter().flat_map(|optimizer| optimizer.params.keys());
        let params = params.chain(self.steps.keys()).map(String::as_str);
        let mut known: Vec<&str> = params.chain(self.params()).collect();
        known.sort_unstable();
        known.dedup();
        for old in known {
            if let Some((rule, _)) = names.rule_of(old) {
                counts[rule] += 1;
            }
            if let Some(other) = taken.insert(names.of(old), old) {
                let new = names.of(old);
                return Err(Error::Mismatch(format!("{other:?} and {old:?} would both be renamed {new:?}")));
            }
        }
        let tensors = core::mem::take(&mut self.tensors).into_iter();
        self.tensors = map_of(tensors.map(|(key, entry)| (names.in_key(&key), entry)));
        let codes = core::mem::take(&mut self.codes).into_iter();
        self.codes = map_of(codes.map(|(key, codes)| (names.in_key(&key), codes)));
        let steps = core::mem::take(&mut self.steps).into_iter();
        self.steps = map_of(steps.map(|(name, steps)| (names.of(&name), steps)));
        if let Some(optimizer) = &mut self.manifest.optimizer {
            let params = core::mem::take(&mut optimizer.params).into_iter();
            optimizer.params = map_of(params.map(|(old, mut param)| {
                let kind = param.kind().unwrap_or_else(|| ModuleKind::guess(&old, &param.shape()));
                let new = names.of(&old);
                // What was guessed from the old name stays.
                param.set_kind(kind, &new);
                (new, param)
            }));
        }
        let order = self.manifest.origin.as_mut().and_then(|origin| origin.get_mut("groups"));
        order.into_iter().for_each(|order| rename_texts(order, &names));
        Ok(counts)
    }
}

/// Renames what lists of names hold.
fn rename_texts(value: &mut serde_json::Value, names: &Names<'_>) {
    match value {
        serde_json::Value::String(name) => *name = names.of(name),
        serde_json::Value::Array(items) => items.iter_mut().for_each(|item| rename_texts(item, names)),
        _ => {}
    }
}

/// Returns the rule that gives a parameter of a checkpoint its name in a step, where they differ in what is in front
/// alone.
pub(crate) fn rule_between(saved: &str, bound: &str) -> Option<(String, String)> {
    let before = |long: &str, short: &str| {
        let prefix = long.strip_suffix(short)?;
        prefix.ends_with('.').then(|| prefix.to_owned())
    };
    if let Some(prefix) = before(saved, bound) {
        return Some((prefix, String::new()));
    }
    if let Some(prefix) = before(bound, saved) {
        return Some((String::new(), prefix));
    }
    let ((old, one), (new, other)) = (unwrapped(saved), unwrapped(bound));
    (one == other).then(|| (old.to_owned(), new.to_owned()))
}

/// Returns whether a parameter of a checkpoint and one of a step are the same but for what wrappers put in front.
pub(crate) fn differ_in_wrappers(saved: &str, bound: &str) -> bool {
    unwrapped(saved).1 == unwrapped(bound).1
}

/// Returns what wrappers have put in front of a name, and the rest.
fn unwrapped(name: &str) -> (&str, &str) {
    let mut rest = name;
    while let Some(inner) = WRAPPERS.iter().find_map(|wrapper| rest.strip_prefix(wrapper)) {
        rest = inner;
    }
    name.split_at(name.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use super::{differ_in_wrappers, rule_between};

    #[test]
    fn a_rule_maps_what_stands_in_front() {
        let rule = |saved, bound| rule_between(saved, bound);
        let pair = |old: &str, new: &str| Some((old.to_owned(), new.to_owned()));
        assert_eq!(rule("module.fc.weight", "fc.weight"), pair("module.", ""));
        assert_eq!(rule("module._orig_mod.fc.weight", "fc.weight"), pair("module._orig_mod.", ""));
        assert_eq!(rule("fc.weight", "net.fc.weight"), pair("", "net."));
        assert_eq!(rule("model.fc.weight", "module.fc.weight"), pair("model.", "module."));
        assert_eq!(rule("fc.weight", "fc.bias"), None);
        assert_eq!(rule("xfc.weight", "fc.weight"), None);
        assert!(differ_in_wrappers("module.a", "model._orig_mod.a"));
        assert!(!differ_in_wrappers("net.a", "a"));
    }
}
