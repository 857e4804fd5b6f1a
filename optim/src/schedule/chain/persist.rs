//! What a checkpoint keeps of a schedule.

use super::{Progress, Schedule};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// As [`Progress`], with the values that the groups were built with.
#[derive(Serialize, Deserialize)]
struct Saved {
    #[serde(flatten)]
    progress: Progress,
    #[serde(default)]
    base: Option<Vec<f64>>,
    /// The entry itself; checkpoints of earlier versions lack it.
    #[serde(default)]
    entry: Option<Value>,
}

impl Schedule {
    /// Returns how far it is, for a checkpoint. (The values themselves are the optimizer's hyperparameters.)
    pub fn save(&self) -> Value {
        let each = self.schedulers.iter().map(|running| {
            let saved = Saved {
                progress: running.progress.clone(),
                base: Some(running.base.clone()),
                entry: serde_json::to_value(&running.spec).ok(),
            };
            serde_json::to_value(saved).unwrap_or_default()
        });
        each.collect()
    }

    /// Resumes from where [`save`](Schedule::save) was called. The optimizer's hyperparameters come from its own
    /// checkpoint.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when it was saved from another chain; nothing is changed.
    pub fn load(&mut self, saved: &Value) -> Result<()> {
        let unreadable = |problem: String| Error::Mismatch(format!("its schedule cannot be read: {problem}"));
        let saved: Vec<Saved> = Deserialize::deserialize(saved)
            .map_err(|error: serde_json::Error| unreadable(error.to_string()))?;
        if saved.len() != self.schedulers.len() {
            let (got, expected) = (saved.len(), self.schedulers.len());
            return Err(Error::Mismatch(format!("its schedule has {got} entries, expected {expected}")));
        }
        for (place, (running, saved)) in self.schedulers.iter().zip(&saved).enumerate() {
            if running.progress.observed.is_some() != saved.progress.observed.is_some() {
                return Err(Error::Mismatch(format!("entry {place} of its schedule is of another kind")));
            }
            let entry = serde_json::to_value(&running.spec).unwrap_or_default();
            if let Some(difference) = saved.entry.as_ref().and_then(|saved| difference(saved, &entry)) {
                return Err(Error::Mismatch(format!("entry {place} of its schedule differs: {difference}")));
            }
            let groups = running.base.len();
            if let Some(base) = saved.base.as_ref().filter(|base| base.len() != groups) {
                let got = base.len();
                return Err(unreadable(format!("entry {place} is of {got} groups, expected {groups}")));
            }
        }
        for (running, saved) in self.schedulers.iter_mut().zip(saved) {
            running.progress = saved.progress;
            running.base = saved.base.unwrap_or_else(|| running.base.clone());
        }
        Ok(())
    }
}

/// Returns the first difference of two values, with where it is. What only `known` has is new in this version.
fn difference(saved: &Value, known: &Value) -> Option<String> {
    match (saved, known) {
        (Value::Object(saved), Value::Object(known)) => saved.iter().find_map(|(key, saved)| {
            let found = difference(saved, known.get(key).unwrap_or(&Value::Null))?;
            Some(format!("{key} {found}"))
        }),
        _ => (saved != known).then(|| format!("is {saved}, expected {known}")),
    }
}
