//! The table of shipped names: the one place where these algorithms are linked with the CPU's lanes, and so compiled.

use crate::registry::Registry;
use fallline_core::{Format, Shape};
use fallline_cpu::Native;
use fallline_optim::hyper::{HyperError, Hyperparameters, Value};
use fallline_optim::line_search::{Lbfgs, Search};
use fallline_optim::ranks::ZeroRedundancy;
use fallline_optim::{Method, Named, algorithms};

/// One name of a [`Registry`].
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The name in configurations.
    pub name: &'static str,
    /// What the algorithm needs beyond gradients: a closure, matrices, rows of gradients, ranks.
    pub needs: &'static [&'static str],
    make: Make,
}

/// From hyperparameters to what a name stands for; they may name others of the registry.
type Make = fn(&Registry, &[(&str, Value)]) -> Result<Method, HyperError>;

impl Entry {
    /// What the name stands for, with these hyperparameters, and the defaults for the others.
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

    /// What the name stands for, with its defaults.
    pub fn defaults(&self) -> Method {
        match self.with(&[]) {
            Ok(method) => method,
            Err(error) => unreachable!("the defaults of {} are valid: {error}", self.name),
        }
    }

    /// Bytes of state for each parameter element, with the defaults, parameters of a million elements and `f32`
    /// arithmetic; `None` where that depends on the parameter's shape.
    pub fn state_bytes(&self) -> Option<f64> {
        self.state_parts().into_iter().map(|part| part.bytes).sum()
    }

    /// [`state_bytes`](Entry::state_bytes) as a sum of its parts, each with what it is.
    pub fn state_formula(&self) -> String {
        let parts = self.state_parts();
        match parts.is_empty() {
            true => "0".to_owned(),
            false => parts.iter().map(|part| part.text.as_str()).collect::<Vec<_>>().join(" + "),
        }
    }

    fn state_parts(&self) -> Vec<StatePart> {
        let method = self.defaults();
        let part = |factor: f64, name: &str, format: Option<Format>| {
            let bytes = format.unwrap_or(Format::F32).mean_bytes();
            let text = if factor == 1.0 {
                format!("{bytes} ({name})")
            } else {
                format!("{bytes} \u{b7} {factor} ({name})")
            };
            StatePart { bytes: Some(bytes * factor), text }
        };
        let algorithm = match &method {
            Method::Algorithm(algorithm) => algorithm,
            Method::Search(search) => {
                let part = |(factor, name): (u64, &str)| part(factor as f64, name, None);
                return search.vectors().into_iter().map(part).collect();
            }
        };
        // What a state is per element shows on a matrix whose extents are not each other's.
        let (rows, columns) = (3, 5);
        let of = |name| algorithm.state(name).shape(&Shape::from([rows, columns])).elements();
        let shaped = |name, text: &str| StatePart { bytes: None, text: format!("4 / {text} ({name})") };
        let states = algorithm.states().into_iter();
        states
            .map(|name| match of(name) {
                found if found == rows => shaped(name, "columns"),
                found if found == columns => shaped(name, "rows"),
                _ => part(1.0, name, algorithm.state_format(name, LARGE)),
            })
            .collect()
    }
}

/// What one state adds to the bytes of a parameter element.
struct StatePart {
    bytes: Option<f64>,
    text: String,
}

/// Elements of a parameter that is large enough for any format.
const LARGE: usize = 1 << 20;

pub(crate) const fn entry<A: Named>() -> Entry {
    Entry {
        name: A::NAME,
        needs: &[],
        make: |_, values| {
            let mut algorithm = A::default();
            values.iter().try_for_each(|(name, value)| algorithm.set(name, value))?;
            Ok(Method::Algorithm(algorithm.link::<Native>()?))
        },
    }
}

const fn search() -> Entry {
    Entry {
        name: Lbfgs::NAME,
        needs: &["closure"],
        make: |_, values| {
            let mut search = Lbfgs::default();
            values.iter().try_for_each(|(name, value)| search.set(name, value))?;
            Ok(Method::Search(Search::new::<Native>(search)?))
        },
    }
}

