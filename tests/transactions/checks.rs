//! Every check that can refuse or skip a step, and what else the caller can do to one.

use crate::common::Buffer;
use crate::device::{alone, cuda};
use crate::seen::{Undisturbed, attempt, row};
use crate::table::Table;
use crate::trainer::{
    Act, Done, Grad, Held, Memory, Place, Trainer, bind, cpu, curvature, numbers, step, stream, switch,
    tensor,
};
use fallline::optim::mask::MomentumMask;
use fallline::optim::{Binding, Error, Mode, Objective, ParamPrecision, StateStorage};
use fallline::{Average, Compute, Driver, Format, NonFinitePolicy, Optimizer, Value};
use std::sync::atomic::{AtomicBool, Ordering};

/// Something that goes wrong in place of a step, or before one.
pub struct Check {
    title: &'static str,
    make: fn() -> Trainer,
    /// The steps before.
    at: usize,
    bad: Act,
    /// What a good step is.
    act: Act,
}

impl Check {
    pub const fn new(title: &'static str, make: fn() -> Trainer, at: usize, bad: Act) -> Check {
        Check { title, make, at, bad, act: step }
    }

    /// With another kind of step.
    const fn by(self, act: Act) -> Check {
        Check { act, ..self }
    }

    /// Its row.
    pub fn write(&self, table: &mut Table) {
        let Check { title, make, at, bad, act } = *self;
        let run = Undisturbed::run(make(), act, at + 1);
        let mut trainer = make();
        (0..at).for_each(|t| drop(act(&mut trainer, t).expect("a good step")));
        let done = attempt(|| bad(&mut trainer, at));
        table.row(title, &row(&mut trainer, (done, act), &run, (at, at)));
    }
}

/// Parameters of the host.
pub fn host(text: &str) -> Trainer {
    Trainer::new(&cpu(), text, Place::Host)
}

fn adamw() -> Trainer {
    host("dict(type='AdamW', lr=0.1)")
}

fn policy(policy: NonFinitePolicy) -> Trainer {
    adamw().with(|driver| driver.with_non_finite(policy))
}

pub fn average() -> Average {
    Average::exponential(0.25).expect("between 0 and 1")
}

/// AdamW with something around it.
pub fn wrapped(rest: &str) -> Trainer {
    let own = "optimizer=dict(type='AdamW', lr=0.1)";
    let kind = if rest.contains("loss_scale") { "AmpOptimWrapper" } else { "OptimWrapper" };
    host(&format!("optim_wrapper = dict(type='{kind}', {own}, {rest})\n"))
}

pub fn window() -> Trainer {
    wrapped("accumulative_counts=2")
}

fn window_with(policy: NonFinitePolicy) -> Trainer {
    window().with(|driver| driver.with_non_finite(policy).averaged(average()))
}

fn strict_norm() -> Trainer {
    wrapped("clip_grad=dict(max_norm=0.5, error_if_nonfinite=True)")
}

fn strict_norm_of_window() -> Trainer {
    wrapped("accumulative_counts=2, clip_grad=dict(max_norm=0.5, error_if_nonfinite=True)")
}

pub fn dynamic_scale() -> Trainer {
    wrapped("loss_scale=dict(init_scale=8.0, growth_interval=3)")
}

fn static_scale() -> Trainer {
    wrapped("loss_scale=8.0")
}

fn dynamic_scale_of_window() -> Trainer {
    wrapped("loss_scale=dict(init_scale=8.0, growth_interval=3), accumulative_counts=2")
}

fn in_blocks(policy: NonFinitePolicy) -> Trainer {
    host("dict(type='AdamW8bit', lr=0.1, min_8bit_size=0)").with(|driver| driver.with_non_finite(policy))
}

fn lookahead() -> Trainer {
    host("dict(type='AdamW', lr=0.1, wrap=dict(type='Lookahead', k=2))")
}

fn schedule_free() -> Trainer {
    host("dict(type='AdamWScheduleFree', lr=0.1)")
}

