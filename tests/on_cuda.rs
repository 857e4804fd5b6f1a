//! The suites that run on the CPU, unchanged, on a CUDA device: emulated, or real with `FALLLINE_TEST_GPU=1`.

#![allow(clippy::duplicate_mod, reason = "each suite brings the helpers that it needs as a test of its own")]

#[path = "around.rs"]
mod around;
#[path = "buffers.rs"]
mod buffers;
#[path = "checkpoints.rs"]
mod checkpoints;
#[path = "compression.rs"]
mod compression;
#[path = "conformance.rs"]
mod conformance;
#[path = "formats.rs"]
mod formats;
#[path = "golden.rs"]
mod golden;
#[path = "hessian.rs"]
mod hessian;
#[path = "muon.rs"]
mod muon;
#[path = "objectives.rs"]
mod objectives;
#[path = "properties.rs"]
mod properties;
#[path = "quantised.rs"]
mod quantised;
#[path = "single.rs"]
mod single;
#[path = "sparse.rs"]
mod sparse;
#[path = "toolkit.rs"]
mod toolkit;
