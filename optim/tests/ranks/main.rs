//! Ranks that are threads of one process: the contract of every communicator, and what they do when one fails.

mod contract;
mod literal;
mod onebit;
mod seams;
mod training;

use fallline_core::ranks::{Communicator, CountingComm, RankError, Reduction, SelfComm, ThreadComm, threads};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for a machine that does other things too; nothing here waits for it.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs `work` on each rank, and returns what each returns.
fn on_each<T: Send>(ranks: Vec<ThreadComm>, work: impl Fn(ThreadComm) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let started: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(|| work(rank))).collect();
        started.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn one_rank_alone_keeps_the_contract() {
    contract::suite(&SelfComm);
    contract::suite(&threads(1, LIMIT)[0]);
}

#[test]
fn threads_keep_the_contract() {
    for world in [2, 3, 4, 7] {
        on_each(threads(world, LIMIT), |rank| contract::suite(&rank));
    }
}

/// Everything that is asked of training, on one rank.
fn train(ranks: Arc<dyn Communicator>) {
    training::trajectories(&ranks);
    training::checkpoints(&ranks);
    training::other_names(&ranks);
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
}

#[test]
fn ranks_train_as_one_does() {
    train(Arc::new(SelfComm));
    for world in 1..=4 {
        on_each(threads(world, LIMIT), |rank| train(Arc::new(rank)));
    }
}

#[test]
fn sums_do_not_depend_on_who_comes_first() {
    let run = |late: usize| {
        on_each(threads(3, LIMIT), |rank| {
            if rank.rank() == late {
                thread::sleep(Duration::from_millis(30));
            }
            // In another order these round to 0.
            let mut values = [[1e16_f64, 1.0, -1e16][rank.rank()]];
            rank.all_reduce(values.as_mut_slice().into(), Reduction::Sum).unwrap();
            values[0]
        })
    };
    let expected = (1e16_f64 + 1.0) - 1e16;
    assert!((0..3).all(|late| run(late) == vec![expected; 3]));
}

#[test]
fn a_rank_that_stalls_is_named_within_the_limit() {
    let limit = Duration::from_millis(200);
    let begun = Instant::now();
    let errors = on_each(threads(3, limit), |rank| {
        if rank.rank() == 1 {
            thread::sleep(4 * limit);
        }
        let error = rank.barrier().unwrap_err();
        let again = rank.barrier().unwrap_err();
        (error, again)
    });
    assert!(begun.elapsed() < 20 * limit, "{:?}", begun.elapsed());
    let timed_out =
        |error: &RankError| matches!(error, RankError::TimedOut { missing, .. } if *missing == [1]);
    assert!(errors.iter().any(|(error, _)| timed_out(error)), "{errors:?}");
    // Those who come later, and the next exchange, get to know at once.
    assert!(errors.iter().all(|(error, _)| timed_out(error) || matches!(error, RankError::Broken { .. })));
    assert!(errors.iter().all(|(_, again)| matches!(again, RankError::Broken { .. })), "{errors:?}");
    assert!(errors[1].0.to_string().contains("rank 1 did not come"), "{}", errors[1].0);
}

#[test]
fn a_rank_that_ends_is_named_at_once() {
    let errors = on_each(threads(3, LIMIT), |rank| {
        rank.barrier().unwrap();
        if rank.rank() == 2 {
            return None;
        }
        Some(rank.all_gather(&[0; 4], &mut [0; 12]).unwrap_err())
    });
    let lost = |error: &Option<RankError>| matches!(error, Some(RankError::Lost { lost: 2, .. }));
    assert!(errors.iter().any(lost), "{errors:?}");
    let told =
        |error: &Option<RankError>| error.as_ref().is_none_or(|e| e.to_string().contains("rank 2 has ended"));
    assert!(errors.iter().all(told), "{errors:?}");
}

#[test]
fn ranks_that_go_different_ways_are_told() {
    let call = |rank: ThreadComm| match rank.rank() {
        0 => rank.all_gather(&[0; 4], &mut [0; 8]),
        _ => rank.broadcast(0, &mut [0; 4]),
    };
    let errors = on_each(threads(2, LIMIT), |rank| call(rank).unwrap_err().to_string());
    let both = ["all_gather of 4 bytes", "broadcast of 4 bytes from rank 0"];
    assert!(errors.iter().all(|error| both.iter().all(|part| error.contains(part))), "{errors:?}");
    let lengths = on_each(threads(2, LIMIT), |rank| {
        let mut values = vec![0.0_f32; 4 + 2 * rank.rank()];
        rank.all_reduce(values.as_mut_slice().into(), Reduction::Mean).unwrap_err().to_string()
    });
    assert!(
        lengths.iter().all(|error| error.contains("16 bytes") && error.contains("24 bytes")),
        "{lengths:?}"
    );
}

#[test]
fn a_counting_communicator_counts_what_is_received() {
    let counted = on_each(threads(4, LIMIT), |rank| {
        let number = rank.rank();
        let counting = CountingComm::new(Arc::new(rank));
        counting.broadcast(1, &mut [0; 100]).unwrap();
        let mut values = [0.0_f32; 1000];
        counting.all_reduce(values.as_mut_slice().into(), Reduction::Sum).unwrap();
        // Two exchanges, each of three quarters of the values.
        let expected = 2 * 3000 + if number == 1 { 0 } else { 100 };
        assert_eq!((counting.traffic().exchanges, counting.traffic().bytes), (3, expected));
    });
    assert_eq!(counted.len(), 4);
}
