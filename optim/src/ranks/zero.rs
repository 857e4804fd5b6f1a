//! `ZeroRedundancyOptimizer`: any algorithm, with its states sharded over the ranks (ZeRO stage 1).

use crate::hyper::{Hyper, HyperError, Range, Value};
use crate::{AnyAlgorithm, Info, Method, Modifiers, Reference, Stepped};
use core::fmt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What a name means, with these hyperparameters.
#[derive(Clone)]
struct Find(Arc<Names>);

type Names = dyn Fn(&str, &[(&str, Value)]) -> Option<Result<Method, HyperError>> + Send + Sync;

impl fmt::Debug for Find {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Find(..)")
    }
}

/// Another algorithm with sharded states, as MMEngine builds it (ZeRO stage 1; Rajbhandari et al. 2020). Each
/// parameter's states and update belong to one rank alone. `optimizer_type` names the algorithm, all other
/// hyperparameters are its own.
///
/// With one rank it is that algorithm.
#[derive(Debug)]
pub struct ZeroRedundancy {
    find: Find,
    kind: String,
    inner: Box<dyn AnyAlgorithm>,
}

const INFO: Info = Info {
    summary: "Another algorithm with sharded states (ZeRO stage 1): each rank owns some parameters and updates them.",
    family: "ranks",
    source: "MMEngine 0.10.7 over torch 2.15",
    differences: "Rules, states and the other hyperparameters are those of the algorithm that optimizer_type names, here \
        AdamW. Any name of the registry will do whose parameters are updated one by one, not only torch's; Adafactor is \
        torch's here, as MMEngine means it. A parameter goes to the same rank as in torch (partition); updated \
        parameters are packed before they are sent.",
    references: &[
        Reference::new(
            "Rajbhandari et al. 2020, ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
            "arXiv:1910.02054",
        ),
        Reference::new("mmengine.optim.ZeroRedundancyOptimizer", "mmengine 0.10.7"),
        Reference::new("torch.distributed.optim.ZeroRedundancyOptimizer", "torch 2.15"),
    ],
};

/// The hyperparameters in addition to those of the algorithm.
const OWN: [Hyper; 3] = [
    Hyper {
        name: "optimizer_type",
        kind: "name of an optimizer",
        default: || Value::Text("AdamW".into()),
        range: Range::Any,
        meaning: " The algorithm whose states are sharded; a configuration must give it.",
        counts: true,
        kept: false,
    },
    Hyper {
        name: "parameters_as_bucket_view",
        kind: "bool",
        default: || Value::Bool(false),
        range: Range::Any,
        meaning: " Accepted for compatibility; ignored.",
        counts: false,
        kept: false,
    },
    Hyper {
        name: "overlap_with_ddp",
        kind: "bool",
        default: || Value::Bool(false),
        range: Range::Any,
        meaning: " Only the default is accepted: with it torch leaves out the first steps.",
        counts: false,
        kept: false,
    },
];

impl ZeroRedundancy {
    /// Its name in configurations.
    pub const NAME: &'static str = "ZeroRedundancyOptimizer";

    /// With these hyperparameters; without `optimizer_type` it is AdamW. `find` makes an algorithm by its name, with the
    /// hyperparameters that it is given and the defaults for the others.
    ///
    /// # Errors
    /// When there is no such algorithm, its states cannot be sharded, or it does not take the hyperparameters.
    pub fn new(
        find: impl Fn(&str, &[(&str, Value)]) -> Option<Result<Method, HyperError>> + Send + Sync + 'static,
        values: &[(&str, Value)],
    ) -> Result<ZeroRedundancy, HyperError> {
        let find = Find(Arc::new(find));
        let named = values.iter().find(|(name, _)| *name == OWN[0].name);
        let kind = named.map_or_else(|| Value::Text("AdamW".into()), |(_, value)| value.clone());
        let (kind, inner) = Self::of_type(&find, &kind, values)?;
        Ok(ZeroRedundancy { find, kind, inner })
    }