fn sophia() -> Trainer {
    host("dict(type='SophiaG', lr=0.1)")
}

fn sparse() -> Trainer {
    Trainer::new(&cpu(), "dict(type='SparseAdam', lr=0.1)", Place::Rows)
}

fn muon() -> Trainer {
    Trainer::new(&cpu(), "dict(type='Muon', lr=0.1)", Place::Matrix)
}

fn masked() -> Trainer {
    host("dict(type='OnebitAdam', lr=0.1, freeze_step=2)")
}

fn narrow(format: ParamPrecision) -> Trainer {
    let mut trainer = Trainer::new(&cpu(), "dict(type='AdamW', lr=0.1)", Place::Narrow);
    trainer.optimizer.set_param_precision(0, format).expect("AdamW takes it");
    trainer
}

fn expecting() -> Trainer {
    adamw().with(|mut driver| {
        driver.expect_match("a rule for b", |name| name == "b");
        driver
    })
}

/// A gradient that is too short.
fn short(trainer: &mut Trainer, t: usize) -> Result<Done, Error> {
    trainer.step_changed(t, |held| held[1].grad_of(t, &[1.0; 11]))
}

/// A gradient with a NaN and an infinity.
fn make_bad(held: &mut [Held], t: usize) {
    held[0].grad_of(t, &[1.0, f64::NAN, 1.0, f64::INFINITY, 1.0]);
}

fn not_finite(trainer: &mut Trainer, t: usize) -> Result<Done, Error> {
    trainer.step_changed(t, |held| make_bad(held, t))
}

fn huge(trainer: &mut Trainer, t: usize) -> Result<Done, Error> {
    trainer.step_changed(t, |held| held[0].grad_of(t, &[1e30; 5]))
}

fn twice(trainer: &mut Trainer, t: usize) -> Result<Done, Error> {
    let again = trainer.another("a", &[5]);
    trainer.step_changed(t, |held| held.push(again))
}

fn without_a(trainer: &mut Trainer, t: usize) -> Result<Done, Error> {
    trainer.step_changed(t, |held| held[0].bound = false)
}

fn with_rows(trainer: &mut Trainer, t: usize) -> Result<Done, Error> {
    trainer
        .step_changed(t, |held| held[1].grads[t] = Some(Grad::Rows(vec![0, 2], numbers(Format::F32, 1, 6))))
}

/// A new parameter in front, and a step that is refused or skipped.
fn with_another(trainer: &mut Trainer, t: usize, change: fn(&mut [Held], usize)) -> Result<Done, Error> {
    let new = trainer.another("n", &[3]);
    trainer.step_changed(t, |held| {
        change(held, t);
        held.insert(0, new);
    })
}

/// A trainer's loss, which may fail.
struct Loss<'t> {
    held: &'t mut [Held],
    t: usize,
    panics: bool,
}

impl Objective for Loss<'_> {
    fn evaluate(&mut self) -> Result<f64, Error> {
        assert!(!self.panics, "in the loss");
        Err(Error::Objective("no batch is left".into()))
    }

    fn bindings(&mut self) -> Vec<Binding<'_>> {
        bind(self.held, self.t)
    }
}

fn with_loss(trainer: &mut Trainer, t: usize, panics: bool) -> Result<Done, Error> {
    let Trainer { optimizer, held, .. } = trainer;
    optimizer.step_with(&mut Loss { held, t, panics }).map(Done::Number)
}

/// The gradients are taken into the curvature after a change.
fn curvature_changed(
    trainer: &mut Trainer,
    t: usize,
    change: impl FnOnce(&mut Vec<Held>),
) -> Result<Done, Error> {
    change(&mut trainer.held);
    let done = curvature(trainer, t);
    trainer.restore();
    done
}