/// Every shipped name, sorted: those of [`Registry::standard`].
pub static ENTRIES: &[Entry] = &[
    entry::<algorithms::Asgd>(),
    entry::<algorithms::AdEmaMix>(),
    entry::<algorithms::AdEmaMix32bit>(),
    entry::<algorithms::AdEmaMix8bit>(),
    entry::<algorithms::Adadelta>(),
    entry::<algorithms::Adafactor>(),
    entry::<algorithms::Adagrad>(),
    entry::<algorithms::Adagrad32bit>(),
    entry::<algorithms::Adagrad8bit>(),
    entry::<algorithms::Adam>(),
    entry::<algorithms::Adam32bit>(),
    entry::<algorithms::Adam8bit>(),
    entry::<algorithms::AdamW>(),
    entry::<algorithms::AdamW32bit>(),
    entry::<algorithms::AdamW8bit>(),
    entry::<algorithms::AdamWScheduleFree>(),
    entry::<algorithms::Adamax>(),
    entry::<algorithms::DAdaptAdaGrad>(),
    entry::<algorithms::DAdaptAdam>(),
    entry::<algorithms::DAdaptSgd>(),
    entry::<algorithms::CpuAdam>(),
    entry::<algorithms::FusedAdam>(),
    entry::<algorithms::FusedLamb>(),
    entry::<algorithms::Lamb>(),
    entry::<algorithms::Lamb32bit>(),
    entry::<algorithms::Lamb8bit>(),
    entry::<algorithms::Lars>(),
    entry::<algorithms::Lars32bit>(),
    entry::<algorithms::Lars8bit>(),
    search(),
    entry::<algorithms::Lion>(),
    entry::<algorithms::Lion32bit>(),
    entry::<algorithms::Lion8bit>(),
    Entry { needs: &["matrix"], ..entry::<algorithms::Muon>() },
    entry::<algorithms::NAdam>(),
    Entry { needs: &["matrix"], ..entry::<algorithms::NorMuon>() },
    entry::<algorithms::OnebitAdam>(),
    entry::<algorithms::OnebitLamb>(),
    entry::<algorithms::PagedAdEmaMix>(),
    entry::<algorithms::PagedAdEmaMix32bit>(),
    entry::<algorithms::PagedAdEmaMix8bit>(),
    entry::<algorithms::PagedAdam>(),
    entry::<algorithms::PagedAdam32bit>(),
    entry::<algorithms::PagedAdam8bit>(),
    entry::<algorithms::PagedAdamW>(),
    entry::<algorithms::PagedAdamW32bit>(),
    entry::<algorithms::PagedAdamW8bit>(),
    entry::<algorithms::PagedLion>(),
    entry::<algorithms::PagedLion32bit>(),
    entry::<algorithms::PagedLion8bit>(),
    entry::<algorithms::Prodigy>(),
    entry::<algorithms::PytorchLars>(),
    entry::<algorithms::RAdam>(),
    entry::<algorithms::RmsProp>(),
    entry::<algorithms::RmsProp32bit>(),
    entry::<algorithms::RmsProp8bit>(),
    entry::<algorithms::Rprop>(),
    entry::<algorithms::Sgd>(),
    entry::<algorithms::Sgd32bit>(),
    entry::<algorithms::Sgd8bit>(),
    entry::<algorithms::SophiaG>(),
    Entry { needs: &["rows"], ..entry::<algorithms::SparseAdam>() },
    entry::<algorithms::TorchAdafactor>(),
    entry::<algorithms::ZeroOneAdam>(),
    Entry {
        name: ZeroRedundancy::NAME,
        needs: &["ranks"],
        make: |registry, values| {
            let registry = registry.clone();
            let find = move |name: &str, values: &[(&str, Value)]| {
                registry.find(name).map(|entry| entry.with_in(&registry, values))
            };
            Ok(Method::Algorithm(Box::new(ZeroRedundancy::new(find, values)?)))
        },
    },
    entry::<algorithms::BnbAdagrad>(),
    entry::<algorithms::BnbAdam>(),
    entry::<algorithms::BnbAdamW>(),
    entry::<algorithms::BnbLion>(),
    entry::<algorithms::BnbRmsProp>(),
    entry::<algorithms::BnbSgd>(),
];

/// The entry of a shipped name.
pub fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.name == name)
}

/// The name that is nearest to one that does not exist, if any is near.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let distance = |candidate: &str| strsim::damerau_levenshtein(&lower, &candidate.to_lowercase());
    let best = known.into_iter().map(|candidate| (distance(candidate), candidate)).min()?;
    (best.0 <= 1 + name.chars().count() / 3).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_their_defaults_valid() {
        assert!(ENTRIES.windows(2).all(|pair| pair[0].name < pair[1].name));
        for entry in ENTRIES {
            assert_eq!(entry.defaults().name(), entry.name);
        }
    }

    #[test]
    fn a_near_name_is_found() {
        let names = || ENTRIES.iter().map(|entry| entry.name);
        assert_eq!(nearest("adamw", names()), Some("AdamW"));
        assert_eq!(nearest("AdmaW", names()), Some("AdamW"));
        assert_eq!(nearest("Rotogravure", names()), None);
    }
}
