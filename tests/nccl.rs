//! Ranks over NCCL, on as many emulated devices as there are ranks: the contract of every communicator, and everything
//! that is asked of training.

mod common;

#[path = "../optim/tests/ranks/contract.rs"]
mod contract;
#[path = "../optim/tests/ranks/literal.rs"]
mod literal;
#[path = "../optim/tests/ranks/onebit.rs"]
mod onebit;
#[path = "../optim/tests/ranks/seams.rs"]
mod seams;
#[path = "../optim/tests/ranks/training.rs"]
mod training;

use common::{on_gpu, recipe};
use fallline::core::ranks::{Communicator, CountingComm, RankError, threads};
use fallline::optim::{GradRef, ParamRef, frozen, param};
use fallline::{Backend, Format, Optimizer, Tensor};
use fallline_cuda::Cuda;
use fallline_cuda::nccl::{Nccl, NcclId};
use half::bf16;
use ndarray::{Array2, ShapeBuilder};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);

/// The emulator has one configuration: tests take turns.
fn turn(options: &str) -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if !on_gpu() {
        let emulator = fallline_emulator::install().expect("the emulator");
        emulator.reset();
        emulator.configure("devices=4");
        emulator.configure(options);
    }
    turn
}

/// Returns how many ranks there can be: a GPU has one.
fn worlds() -> &'static [usize] {
    if on_gpu() { &[1] } else { &[1, 2, 3, 4] }
}

