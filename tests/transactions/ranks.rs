//! Every exchange between two ranks that can fail in a step, and what they can disagree upon.

use crate::seen::{Undisturbed, attempt, row};
use crate::table::{Row, Table};
use crate::trainer::{Act, Done, Place, Trainer, cpu, step, switch};
use fallline::core::ranks::{Communicator, RankError, ThreadComm, threads};
use fallline::optim::{Error, Mode};
use fallline::{Average, Driver, NonFinitePolicy, Optimizer, Value};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A rank of which an exchange fails.
#[derive(Debug)]
struct Failing {
    inner: ThreadComm,
    /// It fails when this goes to 0.
    left: AtomicUsize,
    failed: Mutex<Option<&'static str>>,
}

impl Failing {
    fn ask(&self, what: &'static str) -> Result<(), RankError> {
        if self.left.load(Ordering::Relaxed) == 0 || self.left.fetch_sub(1, Ordering::Relaxed) > 1 {
            return Ok(());
        }
        *self.failed.lock().expect("no panic") = Some(what);
        // On all ranks the same, so that the same row is one.
        Err(RankError::Failed { rank: 0, problem: "the cable is out".into() })
    }
}

impl Communicator for Failing {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn world_size(&self) -> usize {
        self.inner.world_size()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn all_to_all(&self, send: &[u8], receive: &mut [u8]) -> Result<(), RankError> {
        self.ask("all_to_all")?;
        self.inner.all_to_all(send, receive)
    }

    fn all_gather(&self, send: &[u8], receive: &mut [u8]) -> Result<(), RankError> {
        self.ask("all_gather")?;
        self.inner.all_gather(send, receive)
    }

    fn broadcast(&self, root: usize, bytes: &mut [u8]) -> Result<(), RankError> {
        self.ask("broadcast")?;
        self.inner.broadcast(root, bytes)
    }

    fn all_gather_v(
        &self,
        own: &[&[u8]],
        lengths: &[usize],
        take: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), RankError> {
        self.ask("share")?;
        self.inner.all_gather_v(own, lengths, take)
    }

    fn barrier(&self) -> Result<(), RankError> {
        self.ask("barrier")?;
        self.inner.barrier()
    }
}

/// What ranks do, and in which steps exchanges fail.
struct Scene {
    title: &'static str,
    text: &'static str,
    around: fn(Driver) -> Driver,
    act: Act,
    at: usize,
}

const SHARDED: &str = "dict(type='ZeroRedundancyOptimizer', optimizer_type='AdamW', lr=0.1)";

fn average(driver: Driver) -> Driver {
    driver.averaged(Average::exponential(0.25).expect("between 0 and 1"))
}

/// The ranks' own gradients are of one rank's seed, so that they differ where the algorithm exchanges them.
const SCENES: &[Scene] = &[
    Scene { title: "AdamW", text: "dict(type='AdamW', lr=0.1)", around: |driver| driver, act: step, at: 1 },
    Scene { title: "sharded parameters", text: SHARDED, around: |driver| driver, act: step, at: 0 },
    Scene { title: "sharded parameters", text: SHARDED, around: |driver| driver, act: step, at: 1 },
    Scene { title: "sharded parameters, an average", text: SHARDED, around: average, act: step, at: 1 },
    Scene {
        title: "sharded parameters, a window that closes",
        text: "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='ZeroRedundancyOptimizer', optimizer_type='AdamW', lr=0.1), accumulative_counts=2)\n",
        around: |driver| driver,
        act: step,
        at: 1,
    },
    Scene {
        title: "OnebitAdam, compressed",
        text: "dict(type='OnebitAdam', lr=0.1, freeze_step=2)",
        around: |driver| driver.with_non_finite(NonFinitePolicy::Skip),
        act: step,
        at: 3,
    },
    Scene {
        title: "OnebitLamb, compressed",
        text: "dict(type='OnebitLamb', lr=0.1, freeze_step=2)",
        around: |driver| driver,
        act: step,
        at: 3,
    },
    Scene {
        title: "ZeroOneAdam, an exchange",
        text: "dict(type='ZeroOneAdam', lr=0.1, var_freeze_step=1, local_step_scaler=1, local_step_clipper=2)",
        around: |driver| driver,
        act: step,
        at: 3,
    },
    Scene {
        title: "AdamWScheduleFree sharded, to the evaluation weights",
        text: "dict(type='ZeroRedundancyOptimizer', optimizer_type='AdamWScheduleFree', lr=0.1)",
        around: |driver| driver,
        act: |trainer, t| match t {
            3 => switch(trainer, Mode::Evaluation),
            4 => switch(trainer, Mode::Training),
            _ => step(trainer, t),
        },
        at: 3,
    },
];

/// Does the same on two ranks.
fn on_two<R: Send>(work: impl Fn(Arc<Failing>) -> R + Sync) -> [R; 2] {
    let ranks = threads(2, Duration::from_secs(20))
        .into_iter()
        .map(|inner| Arc::new(Failing { inner, left: AtomicUsize::new(0), failed: Mutex::new(None) }));
    let ranks: Vec<Arc<Failing>> = ranks.collect();
    thread::scope(|scope| {
        let running: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(|| work(rank))).collect();
        let mut done = running.into_iter().map(|rank| rank.join().expect("no panic of the test's"));
        std::array::from_fn(|_| done.next().expect("two"))
    })
}

