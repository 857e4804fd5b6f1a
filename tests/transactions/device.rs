//! Every call of the driver that an emulated device can fail in a step.

use crate::seen::{Undisturbed, attempt, row, tell};
use crate::table::{Row, Table};
use crate::trainer::{Act, Done, Held, Place, Trainer, cpu, curvature, step, stream, switch};
use fallline::optim::{Error, Mode, ParamPrecision};
use fallline::{Average, Backend, Driver, NonFinitePolicy, Optimizer};
use fallline_cuda::Cuda;
use fallline_emulator::Emulator;
use std::sync::{Arc, Mutex, PoisonError};

/// CUDA's numbers of the errors that are planted.
const OUT_OF_MEMORY: u32 = 2;
const ILLEGAL_ADDRESS: u32 = 700;
const UNKNOWN: u32 = 999;

/// The emulator is one for the whole process: what uses it takes turns.
pub fn alone<R>(test: impl FnOnce(&'static Emulator) -> R) -> R {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let emulator = fallline_emulator::install().expect("the emulator");
    emulator.configure("unchecked,eager,seed=0,devices=1");
    emulator.reset();
    test(emulator)
}

/// A device of one's own: a failure is not the next test's.
pub fn cuda() -> Arc<dyn Backend> {
    Cuda::new(0).expect("the emulated device").shared()
}

/// What is stepped, and in which steps calls fail.
struct Scene {
    title: &'static str,
    text: &'static str,
    place: Place,
    around: fn(&mut Trainer),
    act: Act,
    at: &'static [usize],
    /// Whether the failure is one after which the device is lost.
    lost: bool,
}

const PLAIN: Scene = Scene {
    title: "",
    text: "dict(type='AdamW', lr=0.1)",
    place: Place::Mixed,
    around: |_| {},
    act: step,
    at: &[1],
    lost: false,
};

/// Changes the optimizer.
fn around(trainer: &mut Trainer, change: impl FnOnce(Driver) -> Driver) {
    let other = fallline::build("SGD").expect("SGD");
    let optimizer = std::mem::replace(&mut trainer.optimizer, other);
    trainer.optimizer = change(optimizer);
}

/// The matrix' gradient of the second step holds a NaN.
fn with_nan(trainer: &mut Trainer) {
    let mut values = vec![0.5; 12];
    values[7] = f64::NAN;
    Held::grad_of(&mut trainer.held[1], 1, &values);
}

const SCENES: &[Scene] = &[
    Scene { title: "AdamW", at: &[0, 1], ..PLAIN },
    Scene { title: "AdamW, a lost device", lost: true, ..PLAIN },
    Scene { title: "AdamW, memory of the host", place: Place::Host, ..PLAIN },
    Scene { title: "AdamW, tensors", place: Place::Tensors, ..PLAIN },
    Scene {
        title: "AdamW, parameters in single precision beside bfloat16",
        place: Place::Narrow,
        around: |trainer| {
            trainer.optimizer.set_param_precision(0, ParamPrecision::MasterWeights).expect("it takes it")
        },
        at: &[0, 1],
        ..PLAIN
    },
    Scene { title: "LAMB", text: "dict(type='LAMB', lr=0.1)", at: &[0, 1], ..PLAIN },
    Scene { title: "LAMB, a lost device", text: "dict(type='LAMB', lr=0.1)", lost: true, ..PLAIN },
    Scene { title: "Adafactor", text: "Adafactor", ..PLAIN },
    Scene { title: "DAdaptAdam", text: "dict(type='DAdaptAdam', d0=1e-3)", at: &[0, 1], ..PLAIN },
    Scene { title: "Muon", text: "dict(type='Muon', lr=0.1, rest='AdamW')", ..PLAIN },
    Scene {
        title: "AdamW8bit, which skips what is not finite",
        text: "dict(type='AdamW8bit', lr=0.1, min_8bit_size=0)",
        around: |trainer| around(trainer, |driver| driver.with_non_finite(NonFinitePolicy::Skip)),
        ..PLAIN
    },
    Scene {
        title: "AdamW8bit of memory of the host, which fails on what is not finite, with an average",
        text: "dict(type='AdamW8bit', lr=0.1, min_8bit_size=0)",
        place: Place::Host,
        around: |trainer| {
            around(trainer, |driver| driver.with_non_finite(NonFinitePolicy::Error).averaged(average()));
        },
        ..PLAIN
    },
    Scene {
        title: "accumulation over 2, clipping by norm",
        text: "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.1), accumulative_counts=2, clip_grad=dict(max_norm=0.5))\n",
        at: &[0, 1, 3],
        ..PLAIN
    },
    Scene {
        title: "accumulation over 2, a norm that is an error where it is not finite",
        text: "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.1), accumulative_counts=2, clip_grad=dict(max_norm=0.5, error_if_nonfinite=True))\n",
        at: &[3],
        ..PLAIN
    },
    Scene {
        title: "accumulation over 2, clipping by value",
        text: "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.1), accumulative_counts=2, clip_grad=dict(type='value', clip_value=0.3))\n",
        at: &[3],
        ..PLAIN
    },
    Scene {
        title: "clipping by norm",
        text: "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='LAMB', lr=0.1), clip_grad=dict(max_norm=0.5))\n",
        ..PLAIN
    },
    Scene {
        title: "clipping by the largest magnitude",
        text: "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.1), clip_grad=dict(max_norm=0.5, norm_type='inf'))\n",
        ..PLAIN
    },
    Scene {
        title: "clipping by a norm of the host's",
        text: "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.1), clip_grad=dict(max_norm=0.5, norm_type=3))\n",
        ..PLAIN
    },
    Scene {
        title: "a static loss scale",
        text: "optim_wrapper = dict(type='AmpOptimWrapper', optimizer=dict(type='AdamW', lr=0.1), loss_scale=8.0)\n",
        ..PLAIN
    },
    Scene {
        title: "a dynamic loss scale",
        text: "optim_wrapper = dict(type='AmpOptimWrapper', optimizer=dict(type='AdamW', lr=0.1), loss_scale=dict(init_scale=8.0, growth_interval=1))\n",
        ..PLAIN
    },
    Scene {
        title: "a dynamic loss scale, a step to skip",
        text: "optim_wrapper = dict(type='AmpOptimWrapper', optimizer=dict(type='AdamW', lr=0.1), loss_scale=dict(init_scale=8.0, growth_interval=1))\n",
        around: with_nan,
        ..PLAIN
    },
    Scene {
        title: "a step to skip, with an average",
        around: |trainer| {
            with_nan(trainer);
            around(trainer, |driver| driver.with_non_finite(NonFinitePolicy::Skip).averaged(average()));
        },
        ..PLAIN
    },
    Scene {
        title: "an average",
        around: |trainer| around(trainer, |driver| driver.averaged(average())),
        at: &[0, 1],
        ..PLAIN
    },
    Scene {
        title: "Lookahead",
        text: "dict(type='AdamW', lr=0.1, wrap=dict(type='Lookahead', k=2))",
        at: &[0, 1],
        ..PLAIN
    },
    Scene {
        title: "states on the host, parameters on the device",
        place: Place::Tensors,
        around: |trainer| trainer.optimizer.offload(cpu()).expect("AdamW can"),
        at: &[0, 1],
        ..PLAIN
    },
    Scene { title: "a step in pieces", act: stream, at: &[0, 1], ..PLAIN },
    Scene {
        title: "SophiaG, gradients for the curvature",
        text: "dict(type='SophiaG', lr=0.1)",
        act: |trainer, t| if t == 1 { curvature(trainer, t) } else { step(trainer, t) },
        ..PLAIN
    },
    Scene { title: "Adagrad, row-sparse gradients", text: "Adagrad", place: Place::DeviceRows, ..PLAIN },
    Scene {
        title: "SGD with momentum, row-sparse gradients of the host",
        text: "dict(type='SGD', lr=0.1, momentum=0.9)",
        place: Place::Rows,
        ..PLAIN
    },
    Scene {
        title: "AdamWScheduleFree, to the weights that are evaluated",
        text: "dict(type='AdamWScheduleFree', lr=0.1)",
        act: |trainer, t| match t {
            3 => switch(trainer, Mode::Evaluation),
            4 => switch(trainer, Mode::Training),
            _ => step(trainer, t),
        },
        at: &[3],
        ..PLAIN
    },
    Scene {
        title: "loading a checkpoint of an earlier step, with an average and a window",
        text: "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.1), accumulative_counts=2)\n",
        around: |trainer| around(trainer, |driver| driver.averaged(average())),
        act: load_after_two,
        at: &[2],
        ..PLAIN
    },
];

fn average() -> Average {
    Average::exponential(0.25).expect("between 0 and 1")
}

/// Two steps, the first of which is saved and loaded again after the second.
fn load_after_two(trainer: &mut Trainer, t: usize) -> Result<Done, Error> {
    match t {
        2 => {
            let kept = trainer.kept.clone().expect("saved after the first step");
            trainer.optimizer.load(&kept).map(Done::Load)
        }
        _ => {
            let done = step(trainer, t)?;
            if t == 0 {
                trainer.kept = Some(trainer.optimizer.save()?);
            }
            Ok(done)
        }
    }
}

impl Scene {
    fn trainer(&self) -> Trainer {
        let mut trainer = Trainer::new(&cuda(), self.text, self.place);
        (self.around)(&mut trainer);
        trainer
    }

    /// The rows of a step, one for each call; and those of calls that allocate, where there is no memory.
    fn rows(&self, emulator: &Emulator, at: usize) -> [Vec<(String, Row)>; 2] {
        let run = Undisturbed::run(self.trainer(), self.act, at + 2);
        let [mut rows, mut short] = [Vec::new(), Vec::new()];
        let code = if self.lost { ILLEGAL_ADDRESS } else { UNKNOWN };
        for call in 1.. {
            let Some((name, row)) = self.fail(emulator, at, (call, code), &run) else { break };
            if name.contains("Alloc") && !self.lost {
                short.extend(self.fail(emulator, at, (call, OUT_OF_MEMORY), &run));
            }
            rows.push((name, row));
        }
        [rows, short]
    }

    /// The name of a call that fails, and its row; none where the step has fewer calls.
    fn fail(
        &self,
        emulator: &Emulator,
        at: usize,
        (call, code): (usize, u32),
        run: &Undisturbed,
    ) -> Option<(String, Row)> {
        let mut trainer = self.trainer();
        for t in 0..at {
            (self.act)(&mut trainer, t).unwrap_or_else(|error| panic!("{}: {}", self.title, tell(&error)));
        }
        emulator.reset();
        emulator.configure(&format!("fail=any:{call}:{code}"));
        let done = attempt(|| (self.act)(&mut trainer, at));
        let failed = emulator.failed();
        emulator.reset();
        let then = if done.is_ok() { at + 1 } else { at };
        Some((failed?, row(&mut trainer, (done, self.act), run, (at, then))))
    }
}

#[test]
fn every_call_of_the_device() {
    alone(|emulator| {
        let mut table = Table::default();
        for scene in SCENES {
            for &at in scene.at {
                let title = format!("{}; step {}", scene.title, at + 1);
                let [rows, short] = scene.rows(emulator, at);
                assert!(rows.len() > 3, "{title}: {} calls", rows.len());
                table.block(&title, &rows);
                if !short.is_empty() {
                    table.block(&format!("{title}, no memory"), &short);
                }
            }
        }
        table.settle("device.txt");
    });
}
