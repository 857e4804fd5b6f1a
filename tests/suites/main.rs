//! What any backend must do, on the CPU; `on_cuda` runs the same files on a CUDA device.

#[path = "../common/mod.rs"]
mod common;

mod around;
mod buffers;
mod checkpoints;
mod compression;
mod conformance;
mod formats;
mod golden;
mod hessian;
mod muon;
mod objectives;
mod properties;
mod quantised;
mod single;
mod sparse;
mod toolkit;
