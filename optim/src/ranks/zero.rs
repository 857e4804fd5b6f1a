//! `ZeroRedundancyOptimizer`: any algorithm, with its states shared out over the ranks.

use crate::hyper::{Hyper, HyperError, Range, Value};
use crate::{AnyAlgorithm, Info, Method, Modifiers, Reference, Stepped};
use core::fmt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What a name stands for, with its defaults.
#[derive(Clone)]
struct Find(Arc<Names>);

type Names = dyn Fn(&str) -> Option<Method> + Send + Sync;

impl fmt::Debug for Find {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Find(..)")
    }
}

/// Another algorithm, each parameter's states and update of which belong to one rank alone (ZeRO stage 1; Rajbhandari et
/// al. 2020), as MMEngine builds it: `optimizer_type` names the algorithm, all other hyperparameters are its own.
///
/// With one rank it is that algorithm.
#[derive(Debug)]
pub struct ZeroRedundancy {
    find: Find,
    kind: String,
    inner: Box<dyn AnyAlgorithm>,
}

const INFO: Info = Info {
    summary: "Another algorithm with its states shared out: each rank has those of some parameters and updates these.",
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

/// The hyperparameters beside those of the algorithm.
const OWN: [Hyper; 3] = [
    Hyper {
        name: "optimizer_type",
        kind: "name of an optimizer",
        default: || Value::Text("AdamW".into()),
        range: Range::Any,
        meaning: " The algorithm whose states are shared out; a configuration must give it.",
        counts: true,
        kept: false,
    },
    Hyper {
        name: "parameters_as_bucket_view",
        kind: "bool",
        default: || Value::Bool(false),
        range: Range::Any,
        meaning: " Accepted for the source's sake; changes no number.",
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

    /// With these hyperparameters; without `optimizer_type` it is AdamW. `find` gives an algorithm by its name, with its
    /// defaults.
    ///
    /// # Errors
    /// When there is no such algorithm, it cannot be shared out, or it does not take the hyperparameters.
    ///
    /// # Panics
    /// When `find` does not know AdamW.
    pub fn new(
        find: impl Fn(&str) -> Option<Method> + Send + Sync + 'static,
        values: &[(&str, Value)],
    ) -> Result<ZeroRedundancy, HyperError> {
        let Some(Method::Algorithm(inner)) = find("AdamW") else { panic!("AdamW is known") };
        let mut zero = ZeroRedundancy { find: Find(Arc::new(find)), kind: "AdamW".into(), inner };
        zero.set(values)?;
        Ok(zero)
    }

    fn of_type(&self, value: &Value) -> Result<Box<dyn AnyAlgorithm>, HyperError> {
        let problem = |problem: String| HyperError::Combination { algorithm: Self::NAME, problem };
        let Value::Text(name) = value else {
            return Err(HyperError::Type {
                algorithm: Self::NAME,
                name: OWN[0].name,
                expected: OWN[0].kind,
                got: value.to_string(),
            });
        };
        let bare = name.rsplit('.').next().unwrap_or(name);
        let found = (self.find.0)(if bare == "Adafactor" { "TorchAdafactor" } else { bare });
        let inner = match found {
            Some(Method::Algorithm(inner)) => inner,
            Some(Method::Search(_)) => {
                return Err(problem(format!(
                    "{name} cannot be shared out: it searches along all parameters together"
                )));
            }
            None => return Err(problem(format!("there is no optimizer_type {name:?}"))),
        };
        if inner.spec().replicas.error_feedback.is_some() {
            let reason = "it sends compressed momenta to all ranks itself, each of which needs all states";
            return Err(problem(format!("{name} cannot be shared out: {reason}")));
        }
        if inner.sharded() {
            return Err(problem(format!("{name} is shared out already")));
        }
        Ok(inner)
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
        let mut inner = self.inner.boxed();
        let mut kind = self.kind.clone();
        // The algorithm first: it decides which others there are.
        if let Some((_, value)) = values.iter().find(|(name, _)| *name == OWN[0].name)
            && self.get(OWN[0].name).as_ref() != Some(value)
        {
            inner = self.of_type(value)?;
            kind = value.to_string().trim_matches('"').to_owned();
        }
        let mut rest = Vec::new();
        for (name, value) in values {
            match OWN.iter().find(|own| own.name == *name) {
                None => rest.push((*name, value.clone())),
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
        inner.set(&rest).map_err(|error| match error {
            HyperError::Unknown { name, mut known, .. } => {
                known.splice(0..0, OWN.iter().map(|own| own.name));
                HyperError::Unknown { algorithm: Self::NAME, name, known }
            }
            other => other,
        })?;
        // Some algorithms do with some hyperparameters only.
        if inner.programs().any(|program| program.is_global()) {
            let problem = format!("{kind} cannot be shared out: it looks at all parameters together");
            return Err(HyperError::Combination { algorithm: Self::NAME, problem });
        }
        (self.inner, self.kind) = (inner, kind);
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
