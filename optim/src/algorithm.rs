//! What an algorithm implements; [`erased`] has the same without its types.

mod alias;
mod erased;
mod info;
mod programs;
mod replicas;
mod sparse;
mod state;
mod steps;
mod storage;

#[doc(hidden)] // for `alias!`
pub use alias::table as alias_table;
pub use alias::{Alias, Aliased, Named};
pub use erased::{AnyAlgorithm, Linked, Stepped};
pub use info::{Info, Reference};
pub use replicas::{ErrorFeedback, MaskPolicy, Replicas, Spec};
pub use sparse::Sparse;
pub use state::{Extent, Init, Start, State, StateSpec};
pub use storage::{BlockDefault, StorageDefaults};

use crate::hyper::{HyperError, Hyperparameters};
use crate::program::{Site, Steps, Variant};
use core::fmt::Debug;
use fallline_core::{Link, Shape};

/// An algorithm: hyperparameters that know which rule they mean.
///
/// The type itself is the table declared with [`hyperparameters!`](crate::hyperparameters). One of its names means the same
/// for every algorithm: where a `maximize` is true, the gradient's sign is flipped before anything else.
pub trait Algorithm: Hyperparameters + Clone + Debug + Default + Send + Sync + 'static {
    /// What people should know about it.
    const INFO: Info;

    /// The scalars that the algorithm keeps for each parameter in addition to its states, with their first values.
    const MEMORY: &'static [(&'static str, f64)] = &[];

    /// Shared scalars: those that the algorithm keeps for all parameters together, with their first values.
    const SHARED: &'static [(&'static str, f64)] = &[];

    /// What is unusual about its states and its scratch.
    const STATES: &'static [State<Self>] = &[];

    /// How the replicas of several ranks relate.
    const REPLICAS: Replicas = Replicas::IDENTICAL;

    /// Returns what a step consists of, where it is to run. The only method that every algorithm writes.
    ///
    /// # Errors
    /// Why there is no such step: what the groups' hyperparameters have that does not go together, or why several ranks
    /// cannot step together.
    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String>;

    /// Returns which of its programs a parameter takes. Decided when it is first seen, by name and shape.
    ///
    /// # Errors
    /// Why the algorithm does not take this parameter.
    fn variant(&self, _name: &str, _shape: &Shape) -> Result<Variant, String> {
        Ok(Variant::ONLY)
    }

    /// Returns how states are stored unless a configuration says otherwise.
    fn storage(&self) -> StorageDefaults {
        StorageDefaults::AS_COMPUTED
    }

    /// Checks what the ranges alone cannot, whenever hyperparameters have changed. The first time all have their
    /// first values. Some are refused only then, since a schedule may change them later, and that is the time to keep
    /// one.
    ///
    /// # Errors
    /// [`HyperError::Combination`].
    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        Ok(())
    }

    /// Returns what it makes of row-sparse gradients.
    fn sparse(&self) -> Sparse {
        Sparse::Refused
    }
}
