//! `ZeroRedundancyOptimizer`: any algorithm, with its states shared out over the ranks.

use crate::compression::Compression;
use crate::hyper::{Hyper, HyperError, Range, Value};
use crate::lbfgs::Kernels;
use crate::stages::{Combining, Gathering, Groups, MatrixStep, Stages};
use crate::{AnyAlgorithm, Info, Reference, Sparse};
use core::any::Any;
use core::fmt;
use fallline_core::{Format, Kernel, Shape};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// An algorithm by its name, with its defaults.
#[derive(Clone)]
struct Find(Arc<dyn Fn(&str) -> Option<Box<dyn AnyAlgorithm>> + Send + Sync>);

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
        Reference {
            text: "Rajbhandari et al. 2020, ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
            at: "arXiv:1910.02054",
        },
        Reference { text: "mmengine.optim.ZeroRedundancyOptimizer", at: "mmengine 0.10.7" },
        Reference { text: "torch.distributed.optim.ZeroRedundancyOptimizer", at: "torch 2.15" },
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
    },
    Hyper {
        name: "parameters_as_bucket_view",
        kind: "bool",
        default: || Value::Bool(false),
        range: Range::Any,
        meaning: " Accepted for the source's sake; changes no number.",
        counts: false,
    },
    Hyper {
        name: "overlap_with_ddp",
        kind: "bool",
        default: || Value::Bool(false),
        range: Range::Any,
        meaning: " Only the default is accepted: with it torch leaves out the first steps.",
        counts: false,
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
        find: impl Fn(&str) -> Option<Box<dyn AnyAlgorithm>> + Send + Sync + 'static,
        values: &[(&str, Value)],
    ) -> Result<ZeroRedundancy, HyperError> {
        let inner = find("AdamW").expect("AdamW is known");
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
        let inner = found.ok_or_else(|| problem(format!("there is no optimizer_type {name:?}")))?;
        if inner.search().is_some() {
            return Err(problem(format!(
                "{name} cannot be shared out: it searches along all parameters together"
            )));
        }
        if !inner.same_on_all_ranks() {
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
        static TABLES: Mutex<Option<HashMap<(usize, usize), &'static [Hyper]>>> = Mutex::new(None);
        let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = self.inner.table();
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
        if (0..crate::algorithm::CLASSES).any(|class| inner.stages(class).gathers()) {
            let problem = format!("{kind} cannot be shared out: it looks at all parameters together");
            return Err(HyperError::Combination { algorithm: Self::NAME, problem });
        }
        (self.inner, self.kind) = (inner, kind);
        Ok(())
    }
    fn sharded(&self) -> bool {
        true
    }
    fn boxed(&self) -> Box<dyn AnyAlgorithm> {
        Box::new(ZeroRedundancy {
            find: self.find.clone(),
            kind: self.kind.clone(),
            inner: self.inner.boxed(),
        })
    }
    fn kernel(&self) -> &'static Kernel {
        self.inner.kernel()
    }
    fn stages(&self, class: u8) -> Stages {
        self.inner.stages(class)
    }
    fn class(&self, shape: &Shape) -> Result<u8, String> {
        self.inner.class(shape)
    }
    fn class_of(&self, name: &str, shape: &Shape) -> Result<u8, String> {
        self.inner.class_of(name, shape)
    }
    fn scalars(&self, class: u8, kernel: &Kernel, t: u64, out: &mut [f64]) {
        self.inner.scalars(class, kernel, t, out);
    }
    fn non_negative(&self) -> &'static [&'static str] {
        self.inner.non_negative()
    }
    fn state_format(&self, state: &str, elements: usize) -> Option<Format> {
        self.inner.state_format(state, elements)
    }
    fn paged(&self) -> bool {
        self.inner.paged()
    }
    fn offloaded(&self) -> bool {
        self.inner.offloaded()
    }
    fn memory(&self) -> &'static [(&'static str, f64)] {
        self.inner.memory()
    }
    fn shared(&self) -> &'static [(&'static str, f64)] {
        self.inner.shared()
    }
    fn combine(&self, stage: usize, at: &mut Combining<'_>) {
        self.inner.combine(stage, at);
    }
    fn gather<'a>(
        &'a self,
        groups: &Groups<'_, 'a, dyn AnyAlgorithm>,
        stage: usize,
        at: &mut Gathering<'_>,
    ) -> Result<(), String> {
        self.inner.gather(groups, stage, at)
    }
    fn skips(&self, stage: usize, shared: &[f64]) -> bool {
        self.inner.skips(stage, shared)
    }
    fn formed(&self, stage: usize) -> &'static [&'static str] {
        self.inner.formed(stage)
    }
    fn matrix(&self, stage: usize, step: &mut MatrixStep<'_>) -> fallline_core::Result<()> {
        self.inner.matrix(stage, step)
    }
    fn state_shape(&self, state: &str, shape: &Shape) -> Shape {
        self.inner.state_shape(state, shape)
    }
    fn repetition(&self, state: &str, shape: &Shape) -> Option<(usize, usize)> {
        self.inner.repetition(state, shape)
    }
    fn hessian_kernel(&self) -> Option<&'static Kernel> {
        self.inner.hessian_kernel()
    }
    fn hyper(&self) -> &dyn Any {
        self.inner.hyper()
    }
    fn search(&self) -> Option<Kernels> {
        self.inner.search()
    }
    fn typed(&self) -> &dyn Any {
        self.inner.typed()
    }
    fn maximize(&self) -> bool {
        self.inner.maximize()
    }
    fn initial(&self, state: &str) -> f64 {
        self.inner.initial(state)
    }
    fn starts_as_param(&self, state: &str) -> bool {
        self.inner.starts_as_param(state)
    }
    fn sparse(&self) -> Result<Sparse, &'static str> {
        self.inner.sparse()
    }
    fn dense(&self) -> Result<(), &'static str> {
        self.inner.dense()
    }
    fn matrix_rules(&self) -> Vec<&'static Kernel> {
        self.inner.matrix_rules()
    }
    fn grad_check(&self) -> &'static Kernel {
        self.inner.grad_check()
    }
    fn param_copy(&self) -> &'static Kernel {
        self.inner.param_copy()
    }
    fn compression(&self) -> Compression {
        self.inner.compression()
    }
    fn wrapping(&self) -> crate::wrapper::Kernels {
        self.inner.wrapping()
    }
}
