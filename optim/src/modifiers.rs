//! Modifiers of any algorithm: cautious updates, Lookahead.
//!
//! [`Modifiers`] are data, and one function makes of an algorithm's [`Program`] the modified one; formats, devices, ranks
//! and checkpoints know no difference. Without a modifier nothing changes.

mod cautious;
pub(crate) mod settings;

pub use fallline_core::builtins::{AgreementRule, CautiousRule, Lookahead, LookaheadRule};
pub use settings::{LOOKAHEAD_STEPS, Modifiers, SLOW};

use crate::algorithm::{Sparse, Stepped};
use crate::hyper::{Hyper, HyperError, HyperType, Range, Value, convert};
use crate::program::{Program, Variant};
use crate::{AnyAlgorithm, Info};
use core::fmt::Debug;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Returns what modifiers make of an algorithm's program.
///
/// # Errors
/// Why they cannot.
pub(crate) fn modify(program: Program, algorithm: &(dyn AnyAlgorithm + '_)) -> Result<Program, String> {
    let Modifiers { cautious, lookahead, .. } = algorithm.modifiers();
    let mut modified = program;
    if cautious && program != Program::EMPTY {
        modified = cautious::modify(modified, algorithm)?;
    }
    if lookahead.is_some() && program != Program::EMPTY {
        modified = modified.closed_by(algorithm.builtins().lookahead());
    }
    Ok(modified)
}

/// An algorithm with modifiers. In addition to its hyperparameters it has `cautious`, and `lookahead_k` and
/// `lookahead_alpha`, as far as they were given.
#[derive(Debug)]
pub struct Modified {
    inner: Box<dyn AnyAlgorithm>,
    cautious: Option<bool>,
    lookahead: Option<Lookahead>,
}

const CAUTIOUS: Hyper = Hyper {
    name: "cautious",
    kind: bool::NAME,
    default: || Value::Bool(false),
    range: Range::Any,
    meaning: " Only elements whose update has the sign of their gradient move, and further.",
    counts: true,
    kept: false,
};

const LOOKAHEAD: [Hyper; 2] = [
    Hyper {
        name: "lookahead_k",
        kind: u64::NAME,
        default: || Value::Int(5),
        range: Range::AtLeast(1.0),
        meaning: " Lookahead: steps from one sync with the slow weights to the next.",
        counts: true,
        kept: false,
    },
    Hyper {
        name: "lookahead_alpha",
        kind: f64::NAME,
        default: || Value::Float(0.5),
        range: Range::HalfOpen(0.0, 1.0),
        meaning: " Lookahead: how far the slow weights go towards the parameters.",
        counts: true,
        kept: false,
    },
];

impl Modified {
    /// Wraps an algorithm in cautious updates.
    ///
    /// # Errors
    /// [`HyperError::Combination`] where it has no update that could be masked.
    pub fn cautious(inner: Box<dyn AnyAlgorithm>) -> Result<Box<dyn AnyAlgorithm>, HyperError> {
        Modified { inner, cautious: Some(true), lookahead: None }.checked()
    }

    /// Wraps an algorithm in a Lookahead.
    ///
    /// # Errors
    /// [`HyperError`] where `k` or `alpha` is out of range, or the algorithm cannot be wrapped so.
    pub fn lookahead(
        inner: Box<dyn AnyAlgorithm>,
        lookahead: Lookahead,
    ) -> Result<Box<dyn AnyAlgorithm>, HyperError> {
        let mut modified = Modified { inner, cautious: None, lookahead: Some(Lookahead::default()) };
        let Lookahead { k, alpha } = lookahead;
        modified.set_own(LOOKAHEAD[0].name, &k.to_value())?;
        modified.set_own(LOOKAHEAD[1].name, &alpha.to_value())?;
        modified.checked()
    }

    fn checked(self) -> Result<Box<dyn AnyAlgorithm>, HyperError> {
        let name = self.name();
        let refused = |problem: String| Err(HyperError::Combination { algorithm: name, problem });
        let what = if self.lookahead.is_some() { "Lookahead" } else { "cautious" };
        let replicas = &self.inner.spec().replicas;
        if self.inner.sparse() == Sparse::RowsOnly {
            return refused(format!("{what} does not go with it: it takes row-sparse gradients only"));
        }
        if self.lookahead.is_some() && replicas.diverged.is_some() {
            let reason = "its replicas diverge between two exchanges";
            return refused(format!("{what} does not go with it: {reason}"));
        }
        if self.lookahead.is_some() && self.inner.modifiers().lookahead.is_some() {
            return refused("it is in a Lookahead already".into());
        }
        let inner = &*self.inner;
        // What has no program as it is fails as ever, when it is asked for.
        for (variant, distributed) in Variant::all().flat_map(|variant| [(variant, false), (variant, true)]) {
            if inner.program_on(variant, distributed).is_ok()
                && let Err(problem) = (&self as &dyn AnyAlgorithm).program_on(variant, distributed)
            {
                return refused(problem);
            }
        }
        Ok(Box::new(self))
    }

    /// Sets a hyperparameter of the modifiers. Returns whether there is one of this name.
    fn set_own(&mut self, name: &str, value: &Value) -> Result<bool, HyperError> {
        let algorithm = self.inner.name();
        let [k, alpha] = &LOOKAHEAD;
        if let Some(cautious) = self.cautious.as_mut().filter(|_| name == CAUTIOUS.name) {
            *cautious = convert(algorithm, CAUTIOUS.name, CAUTIOUS.range, value)?;
        } else if let Some(lookahead) = self.lookahead.as_mut().filter(|_| name == k.name) {
            lookahead.k = convert(algorithm, k.name, k.range, value)?;
        } else if let Some(lookahead) = self.lookahead.as_mut().filter(|_| name == alpha.name) {
            lookahead.alpha = convert(algorithm, alpha.name, alpha.range, value)?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// Returns the rows of the modifiers' hyperparameters.
    fn own(&self) -> impl Iterator<Item = &'static Hyper> {
        let cautious = self.cautious.is_some().then_some(&CAUTIOUS);
        let lookahead = self.lookahead.is_some().then_some(&LOOKAHEAD);
        cautious.into_iter().chain(lookahead.into_iter().flatten())
    }
}

/// Tables with rows behind them: one for each that was ever asked for, which are few.
type Tables = HashMap<(usize, bool, bool), &'static [Hyper]>;

impl AnyAlgorithm for Modified {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn info(&self) -> &'static Info {
        self.inner.info()
    }
    fn table(&self) -> &'static [Hyper] {
        static TABLES: Mutex<Option<Tables>> = Mutex::new(None);
        // First: what is modified may be so already, and has a table here.
        let inner = self.inner.table();
        let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (inner.as_ptr().addr(), self.cautious.is_some(), self.lookahead.is_some());
        let table = || Box::leak(inner.iter().chain(self.own()).copied().collect::<Box<[Hyper]>>());
        tables.get_or_insert_default().entry(key).or_insert_with(|| table())
    }
    fn get(&self, name: &str) -> Option<Value> {
        match (name, self.cautious, self.lookahead) {
            ("cautious", Some(cautious), _) => Some(cautious.to_value()),
            ("lookahead_k", _, Some(lookahead)) => Some(lookahead.k.to_value()),
            ("lookahead_alpha", _, Some(lookahead)) => Some(lookahead.alpha.to_value()),
            _ => self.inner.get(name),
        }
    }
    fn set(&mut self, values: &[(&str, Value)]) -> Result<(), HyperError> {
        let (cautious, lookahead) = (self.cautious, self.lookahead);
        let mut rest = Vec::new();
        let mut set = || {
            for (name, value) in values {
                if !self.set_own(name, value)? {
                    rest.push((*name, value.clone()));
                }
            }
            self.inner.set(&rest).map_err(|error| match error {
                HyperError::Unknown { algorithm, name, mut known } => {
                    known.extend(self.own().map(|hyper| hyper.name));
                    HyperError::Unknown { algorithm, name, known }
                }
                other => other,
            })
        };
        let done = set();
        if done.is_err() {
            (self.cautious, self.lookahead) = (cautious, lookahead);
        }
        done
    }
    fn modifiers(&self) -> Modifiers {
        let inner = self.inner.modifiers();
        Modifiers {
            cautious: self.cautious.unwrap_or(inner.cautious),
            lookahead: self.lookahead.or(inner.lookahead),
            ..inner
        }
    }
    fn boxed(&self) -> Box<dyn AnyAlgorithm> {
        let &Modified { cautious, lookahead, .. } = self;
        Box::new(Modified { inner: self.inner.boxed(), cautious, lookahead })
    }
    fn core(&self) -> &dyn Stepped {
        self.inner.core()
    }
}