/// Does the work on every rank.
fn on_each<T: Send>(world: usize, limit: Duration, work: impl Fn(Nccl, Arc<Cuda>) -> T + Sync) -> Vec<T> {
    let id = NcclId::new().unwrap();
    let start = |rank| {
        let device = Arc::new(Cuda::new(rank).unwrap());
        work(Nccl::start(Arc::clone(&device), id, rank, world, limit).unwrap(), device)
    };
    thread::scope(|scope| {
        let start = &start;
        let started: Vec<_> = (0..world).map(|rank| scope.spawn(move || start(rank))).collect();
        started.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn devices_keep_the_contract() {
    for options in ["unchecked,eager", "unchecked,lazy"] {
        let _turn = turn(options);
        for &world in worlds() {
            on_each(world, LIMIT, |ranks, device| {
                contract::suite(&ranks);
                let backend: Arc<dyn Backend> = device;
                contract::storages(&ranks, &backend);
            });
        }
    }
}

#[test]
fn ranks_train_as_one_does() {
    let _turn = turn("unchecked,eager");
    for &world in worlds() {
        on_each(world, LIMIT, |ranks, _| {
            let ranks: Arc<dyn Communicator> = Arc::new(ranks);
            training::trajectories(&ranks);
            training::checkpoints(&ranks);
            training::rounded_means(&ranks);
            training::traffic(&ranks);
            training::other_names(&ranks);
            training::differences(&ranks);
            onebit::trajectory(&ranks);
            onebit::golden(&ranks);
            onebit::lamb_resumes(&ranks);
            onebit::traffic(&ranks);
            literal::trajectories(&ranks);
            literal::other_worlds(&ranks);
            seams::suite(&ranks);
        });
    }
}

/// Parameters, gradients and states on the devices: averaged there, states sharded, parameters broadcast.
#[test]
fn tensors_of_the_devices_are_stepped_together() {
    let _turn = turn("unchecked,eager");
    let lengths = [300, 7, 4100];
    let values = |rank: usize, t: usize, n: usize| -> Vec<f32> {
        // Small whole numbers: their sums are exact.
        (0..n).map(|i| ((i * 7 + t * 3 + rank * 5) % 9) as f32 - 4.0).collect()
    };
    for text in [
        "dict(type='AdamW', lr=0.01)",
        "dict(type='ZeroRedundancyOptimizer', optimizer_type='AdamW', lr=0.01)",
    ] {
        for &world in worlds() {
            let all = on_each(world, LIMIT, |ranks, device| {
                let rank = ranks.rank();
                let ranks: Arc<dyn Communicator> = Arc::new(CountingComm::new(Arc::new(ranks)));
                let backend: Arc<dyn Backend> = device;
                let mut optimizer =
                    recipe(text).optimizer(Arc::clone(&backend)).with_ranks(Arc::clone(&ranks));
                let shapes = lengths.map(|n| [n]);
                let mut params = Tensor::side_by_side(&backend, Format::F32, shapes).unwrap();
                for t in 0..4 {
                    let grads = lengths.map(|n| {
                        let mut grad = Tensor::from_slice(&backend, &values(rank, t, n), [n]).unwrap();
                        let how = fallline::core::ranks::Reduction::Sum;
                        ranks.all_reduce_storage(&*backend, grad.storage_mut(), how).unwrap();
                        grad
                    });
                    let mut bindings: Vec<_> = ["a", "b", "c"]
                        .into_iter()
                        .zip(&mut params)
                        .zip(&grads)
                        .map(|((name, p), g)| param(name, p, g))
                        .collect();
                    optimizer.step(&mut bindings).unwrap();
                }
                params.iter().map(|param| param.to_vec::<f32>().unwrap()).collect::<Vec<_>>()
            });
            let mut alone = recipe("dict(type='AdamW', lr=0.01)").optimizer(common::best());
            let mut expected = lengths.map(|n| vec![0.0_f32; n]);
            for t in 0..4 {
                let grads = lengths.map(|n| {
                    let each = (0..world).map(|rank| values(rank, t, n));
                    each.reduce(|sum, other| sum.iter().zip(other).map(|(a, b)| a + b).collect()).unwrap()
                });
                let [a, b, c] = &mut expected;
                let mut bindings =
                    [param("a", a, &grads[0]), param("b", b, &grads[1]), param("c", c, &grads[2])];
                alone.step(&mut bindings).unwrap();
            }
            assert!(all.iter().all(|params| params[..] == expected), "{text}, {world} ranks");
        }
    }
}

/// Between two exchanges of ZeroOneAdam: however a rank's own parameters are stored, it gets them back.
#[test]
fn parameters_of_a_ranks_own_are_restored() {
    let _turn = turn("unchecked,eager");
    let world = worlds().len().min(2);
    let on_devices = on_each(world, LIMIT, |ranks, device| restored(Arc::new(ranks), device));
    let on_threads = thread::scope(|scope| {
        let started: Vec<_> = threads(world, LIMIT)
            .into_iter()
            .map(|rank| scope.spawn(move || restored(Arc::new(rank), common::best())))
            .collect();
        started.into_iter().map(|rank| rank.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(on_devices == on_threads, "devices and processor have other bits");
}

/// A parameter in memory of some kind.
enum Held {
    Tensor(Tensor),
    Slice(Vec<f32>),
    Narrow(Vec<bf16>),
    /// Not in row-major order.
    Strided(Array2<f32>),
}

impl Held {
    fn all(backend: &Arc<dyn Backend>, value: f32) -> [Held; 4] {
        [
            Held::Tensor(Tensor::from_slice(backend, &[value; ELEMENTS], [ELEMENTS]).unwrap()),
            Held::Slice(vec![value; ELEMENTS]),
            Held::Narrow(vec![bf16::from_f32(value); ELEMENTS]),
            Held::Strided(Array2::from_elem((ELEMENTS / 2, 2).f(), value)),
        ]
    }

    fn param(&mut self) -> ParamRef<'_> {
        match self {
            Held::Tensor(held) => held.into(),
            Held::Slice(held) => held.into(),
            Held::Narrow(held) => held.into(),
            Held::Strided(held) => held.into(),
        }
    }

    fn bits(&self) -> Vec<u32> {
        match self {
            Held::Tensor(held) => held.to_vec::<f32>().unwrap().iter().map(|x| x.to_bits()).collect(),
            Held::Slice(held) => held.iter().map(|x| x.to_bits()).collect(),
            Held::Narrow(held) => held.iter().map(|x| u32::from(x.to_bits())).collect(),
            Held::Strided(held) => held.iter().map(|x| x.to_bits()).collect(),
        }
    }
}

const ELEMENTS: usize = 300;

/// Runs all ways of storing a parameter, with a new optimizer after every step; what it is at the end.
fn restored(ranks: Arc<dyn Communicator>, backend: Arc<dyn Backend>) -> Vec<Vec<u32>> {
    let text = "type='ZeroOneAdam', lr=0.01, eps=1e-3, weight_decay=0.1, var_freeze_step=3, local_step_scaler=2, \
                local_step_clipper=4";
    let run = |(storing, kind): (&str, usize)| {
        let build = || {
            let optimizer = recipe(&format!("dict({text}{storing})")).optimizer(Arc::clone(&backend));
            optimizer.with_ranks(Arc::clone(&ranks))
        };
        let held = |value| Held::all(&backend, value).into_iter().nth(kind).unwrap();
        let (mut optimizer, mut held_now, mut diverged) = (build(), held(0.5), 0);
        for t in 1..16 {
            let own = |i: usize| ((i * 7 + t * 3 + ranks.rank() * 5) % 9) as f32 / 4.0 - 1.0;
            let grad = Tensor::from_slice(&backend, &(0..ELEMENTS).map(own).collect::<Vec<_>>(), [ELEMENTS]);
            let (grad, flat) = (grad.unwrap(), (0..ELEMENTS).map(own).collect::<Vec<_>>());
            let grad: GradRef<'_> = if kind == 0 { (&grad).into() } else { (&flat).into() };
            optimizer.step(&mut [param("p", held_now.param(), grad)]).unwrap();
            let (bits, saved) = (held_now.bits(), optimizer.save().unwrap());
            if optimizer.has_diverged("p") {
                diverged += 1;
                held_now = held(7.0);
            }
            optimizer = build();
            optimizer.load(&saved).unwrap();
            optimizer.restore_params(&mut [frozen("p", held_now.param())]).unwrap();
            assert!(held_now.bits() == bits, "{kind}{storing} after step {t}");
        }
        assert!(ranks.world_size() == 1 || diverged > 4, "{kind}{storing}");
        held_now.bits()
    };
    [("", 0), ("", 1), ("", 2), (", param_format='master'", 2), ("", 3)].into_iter().map(run).collect()
}

#[test]
fn an_id_is_handed_on_by_other_ranks() {
    let _turn = turn("unchecked,eager");
    let world = *worlds().last().unwrap();
    thread::scope(|scope| {
        for rank in threads(world, LIMIT) {
            scope.spawn(move || {
                let device = Arc::new(Cuda::new(rank.rank()).unwrap());
                let nccl = Nccl::beside(device, &rank, LIMIT).unwrap();
                assert_eq!((nccl.rank(), nccl.world_size()), (rank.rank(), world));
                nccl.barrier().unwrap();
            });
        }
    });
}

#[test]
fn a_rank_that_does_not_come_ends_the_others_within_the_limit() {
    if on_gpu() {
        return; // there is one rank
    }
    let _turn = turn("unchecked,eager");
    let limit = Duration::from_millis(300);
    let begun = Instant::now();
    let errors = on_each(3, limit, |ranks, _| {
        if ranks.rank() == 1 {
            thread::sleep(4 * limit);
        }
        (ranks.barrier().unwrap_err(), ranks.barrier().unwrap_err())
    });
    assert!(begun.elapsed() < 20 * limit, "{:?}", begun.elapsed());
    assert!(errors.iter().any(|(error, _)| matches!(error, RankError::TimedOut { .. })), "{errors:?}");
    assert!(errors.iter().all(|(_, again)| matches!(again, RankError::Broken { .. })), "{errors:?}");
}
