//! The table of names: the one place where algorithms are linked with the CPU's lanes, and so compiled.

use fallline_cpu::Native;
use fallline_optim::hyper::{HyperError, Value};
use fallline_optim::{Algorithm, AnyAlgorithm, Linked, algorithms};

/// One name of the registry.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The name in configurations.
    pub name: &'static str,
    /// What the algorithm needs beyond gradients: a closure, matrices, ranks.
    pub needs: &'static [&'static str],
    make: Make,
}

/// From hyperparameters to an algorithm.
type Make = fn(&[(&str, Value)]) -> Result<Box<dyn AnyAlgorithm>, HyperError>;

impl Entry {
    /// The algorithm with these hyperparameters, and the defaults for the others.
    ///
    /// # Errors
    /// When one does not exist, has another type, is out of range, or excludes another.
    pub fn with(&self, values: &[(&str, Value)]) -> Result<Box<dyn AnyAlgorithm>, HyperError> {
        (self.make)(values)
    }

    /// The algorithm with its defaults.
    pub fn defaults(&self) -> Box<dyn AnyAlgorithm> {
        match (self.make)(&[]) {
            Ok(algorithm) => algorithm,
            Err(error) => unreachable!("the defaults of {} are valid: {error}", self.name),
        }
    }

    /// Bytes of state for each parameter element, with the defaults and states in `f32`.
    pub fn state_bytes(&self) -> f64 {
        4.0 * self.defaults().states().len() as f64
    }
}

const fn entry<A: Algorithm>() -> Entry {
    Entry {
        name: A::NAME,
        needs: &[],
        make: |values| {
            let mut algorithm = A::default();
            values.iter().try_for_each(|(name, value)| algorithm.set(name, value))?;
            Ok(Box::new(Linked::<A, Native>::new(algorithm)?))
        },
    }
}

/// Every name, sorted.
pub const ENTRIES: &[Entry] = &[
    entry::<algorithms::Asgd>(),
    entry::<algorithms::AdEmaMix>(),
    entry::<algorithms::AdEmaMix32bit>(),
    entry::<algorithms::Adadelta>(),
    entry::<algorithms::Adagrad>(),
    entry::<algorithms::Adagrad32bit>(),
    entry::<algorithms::Adam>(),
    entry::<algorithms::Adam32bit>(),
    entry::<algorithms::AdamW>(),
    entry::<algorithms::Adafactor>(),
    Entry { needs: &["closure"], ..entry::<algorithms::Lbfgs>() },
    Entry { needs: &["matrix"], ..entry::<algorithms::Muon>() },
    entry::<algorithms::DAdaptAdaGrad>(),
    entry::<algorithms::DAdaptAdam>(),
    entry::<algorithms::DAdaptSgd>(),
    entry::<algorithms::FusedLamb>(),
    entry::<algorithms::Lamb>(),
    entry::<algorithms::Lamb32bit>(),
    entry::<algorithms::Lars>(),
    entry::<algorithms::Lars32bit>(),
    entry::<algorithms::Lion>(),
    entry::<algorithms::PytorchLars>(),
    entry::<algorithms::Sgd>(),
    entry::<algorithms::TorchAdafactor>(),
    entry::<algorithms::AdamW32bit>(),
    entry::<algorithms::Adamax>(),
    entry::<algorithms::CpuAdam>(),
    entry::<algorithms::FusedAdam>(),
    entry::<algorithms::Lion32bit>(),
    entry::<algorithms::NAdam>(),
    entry::<algorithms::RAdam>(),
    entry::<algorithms::RmsProp>(),
    entry::<algorithms::RmsProp32bit>(),
    entry::<algorithms::Rprop>(),
    entry::<algorithms::Sgd32bit>(),
    entry::<algorithms::SophiaG>(),
    entry::<algorithms::BnbAdagrad>(),
    entry::<algorithms::BnbAdam>(),
    entry::<algorithms::BnbAdamW>(),
    entry::<algorithms::BnbLion>(),
    entry::<algorithms::BnbRmsProp>(),
    entry::<algorithms::BnbSgd>(),
];

/// The entry of a name.
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