    /// Returns the algorithm of a type, made with those of these hyperparameters that it has: some keep what they
    /// were made with.
    fn of_type(
        find: &Find,
        kind: &Value,
        values: &[(&str, Value)],
    ) -> Result<(String, Box<dyn AnyAlgorithm>), HyperError> {
        let problem = |problem: String| HyperError::Combination { algorithm: Self::NAME, problem };
        let Value::Text(name) = kind else {
            return Err(HyperError::Type {
                algorithm: Self::NAME,
                name: OWN[0].name,
                expected: OWN[0].kind,
                got: kind.to_string(),
            });
        };
        let bare = name.rsplit('.').next().unwrap_or(name);
        let find = |values: &[_]| (find.0)(if bare == "Adafactor" { "TorchAdafactor" } else { bare }, values);
        // That it can be sharded is checked before its hyperparameters.
        let inner = match find(&[]) {
            Some(Ok(Method::Algorithm(inner))) => inner,
            Some(Ok(Method::Search(_))) => {
                return Err(problem(format!(
                    "{name} cannot be sharded: it searches along all parameters together"
                )));
            }
            Some(Err(error)) => return Err(error),
            None => return Err(problem(format!("there is no optimizer_type {name:?}"))),
        };
        if inner.spec().replicas.error_feedback.is_some() {
            let reason = "it sends compressed momenta to all ranks itself, each of which needs all states";
            return Err(problem(format!("{name} cannot be sharded: {reason}")));
        }
        if inner.sharded() {
            return Err(problem(format!("{name} is sharded already")));
        }
        let own = Self::others(values)?;
        let inner = match find(&own) {
            Some(Ok(Method::Algorithm(made))) if !own.is_empty() => made,
            Some(Err(error)) => return Err(Self::with_own(error)),
            _ => inner,
        };
        Self::checked(name, inner.as_ref())?;
        Ok((name.clone(), inner))
    }

    /// Returns what is not the wrapper's own of these hyperparameters.
    fn others<'v>(values: &[(&'v str, Value)]) -> Result<Vec<(&'v str, Value)>, HyperError> {
        let mut others = Vec::new();
        for (name, value) in values {
            match OWN.iter().find(|own| own.name == *name) {
                None => others.push((*name, value.clone())),
                Some(own) if own.counts => {}
                Some(own) => match value {
                    Value::Bool(true) if own.name == "overlap_with_ddp" => {
                        let problem =
                            "overlap_with_ddp must be False: with it torch leaves out the first steps";
                        return Err(HyperError::Combination {
                            algorithm: Self::NAME,
                            problem: problem.into(),
                        });
                    }
                    Value::Bool(_) => {}
                    other => {
                        let (name, got) = (own.name, other.to_string());
                        return Err(HyperError::Type {
                            algorithm: Self::NAME,
                            name,
                            expected: own.kind,
                            got,
                        });
                    }
                },
            }
        }
        Ok(others)
    }

    /// Returns the error, with the wrapper's own hyperparameters among those that there are.
    fn with_own(error: HyperError) -> HyperError {
        match error {
            HyperError::Unknown { name, mut known, .. } => {
                known.splice(0..0, OWN.iter().map(|own| own.name));
                HyperError::Unknown { algorithm: Self::NAME, name, known }
            }
            other => other,
        }
    }

    /// Some algorithms do with some hyperparameters only.
    fn checked(kind: &str, inner: &dyn AnyAlgorithm) -> Result<(), HyperError> {
        if inner.programs().any(|program| program.is_global()) {
            let problem = format!("{kind} cannot be sharded: it looks at all parameters together");
            return Err(HyperError::Combination { algorithm: Self::NAME, problem });
        }
        Ok(())
    }
}

impl AnyAlgorithm for ZeroRedundancy {
    fn name(&self) -> &'static str {
        Self::NAME
    }
    fn info(&self) -> &'static Info {
        &INFO
    }
    fn table(&self) -> &'static [Hyper] {
        // A table for each that was ever asked for, which are few: by where it is, as two algorithms may share a name.
        type Tables = HashMap<(usize, usize), &'static [Hyper]>;
        static TABLES: Mutex<Option<Tables>> = Mutex::new(None);
        let inner = self.inner.table();
        let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        let table = || Box::leak(OWN.iter().chain(inner).copied().collect::<Box<[Hyper]>>());
        let place = (inner.as_ptr().addr(), inner.len());
        tables.get_or_insert_default().entry(place).or_insert_with(|| table())
    }
    fn get(&self, name: &str) -> Option<Value> {
        if name == OWN[0].name { Some(Value::Text(self.kind.clone())) } else { self.inner.get(name) }
    }
    fn set(&mut self, values: &[(&str, Value)]) -> Result<(), HyperError> {
        if let Some((_, kind)) = values.iter().find(|(name, _)| *name == OWN[0].name)
            && self.get(OWN[0].name).as_ref() != Some(kind)
        {
            (self.kind, self.inner) = Self::of_type(&self.find, kind, values)?;
            return Ok(());
        }
        let mut inner = self.inner.boxed();
        inner.set(&Self::others(values)?).map_err(Self::with_own)?;
        Self::checked(&self.kind, inner.as_ref())?;
        self.inner = inner;
        Ok(())
    }
    fn modifiers(&self) -> Modifiers {
        Modifiers { sharded: true, ..self.inner.modifiers() }
    }
    fn boxed(&self) -> Box<dyn AnyAlgorithm> {
        Box::new(ZeroRedundancy {
            find: self.find.clone(),
            kind: self.kind.clone(),
            inner: self.inner.boxed(),
        })
    }
    fn core(&self) -> &dyn Stepped {
        self.inner.core()
    }
}
