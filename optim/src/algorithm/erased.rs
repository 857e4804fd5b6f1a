//! An algorithm with its types erased.

use super::{Algorithm, Info, Sparse, Spec, StateSpec, StorageDefaults};
use crate::hyper::{Hyper, HyperError, Value};
use crate::modifiers::settings::Modifiers;
use crate::program::{AnySite, Program, Site, Variant};
use core::any::Any;
use core::fmt::Debug;
use core::marker::PhantomData;
use fallline_core::Builtins;
use fallline_core::{Groups, Link, Shape};

/// An algorithm as people see and set it: what a group of parameters has. Another name of an algorithm, and what is made of
/// one, implement this and nothing else.
pub trait AnyAlgorithm: Debug + Send + Sync {
    /// Returns the algorithm's name.
    fn name(&self) -> &'static str;
    /// Returns what people should know about it.
    fn info(&self) -> &'static Info;
    /// Returns its hyperparameters.
    fn table(&self) -> &'static [Hyper];
    /// Returns a hyperparameter by name.
    fn get(&self, name: &str) -> Option<Value>;
    /// Sets hyperparameters by name, all or none.
    ///
    /// # Errors
    /// [`HyperError`]; nothing is set then.
    fn set(&mut self, values: &[(&str, Value)]) -> Result<(), HyperError>;
    /// Returns what is done around its own steps.
    fn modifiers(&self) -> Modifiers {
        Modifiers::NONE
    }
    /// Copies it.
    fn boxed(&self) -> Box<dyn AnyAlgorithm>;
    /// Returns what is stepped.
    fn core(&self) -> &dyn Stepped;
}

/// An algorithm as an engine steps it. Implemented once, for all of them.
pub trait Stepped: Send + Sync {
    /// Returns the hyperparameters, with their type.
    fn hyper(&self) -> &dyn Any;
    /// Returns what is the same for all hyperparameters.
    fn spec(&self) -> &'static Spec;
    /// Returns what is unusual about a state or scratch.
    fn state(&self, name: &str) -> StateSpec;
    /// As [`Algorithm::variant`].
    ///
    /// # Errors
    /// Why the algorithm does not take this parameter.
    fn variant(&self, name: &str, shape: &Shape) -> Result<Variant, String>;
    /// As [`Algorithm::program`]; the site's groups are of the same algorithm.
    ///
    /// # Errors
    /// Why there is none.
    fn program(&self, on: &AnySite<'_, '_>) -> Result<Program, String>;
    /// As [`Algorithm::storage`].
    fn storage(&self) -> StorageDefaults;
    /// As [`Algorithm::sparse`].
    fn sparse(&self) -> Sparse;
    /// Returns the rules that are run whatever the algorithm is, compiled by the same [`Link`].
    fn builtins(&self) -> &'static Builtins;
}

/// An algorithm together with the [`Link`] that compiles its rules.
pub struct Linked<A, K> {
    algorithm: A,
    link: PhantomData<fn() -> K>,
}

impl<A: Algorithm, K: Link> Linked<A, K> {
    /// Returns the algorithm with these hyperparameters.
    ///
    /// # Errors
    /// [`HyperError`] when they are out of range or exclude each other.
    pub fn new(mut algorithm: A) -> Result<Self, HyperError> {
        for hyper in A::TABLE {
            if let Some(value) = algorithm.get(hyper.name) {
                algorithm.clone().set(hyper.name, &value)?;
            }
        }
        algorithm.check(true)?;
        Ok(Linked::unchecked(algorithm))
    }

    /// Returns the same without a check.
    pub(super) fn unchecked(algorithm: A) -> Self {
        Linked { algorithm, link: PhantomData }
    }

    /// Returns the hyperparameters.
    pub(super) fn algorithm(&self) -> &A {
        &self.algorithm
    }
}

impl<A: Algorithm, K: Link> Debug for Linked<A, K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.algorithm.fmt(f)
    }
}

impl<A: Algorithm, K: Link> AnyAlgorithm for Linked<A, K> {
    fn name(&self) -> &'static str {
        A::NAME
    }
    fn info(&self) -> &'static Info {
        &A::INFO
    }
    fn table(&self) -> &'static [Hyper] {
        A::TABLE
    }
    fn get(&self, name: &str) -> Option<Value> {
        self.algorithm.get(name)
    }
    fn set(&mut self, values: &[(&str, Value)]) -> Result<(), HyperError> {
        let mut changed = self.algorithm.clone();
        values.iter().try_for_each(|(name, value)| changed.set(name, value))?;
        changed.check(false)?;
        self.algorithm = changed;
        Ok(())
    }
    fn boxed(&self) -> Box<dyn AnyAlgorithm> {
        Box::new(Linked::<A, K>::unchecked(self.algorithm.clone()))
    }
    fn core(&self) -> &dyn Stepped {
        self
    }
}

impl<A: Algorithm, K: Link> Stepped for Linked<A, K> {
    fn hyper(&self) -> &dyn Any {
        &self.algorithm
    }
    fn spec(&self) -> &'static Spec {
        const { &Spec { memory: A::MEMORY, shared: A::SHARED, replicas: A::REPLICAS } }
    }
    fn state(&self, name: &str) -> StateSpec {
        StateSpec::of(A::STATES, name, &self.algorithm)
    }
    fn variant(&self, name: &str, shape: &Shape) -> Result<Variant, String> {
        self.algorithm.variant(name, shape)
    }
    fn program(&self, on: &AnySite<'_, '_>) -> Result<Program, String> {
        let typed = |group: usize| on.groups.get(group).downcast_ref().unwrap_or(&self.algorithm);
        let groups = Groups::new(on.groups.count(), &typed);
        let site = Site::<A, K>::new(on.variant, on.distributed, &groups);
        Ok(self.algorithm.program(&site)?.build())
    }
    fn storage(&self) -> StorageDefaults {
        self.algorithm.storage()
    }
    fn sparse(&self) -> Sparse {
        self.algorithm.sparse()
    }
    fn builtins(&self) -> &'static Builtins {
        K::builtins()
    }
}