/// A step in pieces of which the first is applied, and then something else happens.
fn after_one(
    trainer: &mut Trainer,
    t: usize,
    then: impl FnOnce(fallline::optim::IncrementalStep<'_>, &mut [Held]) -> Result<Done, Error>,
) -> Result<Done, Error> {
    let Trainer { optimizer, held, .. } = trainer;
    let mut pieces = optimizer.begin()?;
    pieces.apply(held[0].bind(t))?;
    let done = then(pieces, held);
    trainer.restore();
    done
}

fn dropped(trainer: &mut Trainer, t: usize) -> Result<Done, Error> {
    after_one(trainer, t, |pieces, _| {
        drop(pieces);
        Ok(Done::Nothing)
    })
}

/// What panics once.
fn once() -> impl Fn(&str) -> bool {
    let first = AtomicBool::new(true);
    move |_: &str| {
        assert!(!first.swap(false, Ordering::Relaxed), "in a rule of the trainer's");
        true
    }
}

/// Evaluates in place of the fourth step.
fn evaluating(trainer: &mut Trainer, t: usize) -> Result<Done, Error> {
    match t {
        3 => switch(trainer, Mode::Evaluation),
        4 => switch(trainer, Mode::Training),
        _ => step(trainer, t),
    }
}

fn change(
    trainer: &mut Trainer,
    change: impl FnOnce(&mut Driver) -> Result<(), Error>,
) -> Result<Done, Error> {
    change(&mut trainer.optimizer).map(|()| Done::Nothing)
}

fn dadapt() -> Trainer {
    host("dict(type='DAdaptAdam', d0=1e-3)")
}

/// A new parameter in double precision.
fn with_double(trainer: &mut Trainer, t: usize) -> Result<Done, Error> {
    let mut new = trainer.another("n", &[3]);
    new.other_value(Memory::Host(numbers(Format::F64, 5, 3)));
    trainer.step_changed(t, |held| held.push(new))
}

/// What is bound.
const BINDINGS: &[Check] = &[
    Check::new("a name twice", adamw, 2, twice),
    Check::new("a name twice, in the first step", adamw, 0, twice),
    Check::new("a gradient of another length", adamw, 2, short),
    Check::new("a gradient of another length, in the first step", adamw, 0, short),
    Check::new("a gradient of another shape", adamw, 2, |trainer, t| {
        let grad = tensor(&cpu(), &numbers(Format::F32, 5, 12), &[3, 4]);
        trainer.step_changed(t, |held| held[1].grads[t] = Some(Grad::Device(grad)))
    }),
    Check::new("a parameter of another shape", adamw, 2, |trainer, t| {
        trainer.step_changed(t, |held| {
            held[1].other_value(Memory::Host(numbers(Format::F32, 5, 15)));
            held[1].shape = vec![5, 3];
            held[1].grad_of(t, &[1.0; 15]);
        })
    }),
    Check::new("a shape of another length", adamw, 2, |trainer, t| {
        trainer.step_changed(t, |held| held[1].shape = vec![4, 2])
    }),
    Check::new("a parameter of another type", adamw, 2, |trainer, t| {
        trainer.step_changed(t, |held| held[1].other_value(Memory::Host(numbers(Format::F64, 5, 12))))
    }),
    Check::new("a parameter on another device", adamw, 2, |trainer, t| {
        alone(|_| {
            let other = tensor(&cuda(), &numbers(Format::F32, 5, 12), &[4, 3]);
            trainer.step_changed(t, |held| held[1].other_value(Memory::Device(other)))
        })
    }),
    Check::new("a gradient on another device", adamw, 2, |trainer, t| {
        alone(|_| {
            let other = tensor(&cuda(), &numbers(Format::F32, 5, 12), &[4, 3]);
            trainer.step_changed(t, |held| held[1].grads[t] = Some(Grad::Device(other)))
        })
    }),
    Check::new("a gradient is missing", adamw, 2, |trainer, t| {
        trainer.step_changed(t, |held| held[0].grads[t] = None)
    }),
    Check::new("all gradients are missing", lookahead, 2, |trainer, t| {
        trainer.step_changed(t, |held| held.iter_mut().for_each(|held| held.grads[t] = None))
    }),
    Check::new("a parameter is not bound", adamw, 2, without_a),
    Check::new("nothing is bound", adamw, 2, |trainer, t| {
        trainer.step_changed(t, |held| held.iter_mut().for_each(|held| held.bound = false))
    }),
    Check::new("a new parameter, and another order", adamw, 2, |trainer, t| {
        with_another(trainer, t, |held, _| held.swap(0, 1))
    }),
    Check::new("a new parameter beside a gradient of another length", adamw, 2, |trainer, t| {
        with_another(trainer, t, |held, t| held[0].grad_of(t, &[1.0; 4]))
    }),
    Check::new("a vector given to what takes matrices", muon, 1, |trainer, t| {
        let new = trainer.another("n", &[3]);
        trainer.step_changed(t, |held| held.push(new))
    }),
    Check::new(
        "a parameter that is not stored as its group needs it",
        || narrow(ParamPrecision::StochasticRounding { seed: 1 }),
        1,
        |trainer, t| {
            let new = trainer.another("n", &[3]);
            trainer.step_changed(t, |held| held.push(new))
        },
    ),
    Check::new("single and double precision in an algorithm with global numbers", dadapt, 1, with_double),
    Check::new("groups that do not go together", schedule_free, 0, |trainer, t| {
        let mut set = |values: [f64; 2]| {
            let [lr, power] = values.map(Value::Float);
            trainer.optimizer.set(0, &[("lr", lr), ("weight_lr_power", power)])
        };
        set([0.0, -1.0])?;
        let done = step(trainer, t);
        let [lr, power] = [0.1, 2.0].map(Value::Float);
        trainer.optimizer.set(0, &[("lr", lr), ("weight_lr_power", power)])?;
        done
    }),
    Check::new("a rule that matches no parameter", expecting, 0, |trainer, t| {
        trainer.step_changed(t, |held| held[1].bound = false)
    }),
    Check::new("a mask that does not fit", masked, 1, |trainer, t| {
        trainer.optimizer.set_momentum_mask(0, Some(MomentumMask::Rows(0..5)))?;
        let done = step(trainer, t);
        trainer.optimizer.set_momentum_mask(0, None)?;
        done
    }),
    Check::new("no folder for pages", adamw, 1, |trainer, t| {
        trainer.optimizer.set_spill_dir(Some("/no/such/folder".into()));
        let large = trainer.another("n", &[100_000]);
        let done = trainer.step_changed(t, |held| held.push(large));
        trainer.optimizer.set_spill_dir(None);
        done
    }),
    Check::new("weights that are evaluated", schedule_free, 4, step).by(evaluating),
];

/// Row-sparse gradients.
const ROWS: &[Check] = &[
    Check::new("a row that there is not", sparse, 1, |trainer, t| {
        let grad = Grad::Rows(vec![1, 4], numbers(Format::F32, 1, 6));
        trainer.step_changed(t, |held| held[0].grads[t] = Some(grad))
    }),
    Check::new("a row below 0", sparse, 1, |trainer, t| {
        let grad = Grad::Rows(vec![-1, 2], numbers(Format::F32, 1, 6));
        trainer.step_changed(t, |held| held[0].grads[t] = Some(grad))
    }),
    Check::new("too few values", sparse, 1, |trainer, t| {
        let grad = Grad::Rows(vec![1, 2], numbers(Format::F32, 1, 5));
        trainer.step_changed(t, |held| held[0].grads[t] = Some(grad))
    }),
    Check::new("values that are row-sparse themselves", sparse, 1, |trainer, t| {
        let grad = Grad::RowsOfRows(vec![1, 2], numbers(Format::F32, 1, 6));
        trainer.step_changed(t, |held| held[0].grads[t] = Some(grad))
    }),
    Check::new("a parameter of no dimensions", sparse, 1, |trainer, t| {
        let mut new = trainer.another("n", &[]);
        new.grads[t] = Some(Grad::Rows(vec![0], numbers(Format::F32, 1, 1)));
        trainer.step_changed(t, |held| held.push(new))
    }),
    Check::new("a dense gradient for what takes rows only", sparse, 1, |trainer, t| {
        trainer.step_changed(t, |held| held[0].grad_of(t, &[1.0; 12]))
    }),
    Check::new("rows for what takes none", || host("NAdam"), 1, with_rows),
    Check::new(
        "rows for states in blocks",
        || host("dict(type='Adagrad', lr=0.1, state_format='q8')"),
        1,
        with_rows,
    ),
    Check::new("rows in a window", window, 0, with_rows),
    Check::new("rows at the end of a window", window, 1, with_rows),
];

/// NaN, infinities, norms, scales.
const NUMBERS: &[Check] = &[
    Check::new("not finite, propagated", adamw, 2, not_finite),
    Check::new("not finite, an error", || policy(NonFinitePolicy::Error), 2, not_finite),
    Check::new("not finite, an error, in the first step", || policy(NonFinitePolicy::Error), 0, not_finite),
    Check::new("not finite, skipped", || policy(NonFinitePolicy::Skip), 2, not_finite),
    Check::new("not finite, skipped, in the first step", || policy(NonFinitePolicy::Skip), 0, not_finite),
    Check::new(
        "not finite, skipped, a new parameter beside it",
        || policy(NonFinitePolicy::Skip),
        2,
        |trainer, t| with_another(trainer, t, make_bad),
    ),
    Check::new(
        "not finite, skipped, with an average",
        || policy(NonFinitePolicy::Skip).with(|driver| driver.averaged(average())),
        2,
        not_finite,
    ),
    Check::new(
        "not finite, an error, with an average",
        || policy(NonFinitePolicy::Error).with(|driver| driver.averaged(average())),
        2,
        not_finite,
    ),
    Check::new(
        "not finite, skipped, before a sync of Lookahead",
        || lookahead().with(|driver| driver.with_non_finite(NonFinitePolicy::Skip)),
        1,
        not_finite,
    ),
    Check::new("not finite, a static loss scale", static_scale, 2, not_finite),
    Check::new(
        "not finite, a static loss scale, and an error",
        || static_scale().with(|driver| driver.with_non_finite(NonFinitePolicy::Error)),
        2,
        not_finite,
    ),
    Check::new("not finite, a dynamic loss scale", dynamic_scale, 2, not_finite),
    Check::new(
        "not finite, a dynamic loss scale, and an error",
        || dynamic_scale().with(|driver| driver.with_non_finite(NonFinitePolicy::Error)),
        2,
        not_finite,
    ),
    Check::new("a gradient of another length, a dynamic loss scale", dynamic_scale, 2, short),
    Check::new("a norm that is not finite", strict_norm, 2, not_finite),
    Check::new("a state in blocks overflows, propagated", || in_blocks(NonFinitePolicy::Propagate), 2, huge),
    Check::new(
        "a state in blocks overflows, an error from then on",
        || in_blocks(NonFinitePolicy::Error),
        2,
        huge,
    ),
    Check::new(
        "a state in blocks overflows, skipped from then on",
        || in_blocks(NonFinitePolicy::Skip),
        2,
        huge,
    ),
];

/// A window of two iterations: the first is at an even step.
const WINDOWS: &[Check] = &[
    Check::new("a gradient of another length", window, 2, short),
    Check::new("a gradient of another length at the end", window, 3, short),
    Check::new("a name twice at the end", window, 3, twice),
    Check::new("a parameter is not bound at the end", window, 3, without_a),
    Check::new("not finite, propagated", window, 2, not_finite),
    Check::new("not finite, an error", || window_with(NonFinitePolicy::Error), 2, not_finite),
    Check::new("not finite at the end, an error", || window_with(NonFinitePolicy::Error), 3, not_finite),
    Check::new("not finite at the end, skipped", || window_with(NonFinitePolicy::Skip), 3, not_finite),
    Check::new(
        "not finite at the end, skipped, a new parameter beside it",
        || window_with(NonFinitePolicy::Skip),
        3,
        |trainer, t| with_another(trainer, t, make_bad),
    ),
    Check::new("a new parameter at the end", window, 3, |trainer, t| with_another(trainer, t, |_, _| {})),
    Check::new("a new parameter beside a gradient of another length", window, 2, |trainer, t| {
        with_another(trainer, t, |held, t| held[0].grad_of(t, &[1.0; 4]))
    }),
    Check::new("a norm that is not finite", strict_norm_of_window, 3, not_finite),
    Check::new("not finite at the end, a dynamic loss scale", dynamic_scale_of_window, 3, not_finite),
    Check::new("not finite before the end, a dynamic loss scale", dynamic_scale_of_window, 2, not_finite),
    Check::new(
        "groups that do not go together at the end",
        || {
            let own = "optimizer=dict(type='AdamWScheduleFree', lr=0.1)";
            host(&format!("optim_wrapper = dict(type='OptimWrapper', {own}, accumulative_counts=2)\n"))
        },
        1,
        |trainer, t| {
            let values = |lr, power| [("lr", Value::Float(lr)), ("weight_lr_power", Value::Float(power))];
            trainer.optimizer.set(0, &values(0.0, -1.0))?;
            let done = step(trainer, t);
            trainer.optimizer.set(0, &values(0.1, 2.0))?;
            done
        },
    ),
    Check::new(
        "a state in blocks overflows, an error from then on",
        || {
            let own = "optimizer=dict(type='AdamW8bit', lr=0.1, min_8bit_size=0)";
            host(&format!("optim_wrapper = dict(type='OptimWrapper', {own}, accumulative_counts=2)\n"))
                .with(|driver| driver.with_non_finite(NonFinitePolicy::Error))
        },
        3,
        huge,
    ),
];

/// A step in pieces.
const PIECES: &[Check] = &[
    Check::new("accumulation", window, 2, stream),
    Check::new("clipping", strict_norm, 2, stream),
    Check::new("a loss scale", dynamic_scale, 2, stream),
    Check::new("what is not finite is looked for", || policy(NonFinitePolicy::Skip), 2, stream),
    Check::new("an algorithm with global numbers", dadapt, 1, stream),
    Check::new("weights that are evaluated", schedule_free, 4, stream).by(evaluating),
    Check::new("a name twice, then dropped", adamw, 2, |trainer, t| {
        after_one(trainer, t, |mut pieces, held| pieces.apply(held[0].bind(t)).map(|()| Done::Nothing))
    })
    .by(stream),
    Check::new("a name twice, then finished", adamw, 2, |trainer, t| {
        after_one(trainer, t, |mut pieces, held| {
            let twice = pieces.apply(held[0].bind(t));
            pieces.apply(held[1].bind(t))?;
            pieces.finish()?;
            twice.map(|()| Done::Nothing)
        })
    })
    .by(stream),
    Check::new("a gradient of another length, then dropped", adamw, 2, |trainer, t| {
        after_one(trainer, t, |mut pieces, held| {
            held[1].grad_of(t, &[1.0; 11]);
            pieces.apply(held[1].bind(t)).map(|()| Done::Nothing)
        })
    })
    .by(stream),
    Check::new("a gradient of another length, then the right one, and finished", adamw, 2, |trainer, t| {
        after_one(trainer, t, |mut pieces, held| {
            let fresh = held[1].grads[t].take();
            held[1].grad_of(t, &[1.0; 11]);
            let short = pieces.apply(held[1].bind(t));
            held[1].grads[t] = fresh;
            pieces.apply(held[1].bind(t))?;
            pieces.finish()?;
            short.map(|()| Done::Nothing)
        })
    })
    .by(stream),
    Check::new("a gradient is missing, and finished", adamw, 2, |trainer, t| {
        after_one(trainer, t, |mut pieces, held| {
            pieces.apply(held[1].freeze())?;
            pieces.finish().map(Done::Step)
        })
    })
    .by(stream),
    Check::new("finished without the second", adamw, 2, |trainer, t| {
        after_one(trainer, t, |pieces, _| pieces.finish().map(Done::Step))
    })
    .by(stream),
    Check::new("a rule that matches no parameter", expecting, 0, |trainer, t| {
        after_one(trainer, t, |pieces, _| pieces.finish().map(Done::Step))
    })
    .by(stream),
    Check::new("dropped before the first", adamw, 2, |trainer, _| {
        trainer.optimizer.begin().map(|_| Done::Nothing)
    })
    .by(stream),
    Check::new("dropped after the first", adamw, 2, dropped).by(stream),
    Check::new("dropped after the first, in the first step", adamw, 0, dropped).by(stream),
    Check::new(
        "dropped after the first, with an average",
        || adamw().with(|driver| driver.averaged(average())),
        2,
        dropped,
    )
    .by(stream),
    Check::new("dropped after the first, before a sync of Lookahead", lookahead, 1, dropped).by(stream),
    Check::new("dropped after the first, a group that remembers", schedule_free, 1, dropped).by(stream),
    Check::new("dropped after the first, then a whole step", adamw, 2, dropped),
    Check::new("a panic after the first", adamw, 2, |trainer, t| {
        after_one(trainer, t, |_pieces, _| panic!("in the backward pass"))
    })
    .by(stream),
    Check::new("a panic after all, before the end", adamw, 2, |trainer, t| {
        after_one(trainer, t, |mut pieces, held| {
            pieces.apply(held[1].bind(t))?;
            panic!("in the backward pass")
        })
    })
    .by(stream),
];

/// Gradients for the curvature.
const CURVATURE: &[Check] = &[
    Check::new("an algorithm without one", adamw, 1, curvature),
    Check::new("a gradient of another length", sophia, 1, |trainer, t| {
        curvature_changed(trainer, t, |held| held[1].grad_of(t, &[1.0; 11]))
    }),
    Check::new("a name twice, before the first step", sophia, 0, |trainer, t| {
        let again = trainer.another("a", &[5]);
        curvature_changed(trainer, t, |held| held.push(again))
    }),
    Check::new("not finite, propagated", sophia, 1, |trainer, t| {
        curvature_changed(trainer, t, |held| make_bad(held, t))
    }),
    Check::new(
        "not finite, an error",
        || sophia().with(|driver| driver.with_non_finite(NonFinitePolicy::Error)),
        1,
        |trainer, t| curvature_changed(trainer, t, |held| make_bad(held, t)),
    ),
    Check::new(
        "not finite, skipped",
        || sophia().with(|driver| driver.with_non_finite(NonFinitePolicy::Skip)),
        1,
        |trainer, t| curvature_changed(trainer, t, |held| make_bad(held, t)),
    ),
    Check::new(
        "not finite, a dynamic loss scale",
        || {
            let own = "optimizer=dict(type='SophiaG', lr=0.1)";
            let scale = "loss_scale=dict(init_scale=8.0, growth_interval=3)";
            host(&format!("optim_wrapper = dict(type='AmpOptimWrapper', {own}, {scale})\n"))
        },
        1,
        |trainer, t| curvature_changed(trainer, t, |held| make_bad(held, t)),
    ),
    Check::new("in the middle of a window", window_of_sophia, 1, curvature),
    Check::new(
        "weights of an average stay",
        || sophia().with(|driver| driver.averaged(average())),
        1,
        curvature,
    ),
];

fn window_of_sophia() -> Trainer {
    let own = "optimizer=dict(type='SophiaG', lr=0.1)";
    host(&format!("optim_wrapper = dict(type='OptimWrapper', {own}, accumulative_counts=2)\n"))
}

/// What is called beside steps.
const BESIDE: &[Check] = &[
    Check::new("a mode, a parameter is not bound", schedule_free, 1, |trainer, _| {
        trainer.held[0].bound = false;
        let done = switch(trainer, Mode::Evaluation);
        trainer.restore();
        done
    }),
    Check::new("a mode, a parameter of another shape", schedule_free, 1, |trainer, _| {
        trainer.held[1].other_value(Memory::Host(numbers(Format::F32, 5, 15)));
        trainer.held[1].shape = vec![5, 3];
        let done = switch(trainer, Mode::Evaluation);
        trainer.restore();
        done
    }),
    Check::new("hyperparameters, the second out of range", adamw, 1, |trainer, _| {
        change(trainer, |driver| driver.set(0, &[("lr", Value::Float(0.5)), ("eps", Value::Float(-1.0))]))
    }),
    Check::new("a hyperparameter that there is not", adamw, 1, |trainer, _| {
        change(trainer, |driver| driver.set(0, &[("momentum", Value::Float(0.5))]))
    }),
    Check::new("a group that there is not", adamw, 1, |trainer, _| {
        change(trainer, |driver| driver.set(3, &[("lr", Value::Float(0.5))]))
    }),
    Check::new("a new group with a hyperparameter out of range", adamw, 1, |trainer, _| {
        change(trainer, |driver| driver.add_group(|_| true, &[("lr", Value::Float(-1.0))]).map(drop))
    }),
    Check::new("a new group that is in no Lookahead", lookahead, 1, |trainer, _| {
        let other = crate::common::recipe("AdamW").algorithm().boxed();
        change(trainer, |driver| driver.add_group_of(other, |_| false, None).map(drop))
    }),
    Check::new("a new group of another algorithm in one optimizer", adamw, 1, |trainer, _| {
        let other = crate::common::recipe("Lion").algorithm().boxed();
        change(trainer, |driver| driver.add_group_of(other, |_| false, Some(0)).map(drop))
    }),
    Check::new("a format of a state that there is not", adamw, 1, |trainer, _| {
        change(trainer, |driver| driver.set_state_storage(0, StateStorage::default().with("q", Format::Bf16)))
    }),
    Check::new("a mask for what takes none", adamw, 1, |trainer, _| {
        change(trainer, |driver| driver.set_momentum_mask(0, Some(MomentumMask::Rows(0..2))))
    }),
    Check::new("offload after the first step", adamw, 1, |trainer, _| {
        change(trainer, |driver| driver.offload(cpu()))
    }),
    Check::new("an objective with a loss scale", dynamic_scale, 1, |trainer, t| with_loss(trainer, t, false)),
    Check::new("an objective that fails", adamw, 1, |trainer, t| with_loss(trainer, t, false)),
    Check::new("an objective that panics", adamw, 1, |trainer, t| with_loss(trainer, t, true)),
    Check::new(
        "a panic in a rule that puts parameters into groups",
        || {
            adamw().with(|mut driver| {
                let panics = once();
                driver.add_group(move |name| name == "n" && panics(name), &[]).expect("no hyperparameters");
                driver
            })
        },
        2,
        |trainer, t| with_another(trainer, t, |_, _| {}),
    ),
    Check::new("a panic in a rule that must match, in a window", window, 2, |trainer, t| {
        trainer.optimizer.expect_match("mine", once());
        step(trainer, t)
    }),
    Check::new("a panic in a rule that must match", adamw, 2, |trainer, t| {
        trainer.optimizer.expect_match("mine", once());
        step(trainer, t)
    }),
    Check::new(
        "a step in double precision after one in single",
        || adamw().with(|driver| driver.with_compute(Compute::F32)),
        1,
        |trainer, t| {
            let doubled = |held: &mut Held| {
                held.grads[t] =
                    Some(Grad::Host(Buffer::new(Format::F64, &vec![0.5; held.shape.iter().product()])));
            };
            trainer.step_changed(t, |held| held.iter_mut().for_each(doubled))
        },
    ),
];

#[test]
fn every_check_of_a_step() {
    let mut table = Table::default();
    for (title, checks) in [
        ("What is bound", BINDINGS),
        ("Row-sparse gradients", ROWS),
        ("Numbers", NUMBERS),
        ("Accumulation over 2", WINDOWS),
        ("A step in pieces", PIECES),
        ("Gradients for the curvature", CURVATURE),
        ("Beside steps", BESIDE),
        ("Loading", crate::loads::LOADS),
    ] {
        table.title(title);
        checks.iter().for_each(|check| check.write(&mut table));
    }
    table.settle("checks.txt");
}
