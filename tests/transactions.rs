//! The order of effects in a step, as three tables in `tests/golden/transactions`: for every call of the device's driver
//! that can fail in a step (`device.txt`), every exchange between ranks (`ranks.txt`) and every check that can refuse one
//! (`checks.txt`), what is told, what is left behind, what is saved, and how training goes on. They record what is, also
//! where it should be otherwise: whoever changes a row changes it knowingly.
//!
//! `FALLLINE_TRANSACTIONS=write cargo test --test transactions` writes the tables anew; the difference belongs into the
//! commit that makes it.
//!
//! # How to read a row
//! Above it stand the calls that it is for. Each of them failed alone, once, in a run of its own; calls that follow each
//! other and have the same row stand together, with how many there are of a name.
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
