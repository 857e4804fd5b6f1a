//! The contract of every communicator, over MPI: this test starts itself under `mpirun`.

#[path = "../../optim/tests/ranks/contract.rs"]
mod contract;
#[path = "../../optim/tests/ranks/literal.rs"]
mod literal;
#[path = "../../optim/tests/ranks/onebit.rs"]
mod onebit;
#[path = "../../optim/tests/ranks/seams.rs"]
mod seams;
#[path = "../../optim/tests/ranks/training.rs"]
mod training;

use fallline_core::ranks::{Communicator, RankError};
use fallline_mpi::Mpi;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CASE: &str = "FALLLINE_MPI_CASE";

fn main() {
    match std::env::var(CASE).as_deref() {
        Ok("suite") => suite(),
        Ok("stall") => stall(),
        Ok("end") => end(),
        _ => launch(),
    }
}

/// Starts the cases.
fn launch() {
    for ranks in 1..=4 {
        let output = mpirun(ranks, "suite");
        assert!(output.status.success(), "{ranks} ranks: {}", told(&output));
    }
    for case in ["stall", "end"] {
        let begun = Instant::now();
        let output = mpirun(3, case);
        assert!(!output.status.success(), "{case}: {}", told(&output));
        // The limit of the case, and what starting and ending processes takes here at the most.
        assert!(begun.elapsed() < Duration::from_secs(60), "{case}: {:?}", begun.elapsed());
        if case == "stall" {
            assert!(told(&output).contains("barrier was not finished within 1 s"), "{}", told(&output));
        }
    }
    println!("mpirun: all cases passed");
}

fn mpirun(ranks: usize, case: &str) -> Output {
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "--allow-run-as-root", "-n", &ranks.to_string()]).arg(own);
    command.env(CASE, case).output().unwrap_or_else(|error| panic!("mpirun (Debian: openmpi-bin): {error}"))
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn suite() {
    let ranks = Arc::new(Mpi::start(Duration::from_secs(120)).unwrap());
    contract::suite(&*ranks);
    let shared: Arc<dyn Communicator> = ranks.clone();
    training::trajectories(&shared);
    training::checkpoints(&shared);
    training::rounded_means(&shared);
    training::traffic(&shared);
    training::differences(&shared);
    training::other_names(&shared);
    onebit::trajectory(&shared);
    onebit::golden(&shared);
    onebit::lamb_resumes(&shared);
    onebit::traffic(&shared);
    literal::trajectories(&shared);
    literal::other_worlds(&shared);
    seams::suite(&shared);
    assert!(Mpi::start(Duration::from_secs(1)).is_err(), "MPI was started twice");
    ranks.finish().unwrap();
    assert!(matches!(ranks.barrier(), Err(RankError::Broken { .. })));
}

/// One rank never comes: the others end, and the launcher ends it.
fn stall() {
    let ranks = Mpi::start(Duration::from_secs(1)).unwrap();
    if ranks.rank() == 1 {
        std::thread::sleep(Duration::from_secs(600));
    }
    let error = ranks.barrier().unwrap_err();
    eprintln!("{error}");
    std::process::exit(1);
}

/// One rank ends without a word: the launcher ends the others.
fn end() {
    let ranks = Mpi::start(Duration::from_secs(30)).unwrap();
    if ranks.rank() == 1 {
        std::process::exit(3);
    }
    ranks.barrier().ok();
    std::process::exit(1);
}
