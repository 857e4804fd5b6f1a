//! Algorithms by name: the shipped ones, and those of other crates beside them.

use crate::error::{Error, Result};
use crate::names::{ENTRIES, Entry, entry};
use fallline_core::Shape;
use fallline_cpu::Native;
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
    /// The shipped algorithms.
    pub const fn standard() -> Registry {
        Registry { entries: Cow::Borrowed(ENTRIES) }
    }

    /// Adds an algorithm under its name.
    ///
    /// # Errors
    /// [`Error::Registration`] where the name is taken, cannot stand in a configuration, or the algorithm does not take
    /// its own defaults.
    pub fn with<A: Named>(self) -> Result<Registry> {
        match self.find(A::NAME) {
            None => self.with_forced::<A>(),
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
    pub fn with_forced<A: Named>(mut self) -> Result<Registry> {
        let refused = |problem: String| Error::Registration { name: A::NAME, problem };
        if A::NAME.is_empty() || A::NAME.contains(['.', ':']) {
            let problem = "configurations read what stands before a \".\" or \"::\" as its module";
            return Err(refused(problem.into()));
        }
        let defaults = A::default().link::<Native>().map_err(|error| refused(error.to_string()))?;
        let mut added = entry::<A>();
        added.needs = needs(&Method::Algorithm(defaults));
        let entries = self.entries.to_mut();
        match entries.binary_search_by(|entry| entry.name.cmp(A::NAME)) {
            Ok(place) => entries[place] = added,
            Err(place) => entries.insert(place, added),
        }
        Ok(self)
    }

    /// The entry of a name.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        let place = self.entries.binary_search_by(|entry| entry.name.cmp(name)).ok()?;
        Some(&self.entries[place])
    }

    /// Every entry, sorted by name.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

impl Default for Registry {
    fn default() -> Registry {
        Registry::standard()
    }
}

/// What an optimizer needs beyond gradients.
fn needs(method: &Method) -> &'static [&'static str] {
    let Some(algorithm) = method.algorithm() else { return &["closure"] };
    let takes = |extents: &[usize]| algorithm.variant("", &Shape::from(extents)).is_ok();
    if algorithm.takes_dense().is_err() {
        &["rows"]
    } else if takes(&[3, 5]) && !takes(&[3]) {
        &["matrix"]
    } else {
        &[]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fallline_optim::algorithms::Adagrad;
    use fallline_optim::alias;

    alias! {
        /// Under a name between others.
        Middle as "Lingon" is Adagrad
    }

    alias! {
        /// Under a name of another.
        Taken as "Lion" is Adagrad, with { lr = 0.5 }
    }

    alias! {
        /// With a module.
        Scoped as "own.Adagrad" is Adagrad
    }

    alias! {
        /// With a default that is out of range.
        Wrong as "Wrong" is Adagrad, with { lr = -1.0 }
    }

    #[test]
    fn names_stay_sorted_and_are_found() {
        let registry = Registry::standard().with::<Middle>().unwrap();
        assert!(registry.entries().windows(2).all(|pair| pair[0].name < pair[1].name));
        assert_eq!(registry.entries().len(), ENTRIES.len() + 1);
        for entry in ENTRIES.iter().map(|entry| entry.name).chain(["Lingon"]) {
            assert_eq!(registry.find(entry).unwrap().defaults().name(), entry);
        }
        assert!(Registry::standard().find("Lingon").is_none());
    }

    #[test]
    fn a_name_that_is_taken_is_refused_unless_forced() {
        let error = Registry::standard().with::<Taken>().unwrap_err().to_string();
        assert_eq!(
            error,
            "\"Lion\" cannot be registered: the registry has an algorithm of this name; with_forced replaces it"
        );
        let registry = Registry::standard().with_forced::<Taken>().unwrap();
        assert_eq!(registry.entries().len(), ENTRIES.len());
        assert_eq!(registry.find("Lion").unwrap().defaults().algorithm().unwrap().states(), ["sum"]);
    }

    #[test]
    fn what_no_configuration_can_name_or_build_is_refused() {
        let scoped = Registry::standard().with::<Scoped>().unwrap_err().to_string();
        assert!(scoped.starts_with("\"own.Adagrad\" cannot be registered: "), "{scoped}");
        let wrong = Registry::standard().with_forced::<Wrong>().unwrap_err().to_string();
        assert_eq!(wrong, "\"Wrong\" cannot be registered: Wrong: lr must be \u{2265} 0, got -1.0");
    }

    #[test]
    fn needs_are_found_as_the_table_says() {
        for entry in ENTRIES.iter().filter(|entry| entry.needs != ["ranks"]) {
            assert_eq!(needs(&entry.defaults()), entry.needs, "{}", entry.name);
        }
    }
}
