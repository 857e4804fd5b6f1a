//! What follows from an algorithm whose types are erased: its programs, rules and states.

use super::{AnyAlgorithm, Sparse, Spec, StateSpec, StorageDefaults};
use crate::hyper::Value;
use crate::modifiers::modify;
use crate::program::{AnySite, Mode, Program, Variant};
use core::any::Any;
use fallline_core::Builtins;
use fallline_core::{Format, Groups, Kernel, Role, Shape};

impl dyn AnyAlgorithm + '_ {
    /// Returns what a step over parameters of a variant consists of, in a separate group.
    ///
    /// # Errors
    /// Why there is no such program.
    pub fn program_on(&self, variant: Variant, distributed: bool) -> Result<Program, String> {
        let hyper = |_: usize| self.hyper();
        self.program_at(&AnySite::new(variant, distributed, &Groups::new(1, &hyper)))
    }

    /// Returns what a step consists of, with what [modifiers](AnyAlgorithm::modifiers) make of it.
    ///
    /// # Errors
    /// Why there is no such program.
    pub fn program_at(&self, on: &AnySite<'_, '_>) -> Result<Program, String> {
        modify(self.core().program(on)?, self)
    }

    /// Hands over the hyperparameters that a rule of one of its programs takes: the algorithm's, or those of a modifier.
    pub(crate) fn with_hyper(&self, program: &Program, kernel: &Kernel, with: &mut dyn FnMut(&dyn Any)) {
        match self.modifiers().lookahead {
            Some(lookahead) if kernel.takes(&lookahead) => with(&lookahead),
            _ => program.with_hyper(self.hyper(), with),
        }
    }

    /// Returns whether each parameter's states and update belong to one rank alone, where there are several.
    pub fn sharded(&self) -> bool {
        self.modifiers().sharded
    }

    /// Returns the same on one rank. Without any stage where there is none.
    pub fn program(&self, variant: Variant) -> Program {
        self.program_on(variant, false).unwrap_or(Program::EMPTY)
    }

    /// Returns its programs on one rank, some of them more than once.
    pub fn programs(&self) -> impl Iterator<Item = Program> {
        Variant::all().map(|variant| self.program(variant))
    }

    /// Returns the program of a parameter, on one rank.
    ///
    /// # Errors
    /// Why the algorithm does not take it.
    pub fn program_of(&self, name: &str, shape: &Shape) -> Result<Program, String> {
        Ok(self.program(self.variant(name, shape)?))
    }

    /// Returns every rule that runs with these hyperparameters, for parameters of any variant, each once.
    pub fn kernels(&self) -> Vec<&'static Kernel> {
        let distributed = Variant::all().filter_map(|variant| self.program_on(variant, true).ok());
        let programs: Vec<Program> = self.programs().zip(distributed).flat_map(|(a, b)| [a, b]).collect();
        let builtins = self.builtins();
        let compression = self.spec().replicas.error_feedback.map(|_| builtins.of_compression());
        let passes = programs.iter().flat_map(Program::kernels).chain(compression.into_iter().flatten());
        let (check, copy) = (builtins.grad_check(), builtins.param_copy());
        let modes = |program: &Program| [Mode::Evaluation, Mode::Training].map(|to| program.mode(to));
        let beside = programs.iter().flat_map(|program| [program.hessian(), program.restore()]);
        let beside = beside.chain(programs.iter().flat_map(modes)).flatten();
        let ops = programs.iter().flat_map(Program::ops).flat_map(|op| op.rules());
        let mut all: Vec<&'static Kernel> = Vec::new();
        let others = [check, copy].into_iter().chain(beside).chain(ops);
        for kernel in passes.chain(others).chain(builtins.of_gradients()) {
            if !all.iter().any(|known| known.name == kernel.name) {
                all.push(kernel);
            }
        }
        all
    }

    /// Returns the states that may diverge between ranks for a while, of parameters of the first variant.
    pub(crate) fn rank_local_states(&self) -> Vec<&'static str> {
        let program = self.program_on(Variant::ONLY, true);
        let mut states = program.map_or_else(|_| Vec::new(), |program| program.operands(Role::State));
        states.retain(|state| self.state(state).rank_local);
        states
    }

    /// Returns the rule that accumulates gradients of sampled labels into the Hessian, of an algorithm that has an
    /// estimate of it.
    pub fn hessian(&self) -> Option<&'static Kernel> {
        self.program(Variant::ONLY).hessian()
    }

    /// Returns whether it climbs: whether its hyperparameter `maximize` is true.
    pub fn maximize(&self) -> bool {
        self.get("maximize") == Some(Value::Bool(true))
    }

    /// Returns how a state of a parameter with so many elements is stored by default, if not in the compute type.
    pub fn state_format(&self, state: &str, elements: usize) -> Option<Format> {
        if self.modifiers().state(state).is_some() {
            return None;
        }
        let block = self.storage().block.filter(|block| elements >= block.from)?;
        Some(block.format(self.state(state).non_negative))
    }

    /// Returns what it makes of row-sparse gradients, where it takes them.
    ///
    /// # Errors
    /// Why it does not, with its name.
    pub fn takes_rows(&self) -> Result<Sparse, String> {
        match self.sparse() {
            Sparse::Refused => Err(format!("{} does not take row-sparse gradients", self.name())),
            Sparse::RefusedFor(reason) => Err(format!("{} {reason}", self.name())),
            taken => Ok(taken),
        }
    }

    /// Checks that it takes gradients that are not row-sparse.
    ///
    /// # Errors
    /// Why it does not, with its name.
    pub fn takes_dense(&self) -> Result<(), String> {
        match self.sparse() {
            Sparse::RowsOnly => {
                Err(format!("{} does not support dense gradients, please consider Adam instead", self.name()))
            }
            _ => Ok(()),
        }
    }

    /// Returns the names of the states that parameters of the first variant have.
    pub fn states(&self) -> Vec<&'static str> {
        self.program(Variant::ONLY).operands(Role::State)
    }

    /// Returns the hyperparameters of what is stepped, with their type.
    pub fn hyper(&self) -> &dyn Any {
        self.core().hyper()
    }

    /// Returns what is the same for all hyperparameters.
    pub fn spec(&self) -> &'static Spec {
        self.core().spec()
    }

    /// Returns what is unusual about a state or scratch.
    pub fn state(&self, name: &str) -> StateSpec {
        self.modifiers().state(name).unwrap_or_else(|| self.core().state(name))
    }

    /// Returns which of its programs a parameter takes.
    ///
    /// # Errors
    /// Why the algorithm does not take it.
    pub fn variant(&self, name: &str, shape: &Shape) -> Result<Variant, String> {
        self.core().variant(name, shape)
    }

    /// Returns how states are stored unless a configuration says otherwise.
    pub fn storage(&self) -> StorageDefaults {
        self.core().storage()
    }

    /// Returns what it makes of row-sparse gradients.
    pub fn sparse(&self) -> Sparse {
        self.modifiers().sparse(self.core().sparse())
    }

    /// Returns the rules that are run whatever the algorithm is, compiled by the same [`Link`](fallline_core::Link).
    pub fn builtins(&self) -> &'static Builtins {
        self.core().builtins()
    }
}