impl Scene {
    fn trainer(&self, rank: &Arc<Failing>) -> Trainer {
        let ranks: Arc<dyn Communicator> = Arc::clone(rank) as _;
        Trainer::new(&cpu(), self.text, Place::Host).with(|driver| (self.around)(driver).with_ranks(ranks))
    }

    /// What comes of each rank when the exchange of this number fails in `bad`, or of what is bad itself.
    fn rows(
        &self,
        fails: usize,
        bad: impl Fn(&mut Trainer, usize, usize) -> Result<Done, Error> + Sync,
    ) -> [(Option<&'static str>, Row); 2] {
        let (act, at) = (self.act, self.at);
        on_two(|rank| {
            let run = Undisturbed::run(self.trainer(&rank), act, at + 2);
            let mut trainer = self.trainer(&rank);
            (0..at).for_each(|t| drop(act(&mut trainer, t).expect("a good step")));
            rank.left.store(fails, Ordering::Relaxed);
            let done = attempt(|| bad(&mut trainer, rank.inner.rank(), at));
            rank.left.store(0, Ordering::Relaxed);
            let failed = *rank.failed.lock().expect("no panic");
            let then = if done.is_ok() && fails > 0 { at + 1 } else { at };
            (failed, row(&mut trainer, (done, act), &run, (at, then)))
        })
    }
}

#[test]
fn every_exchange_between_ranks() {
    let mut table = Table::default();
    for scene in SCENES {
        let mut rows = Vec::new();
        for exchange in 1.. {
            let both = scene.rows(exchange, |trainer, _, t| (scene.act)(trainer, t));
            if both[0].0.is_none() {
                break;
            }
            let same = both[0].1 == both[1].1;
            for (rank, (name, row)) in both.into_iter().enumerate() {
                let name = name.expect("both ask for the same");
                match (same, rank) {
                    (true, 1) => {}
                    (true, _) => rows.push((name.to_owned(), row)),
                    (false, _) => rows.push((format!("{name}, on rank {rank}"), row)),
                }
            }
        }
        assert!(!rows.is_empty(), "{}: no exchange", scene.title);
        table.block(&format!("{}; step {}", scene.title, scene.at + 1), &rows);
    }
    table.title("What ranks disagree upon");
    for (title, scene, bad) in DISAGREEMENTS {
        let both = SCENES[*scene].rows(0, bad);
        let same = both[0].1 == both[1].1;
        for (rank, (_, row)) in both.into_iter().enumerate().take(if same { 1 } else { 2 }) {
            let rank = if same { String::new() } else { format!(", on rank {rank}") };
            table.row(&format!("{title}{rank}"), &row);
        }
    }
    table.settle("ranks.txt");
}

type Bad = fn(&mut Trainer, usize, usize) -> Result<Done, Error>;

/// What is done on each of two ranks, in which scene.
const DISAGREEMENTS: &[(&str, usize, Bad)] = &[
    ("a parameter is not bound", 0, |trainer, rank, t| {
        trainer.step_changed(t, |held| held[0].bound = rank == 0)
    }),
    ("another order", 2, |trainer, rank, t| trainer.step_changed(t, |held| held.swap(0, rank))),
    ("a gradient is missing", 2, |trainer, rank, t| {
        trainer.step_changed(t, |held| {
            if rank == 1 {
                held[0].grads[t] = None;
            }
        })
    }),
    ("another learning rate", 2, |trainer, rank, t| {
        let lr = |rank: usize| [("lr", Value::Float(0.1 * (1 + rank) as f64))];
        trainer.optimizer.set(0, &lr(rank))?;
        let done = step(trainer, t);
        trainer.optimizer.set(0, &lr(0))?;
        done
    }),
    ("a gradient of another length, on both", 2, |trainer, _, t| {
        trainer.step_changed(t, |held| held[1].grad_of(t, &[1.0; 11]))
    }),
    ("one rank's gradient is not finite, skipped", 5, |trainer, rank, t| {
        trainer.step_changed(t, |held| {
            if rank == 1 {
                held[0].grad_of(t, &[1.0, f64::NAN, 1.0, 1.0, 1.0]);
            }
        })
    }),
    ("a step in pieces", 0, |trainer, _, _| trainer.optimizer.begin().map(|_| Done::Nothing)),
];
