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
use fallline::core::ranks::{Communicator, Counting, RankError, threads};
use fallline::optim::param;
use fallline::{Backend, Format, Optimizer, Tensor};
use fallline_cuda::Cuda;
use fallline_cuda::nccl::{Nccl, NcclId};
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

/// How many ranks there can be: a GPU has one.
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

/// Parameters, gradients and states on the devices: averaged there, states shared out, parameters brought to all.
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
                let ranks: Arc<dyn Communicator> = Arc::new(Counting::new(Arc::new(ranks)));
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

#[test]
fn an_id_is_handed_on_by_other_ranks() {
    let _turn = turn("unchecked,eager");
    let world = *worlds().last().unwrap();
    thread::scope(|scope| {
        for rank in threads(world, LIMIT) {
            scope.spawn(move || {
                let device = Arc::new(Cuda::new(rank.rank()).unwrap());
                let nccl = Nccl::beside(device, &rank, LIMIT).unwrap();
                assert_eq!((nccl.rank(), nccl.world()), (rank.rank(), world));
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
