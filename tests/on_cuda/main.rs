//! The suites that run on the CPU, unchanged, on a CUDA device: emulated, or real with `FALLLINE_TEST_GPU=1`.

#[path = "../common/mod.rs"]
mod common;

#[path = "../suites/around.rs"]
mod around;
#[path = "../suites/buffers.rs"]
mod buffers;
#[path = "../suites/checkpoints.rs"]
mod checkpoints;
#[path = "../suites/compression.rs"]
mod compression;
#[path = "../suites/conformance.rs"]
mod conformance;
#[path = "../suites/formats.rs"]
mod formats;
#[path = "../suites/golden.rs"]
mod golden;
#[path = "../suites/hessian.rs"]
mod hessian;
#[path = "../suites/muon.rs"]
mod muon;
#[path = "../suites/objectives.rs"]
mod objectives;
#[path = "../suites/properties.rs"]
mod properties;
#[path = "../suites/quantised.rs"]
mod quantised;
#[path = "../suites/single.rs"]
mod single;
#[path = "../suites/sparse.rs"]
mod sparse;
#[path = "../suites/toolkit.rs"]
mod toolkit;
