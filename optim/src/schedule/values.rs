//! What a schedule reads and sets.

use crate::hyper::Value;
use crate::map::map_of;
use crate::{Error, Optimizer, Result};
use core::ops::Index;
use std::collections::BTreeMap;

/// Which hyperparameter a scheduler changes.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize))]
pub enum Target {
    /// The one of this name, `lr` mostly.
    Named(String),
    /// The momentum: the hyperparameter `momentum`, or the first of the `betas` where there is none.
    Momentum,
}

impl From<&str> for Target {
    fn from(name: &str) -> Target {
        Target::Named(name.to_owned())
    }
}

impl Target {
    /// Returns its name.
    pub fn name(&self) -> &str {
        match self {
            Target::Named(name) => name,
            Target::Momentum => "momentum",
        }
    }
}

/// Something with numbers in groups that a schedule can change: an optimizer, or [`Numbers`].
pub trait Scheduled {
    /// Returns how many groups there are.
    fn scheduled_groups(&self) -> usize;

    /// Returns the number now.
    ///
    /// # Errors
    /// When there is no such number.
    fn scheduled(&self, group: usize, target: &Target) -> Result<f64>;

    /// Sets it.
    ///
    /// # Errors
    /// When there is no such number, or it is out of range; it is as it was then.
    fn set_scheduled(&mut self, group: usize, target: &Target, value: f64) -> Result<()>;
}

fn absent(name: &str, target: &Target) -> Error {
    let target = match target {
        Target::Named(target) => format!("no numeric hyperparameter {target:?}"),
        Target::Momentum => "neither a momentum nor betas".to_owned(),
    };
    Error::Schedule { at: "param_scheduler".into(), problem: format!("{name} has {target} to schedule") }
}

impl<T: Optimizer + ?Sized> Scheduled for T {
    fn scheduled_groups(&self) -> usize {
        self.groups()
    }

    fn scheduled(&self, group: usize, target: &Target) -> Result<f64> {
        let number = self.get(group, target.name()).and_then(|value| value.as_f64());
        let found = number.or_else(|| match (target, self.get(group, "betas")) {
            (Target::Momentum, Some(Value::List(betas))) => betas.first()?.as_f64(),
            _ => None,
        });
        found.ok_or_else(|| absent(self.name(), target))
    }

    fn set_scheduled(&mut self, group: usize, target: &Target, value: f64) -> Result<()> {
        let (name, value) = match (target, self.get(group, target.name()), self.get(group, "betas")) {
            (Target::Momentum, None, Some(Value::List(mut betas))) if !betas.is_empty() => {
                betas[0] = Value::Float(value);
                ("betas", Value::List(betas))
            }
            _ => (target.name(), Value::Float(value)),
        };
        self.set(group, &[(name, value)])
    }
}

/// Plain numbers to schedule without an optimizer, in one group; any number is in range. Indexed by a name that is not
/// there they panic, as a map does: [`get`](Numbers::get) does not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Numbers(BTreeMap<String, f64>);

impl Numbers {
    /// Makes numbers by name.
    pub fn new<'n>(numbers: impl IntoIterator<Item = (&'n str, f64)>) -> Numbers {
        Numbers(map_of(numbers.into_iter().map(|(name, value)| (name.to_owned(), value))))
    }

    /// Returns a number by name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// Sets a number.
    pub fn insert(&mut self, name: &str, value: f64) {
        self.0.insert(name.to_owned(), value);
    }
}

impl Index<&str> for Numbers {
    type Output = f64;

    fn index(&self, name: &str) -> &f64 {
        &self.0[name]
    }
}

impl Scheduled for Numbers {
    fn scheduled_groups(&self) -> usize {
        1
    }

    fn scheduled(&self, _group: usize, target: &Target) -> Result<f64> {
        self.get(target.name()).ok_or_else(|| absent("the optimizer", target))
    }

    fn set_scheduled(&mut self, _group: usize, target: &Target, value: f64) -> Result<()> {
        match self.0.get_mut(target.name()) {
            Some(number) => *number = value,
            None => return Err(absent("the optimizer", target)),
        }
        Ok(())
    }
}
