//! The page of LBFGS: its hyperparameters, its rules, what people should know.

use crate::hyper::{HyperError, Hyperparameters, Range};
use crate::{Info, Reference, hyperparameters};
use fallline_core::{Kernel, Link, rule};

hyperparameters! {
    /// LBFGS: quasi-Newton steps from the last few changes of position and gradient.
    ///
    /// ```text
    /// d  = −H g,  H the inverse Hessian that the pairs (s, y) of the history make of h I   (two loops)
    /// θ  ← θ + t d,  t = γ  (the first time min(1, 1/‖g‖₁) γ), or by a line search
    /// s = t d,  y = g(θ) − g;  kept if y·s > 10⁻¹⁰, and then h = y·s / y·y
    /// ```
    ///
    /// up to `max_iter` times a step, with γ = `lr`. It evaluates the loss itself, several times a step: use
    /// [`Optimizer::step_with`](crate::Optimizer::step_with). State: 4 bytes a parameter in `f32` for the direction and the last
    /// gradient each, and 8 for each pair of the history.
    pub Lbfgs as "LBFGS" {
        /// The step length γ.
        lr: f64 = 1.0, Range::AtLeast(0.0);
        /// Iterations in a step.
        max_iter: u64 = 20, Range::AtLeast(1.0);
        /// Evaluations in a step; by default `max_iter · 5 / 4`.
        max_eval: Option<u64> = None, Range::AtLeast(1.0);
        /// No more is done where no element of the gradient is larger.
        tolerance_grad: f64 = 1e-7, Range::AtLeast(0.0);
        /// No more is done where no element of the step, or the change of the loss, is larger.
        tolerance_change: f64 = 1e-9, Range::AtLeast(0.0);
        /// How many pairs are kept.
        history_size: u64 = 100, Range::AtLeast(1.0);
        /// `"strong_wolfe"` or none.
        line_search_fn: Option<String> = None, Range::Any;
        /// Maximize the objective.
        maximize: bool = false, Range::Any;
    }
}

rule! {
    /// `to = alpha · from`.
    pub ScaleRule(h: Lbfgs, t) {}
    per_tensor(alpha)
    element(from: Scratch) -> (to: Scratch) { to = alpha * from; }
}
rule! {
    /// `to = to + alpha · from`.
    pub AddRule(h: Lbfgs, t) {}
    per_tensor(alpha)
    element(from: Scratch) -> (to: Scratch) { to = to + alpha * from; }
}
rule! {
    /// The gradient, out of the training loop's memory.
    pub TakeGradRule(h: Lbfgs, t) {}
    element(g: Grad) -> (to: Scratch) { to = g; }
}
rule! {
    /// The parameter, out of the training loop's memory.
    pub TakeParamRule(h: Lbfgs, t) {}
    element(from: Param) -> (to: Scratch) { to = from; }
}
rule! {
    /// The parameter, into the training loop's memory.
    pub PutParamRule(h: Lbfgs, t) {}
    element(from: Scratch) -> (p: Param) { p = from; }
}
rule! {
    /// The scalar product.
    pub DotRule(h: Lbfgs, t) {}
    element(a: Scratch, b: Scratch) -> () sum(dot) { dot = a * b; }
}
rule! {
    /// The sum of absolute values, and how many of them, times `scale`, are above `limit` or NaN.
    pub SizeRule(h: Lbfgs, t) {}
    per_tensor(scale, limit)
    element(a: Scratch) -> () sum(total, above) {
        total = a.abs();
        above = L::select((scale * a.abs()).le(limit), L::splat(0.0), L::splat(1.0));
    }
}

/// The compiled rules of the iteration.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "each is the rule of its name")]
pub struct VectorRules {
    pub scale: &'static Kernel,
    pub add: &'static Kernel,
    pub take_grad: &'static Kernel,
    pub take_param: &'static Kernel,
    pub put_param: &'static Kernel,
    pub dot: &'static Kernel,
    pub size: &'static Kernel,
}

impl VectorRules {
    /// Returns those compiled by `K`.
    pub fn of<K: Link>() -> VectorRules {
        VectorRules {
            scale: K::kernel::<ScaleRule>(),
            add: K::kernel::<AddRule>(),
            take_grad: K::kernel::<TakeGradRule>(),
            take_param: K::kernel::<TakeParamRule>(),
            put_param: K::kernel::<PutParamRule>(),
            dot: K::kernel::<DotRule>(),
            size: K::kernel::<SizeRule>(),
        }
    }

    /// Returns all of them.
    pub fn all(self) -> [&'static Kernel; 7] {
        let VectorRules { scale, add, take_grad, take_param, put_param, dot, size } = self;
        [scale, add, take_grad, take_param, put_param, dot, size]
    }
}

impl Lbfgs {
    /// What people should know about it.
    pub const INFO: Info = Info {
        summary: "Quasi-Newton steps from the last few changes of position and gradient; it evaluates the loss itself.",
        family: "quasi-newton",
        source: "torch.optim",
        differences: "Scalars are kept in f64, where torch has the parameters' type.",
        references: &[
            Reference {
                text: "Liu & Nocedal 1989, On the limited memory BFGS method for large scale optimization",
                at: "doi:10.1007/BF01589116",
            },
            Reference { text: "Nocedal & Wright 2006, Numerical Optimization, ch. 3 and 7", at: "Springer" },
            Reference { text: "torch.optim.LBFGS", at: "torch 2.15.0" },
        ],
    };

    /// What an iteration does, a line each.
    pub const FORMULAS: &'static [&'static str] = &[
        "d ← −H g   (two loops over the last history_size pairs s, y; H starts as s·y / y·y)",
        "t ← γ, in the first iteration γ min(1, 1 / ‖g‖₁); with strong_wolfe where the search ends",
        "θ ← θ + t d",
        "s ← t d,  y ← g at the new θ − g   (kept where y·s > 1e-10)",
        "again until max_iter, max_eval, ‖g‖∞ ≤ tolerance_grad or a change ≤ tolerance_change",
    ];

    /// Checks what the ranges alone cannot.
    pub(super) fn check(&self) -> Result<(), HyperError> {
        match self.line_search_fn.as_deref() {
            None | Some("strong_wolfe") => Ok(()),
            Some(other) => Err(HyperError::Combination {
                algorithm: Self::NAME,
                problem: format!("line_search_fn must be None or strong_wolfe, got {other:?}"),
            }),
        }
    }
}
