//! The order of effects in a step, as three tables in `tests/golden/transactions`. Every call of the CUDA driver
//! that can fail in a step is in `device.txt`. Every exchange between ranks is in `ranks.txt`, and every check that
//! can refuse one in `checks.txt`. Each row says what is told, what is left behind, what is saved, and how training
//! resumes. The tables record what is, also where it should be otherwise: whoever changes a row changes it
//! knowingly.
//!
//! `FALLLINE_TRANSACTIONS=write cargo test --test transactions` writes the tables anew; the difference belongs into the
//! commit that makes it.
//!
//! # How to read a row
//! Above it are the calls that it is for. Each of them failed alone, once, in a separate run. Calls that follow
//! each other and have the same row are together, with how many there are of a name.
//! - `told`: the error, with its kind, or what the step reports.
//! - `left`: what has changed, seen through the public interface. *As the step* is what a step without a fault leaves.
//!   Facts that a step does not change anyway are not named.
//! - `save`: as before the step, as after a good one, neither, or the error. Where nothing is saved, what only a checkpoint
//!   tells (windows, counts, scales) is not seen under `left`.
//! - `next`: the same step again where it failed, and the next one where it did not: *as undisturbed* where everything has
//!   the bits then of a run without the fault, up to the checkpoint's bytes; else what differs, or the error.
//! - `reload`: where no step goes through any more: the same, once the checkpoint and the parameters from before are loaded.

mod common;

#[path = "transactions/checks.rs"]
mod checks;
#[path = "transactions/device.rs"]
mod device;
#[path = "transactions/loads.rs"]
mod loads;
#[path = "transactions/ranks.rs"]
mod ranks;
#[path = "transactions/seen.rs"]
mod seen;
#[path = "transactions/table.rs"]
mod table;
#[path = "transactions/trainer.rs"]
mod trainer;
