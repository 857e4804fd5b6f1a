//! Algorithms by name: the shipped ones, and those of other crates.

use crate::error::{Error, Result};
use crate::formats::StorageOptions;
use crate::read::bare_name;
use crate::state_parts::{self, StatePart};
use fallline_core::{Link, Shape};
use fallline_cpu::Native;
use fallline_optim::hyper::{HyperError, Value};
use fallline_optim::{Method, Named};
use std::borrow::Cow;

/// The algorithms that configurations may name.
///
/// [`Recipe::from_text`](crate::Recipe::from_text) knows the [standard](Registry::standard) ones,
/// [`Recipe::from_text_with`](crate::Recipe::from_text_with) those of any registry: as the optimizer, for an entry of
/// `custom_keys`, and as the `optimizer_type` of a `ZeroRedundancyOptimizer`. An algorithm of another crate is compiled
/// there, for every instruction set. An alias (`alias!`) is registered as any other.
///
/// ```
/// use fallline_optim::{algorithms::AdamW, alias};
/// use fallline_registry::{Recipe, Registry};
///
/// alias! {
///     /// AdamW, slower.
///     pub MyAdamW as "MyAdamW" is AdamW, with { lr = 1e-4 }
/// }
///
/// let registry = Registry::standard().with::<MyAdamW>()?;
/// let recipe = Recipe::from_text_with("dict(type='MyAdamW', weight_decay=0.1)", &registry)?;
/// assert_eq!(recipe.algorithm().name(), "MyAdamW");
///
/// // Others still do not know it; a name that is taken is an error.
/// assert!(Recipe::from_text("MyAdamW").is_err());
/// assert!(registry.with::<MyAdamW>().is_err());
/// # Ok::<(), fallline_registry::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Registry {
    /// Sorted by name.
    entries: Cow<'static, [Entry]>,
}

impl Registry {
    /// Returns a registry of these entries, which are sorted by name.
    pub(crate) const fn of(entries: &'static [Entry]) -> Registry {
        Registry { entries: Cow::Borrowed(entries) }
    }

    /// Adds an algorithm under its name.
    ///
    /// # Errors
    /// [`Error::Registration`] where the name is taken or cannot be in a configuration, or the algorithm does not
    /// take its defaults.
    pub fn with<A: Named>(self) -> Result<Registry> {
        self.with_linked::<A, Native>()
    }

    /// Adds an algorithm under its name, with the rules that another [`Link`] gives. Its optimizers run on backends that
    /// know what this link compiles.
    ///
    /// # Errors
    /// As [`with`](Registry::with).
    pub fn with_linked<A: Named, K: Link>(self) -> Result<Registry> {
        match self.find(A::NAME) {
            None => self.insert::<A, K>(),
            Some(_) => {
                let problem = "the registry has an algorithm of this name; with_forced replaces it".into();
                Err(Error::Registration { name: A::NAME, problem })
            }
        }
    }

    /// Adds an algorithm under its name, in place of another that has it: as `force=True` in MMEngine.
    ///
    /// # Errors
    /// As [`with`](Registry::with), but where the name is taken.
    pub fn with_forced<A: Named>(self) -> Result<Registry> {
        self.insert::<A, Native>()
    }

    fn insert<A: Named, K: Link>(mut self) -> Result<Registry> {
        let refused = |problem: String| Error::Registration { name: A::NAME, problem };
        if A::NAME.is_empty() || A::NAME.contains(['.', ':']) {
            let problem = "configurations read what is before a \".\" or \"::\" as its module";
            return Err(refused(problem.into()));
        }
        A::default().link::<K>().map_err(|error| refused(error.to_string()))?;
        let added = entry::<A, K>();
        let entries = self.entries.to_mut();
        match entries.binary_search_by(|entry| entry.name.cmp(A::NAME)) {
            Ok(place) => entries[place] = added,
            Err(place) => entries.insert(place, added),
        }
        Ok(self)
    }

    /// Returns the entry of a name.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        let place = self.entries.binary_search_by(|entry| entry.name.cmp(name)).ok()?;
        Some(&self.entries[place])
    }

    /// Returns the entry of a name as people type it. It may have a scope or module in front of it, or another case
    /// where one name alone is that.
    pub fn lookup(&self, name: &str) -> Option<&Entry> {
        let name = bare_name(name);
        self.find(name).or_else(|| {
            let mut alike = self.entries.iter().filter(|entry| entry.name.eq_ignore_ascii_case(name));
            alike.next().filter(|_| alike.next().is_none())
        })
    }

    /// Returns every entry, sorted by name.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

impl Default for Registry {
    fn default() -> Registry {
        Registry::standard()
    }
}

/// One name of a [`Registry`].
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The name in configurations.
    pub name: &'static str,
    pub(crate) make: Make,
}

/// From hyperparameters to the method of a name; they may name others of the registry.
type Make = fn(&Registry, &[(&str, Value)]) -> Result<Method, HyperError>;

impl Entry {
    /// Builds the method with these hyperparameters, and the defaults for the others.
    ///
    /// # Errors
    /// When one does not exist, has another type, is out of range, or excludes another.
    pub fn with(&self, values: &[(&str, Value)]) -> Result<Method, HyperError> {
        self.with_in(&Registry::standard(), values)
    }

    /// As [`with`](Entry::with), where a hyperparameter may name an algorithm of a registry: `optimizer_type`.
    ///
    /// # Errors
    /// As [`with`](Entry::with).
    pub fn with_in(&self, registry: &Registry, values: &[(&str, Value)]) -> Result<Method, HyperError> {
        (self.make)(registry, values)
    }

    /// Returns the method with its defaults.
    pub fn defaults(&self) -> Method {
        match self.with(&[]) {
            Ok(method) => method,
            Err(error) => unreachable!("the defaults of {} are valid: {error}", self.name),
        }
    }

    /// Returns what it needs beyond gradients: a closure, matrices, rows of gradients, ranks.
    pub fn needs(&self) -> &'static [&'static str] {
        let method = self.defaults();
        let Some(algorithm) = method.algorithm() else { return &["closure"] };
        let takes = |dims: &[usize]| algorithm.variant("", &Shape::from(dims)).is_ok();
        if algorithm.sharded() {
            &["ranks"]
        } else if algorithm.takes_dense().is_err() {
            &["rows"]
        } else if takes(&[3, 5]) && !takes(&[3]) {
            &["matrix"]
        } else {
            &[]
        }
    }

    /// Returns the bytes of state for each parameter element, with the defaults, parameters of a million elements and
    /// `f32` arithmetic. `None` where that depends on the parameter's shape.
    pub fn state_bytes(&self) -> Option<f64> {
        state_parts::bytes(&self.state_parts())
    }

    /// Returns [`state_bytes`](Entry::state_bytes) as a sum of its parts, each with what it is.
    pub fn state_formula(&self) -> String {
        state_parts::formula(&self.state_parts())
    }

    fn state_parts(&self) -> Vec<StatePart> {
        state_parts::parts(&self.defaults(), &StorageOptions::default())
    }
}

/// Returns the entry of an algorithm, under its name.
pub(crate) const fn entry<A: Named, K: Link>() -> Entry {
    Entry {
        name: A::NAME,
        make: |_, values| {
            let mut algorithm = A::default();
            values.iter().try_for_each(|(name, value)| algorithm.set(name, value))?;
            Ok(Method::Algorithm(algorithm.link::<K>()?))
        },
    }
}
