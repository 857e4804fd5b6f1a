//! How long training is: `train_cfg` as MMEngine has it, or `train.epochs`.

use crate::config::{Dict, Entries, Node};
use crate::error::{Error, Result};
use crate::hints::slip;
use crate::read::bare_name;

/// How long training is, where that is known.
///
/// ```
/// use fallline_registry::Length;
/// assert_eq!(Length::new(100).of_epochs(12).epochs, Some(12));
/// assert_eq!(Length::new(100).of_iterations(900).iterations, Some(900));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    /// Iterations in an epoch.
    pub epoch: u64,
    /// Epochs altogether: where an entry ends that does not say so.
    pub epochs: Option<u64>,
    /// Iterations altogether, of training that does not count epochs: where an entry ends that counts iterations. One that
    /// counts epochs then ends with the first, which is all that MMEngine's loop has.
    pub iterations: Option<u64>,
}

impl Length {
    /// Epochs of so many iterations, of which nobody knows how many there are.
    pub fn new(epoch: u64) -> Length {
        Length { epoch, epochs: None, iterations: None }
    }

    /// Returns the same with so many epochs altogether.
    pub fn of_epochs(self, epochs: u64) -> Length {
        Length { epochs: Some(epochs), iterations: None, ..self }
    }

    /// Returns the same with so many iterations altogether, whatever epochs there are.
    pub fn of_iterations(self, iterations: u64) -> Length {
        Length { epochs: None, iterations: Some(iterations), ..self }
    }

    /// Returns whether it is known where an entry ends that does not say so.
    pub fn is_known(&self) -> bool {
        self.epochs.is_some() || self.iterations.is_some()
    }

    /// Returns where an entry ends that does not say so.
    pub(crate) fn end(&self, by_epoch: bool) -> Option<f64> {
        let end = match (by_epoch, self.epochs, self.iterations) {
            (true, None, None) | (false, None, None) => return None,
            (true, epochs, _) => epochs.unwrap_or(1),
            (false, _, Some(iterations)) => iterations,
            (false, Some(epochs), None) => epochs.saturating_mul(self.epoch),
        };
        Some(end as f64)
    }

    /// Reads it: `train.epochs`, or `train_cfg`.
    ///
    /// # Errors
    /// When one of them has a wrong number, or a slip in one of its keys.
    pub fn from_entries(entries: &Entries, epoch: u64) -> Result<Length> {
        let length = Length::new(epoch);
        let own = entries.get_present("train")?.and_then(|node| node.value.as_dict());
        if let Some(epochs) = own.and_then(|dict| dict.get("epochs")) {
            let count = epochs.value.as_int().and_then(|count| u64::try_from(count).ok());
            let count = count.ok_or_else(|| wrong(epochs, "epochs", "a whole number from 0"))?;
            return Ok(if count > 0 { length.of_epochs(count) } else { length });
        }
        if let Some((dict, key)) =
            own.and_then(|dict| Some((dict, dict.keys().find(|key| slip(key, ["epochs"]).is_some())?)))
        {
            let (at, what, key) =
                (dict.key_at(key).unwrap_or(entries.at()).clone(), "train".into(), key.to_owned());
            return Err(Error::UnknownKey { at, what, key, nearest: Some("epochs".into()), hint: None });
        }
        match entries.get("train_cfg")?.and_then(|node| Some((node, node.value.as_dict()?))) {
            Some((node, dict)) => length.of_loop(node, dict),
            None => Ok(length),
        }
    }

    /// Returns the length of an MMEngine loop.
    fn of_loop(self, node: &Node, dict: &Dict) -> Result<Length> {
        let keys =
            ["type", "by_epoch", "max_epochs", "max_iters", "val_begin", "val_interval", "dynamic_intervals"];
        for key in dict.keys().filter(|key| !keys.contains(key)) {
            // A loop of somebody's own may have any other key.
            if let Some(meant) = slip(key, keys) {
                let at = dict.key_at(key).unwrap_or(&node.at).clone();
                let (what, nearest) = ("train_cfg".to_owned(), Some(meant.to_owned()));
                return Err(Error::UnknownKey { at, what, key: key.to_owned(), nearest, hint: None });
            }
        }
        let [epochs, iterations] = [count(dict, "max_epochs")?, count(dict, "max_iters")?];
        let kind = dict.get("type").and_then(|kind| kind.value.as_str()).map(bare_name);
        let by_epoch = dict.get("by_epoch").and_then(|flag| flag.value.as_bool());
        let counts_epochs = match (by_epoch, kind) {
            (Some(by_epoch), _) => Some(by_epoch),
            (None, Some("EpochBasedTrainLoop")) => Some(true),
            (None, Some("IterBasedTrainLoop")) => Some(false),
            _ => None,
        };
        Ok(match counts_epochs {
            Some(true) => Length { epochs, ..self },
            Some(false) => Length { iterations, ..self },
            None => Length { epochs, iterations, ..self },
        })
    }
}

/// Reads an int from 1, which may be written as a float.
fn count(dict: &Dict, key: &str) -> Result<Option<u64>> {
    let Some(node) = dict.get(key).filter(|node| !node.value.is_none()) else { return Ok(None) };
    let number = node.value.as_float().filter(|x| x.fract() == 0.0 && (1.0..9e15).contains(x));
    number.map(|x| Some(x as u64)).ok_or_else(|| wrong(node, key, "a whole number from 1"))
}

fn wrong(node: &Node, key: &str, expected: &str) -> Error {
    let (at, got) = (node.at.clone(), node.value.to_string());
    Error::Value { at, key: key.to_owned(), expected: expected.to_owned(), got }
}
