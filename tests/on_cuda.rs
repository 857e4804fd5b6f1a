//! The suites that run on the CPU, unchanged, on a CUDA device: emulated, or real with `FALLLINE_TEST_GPU=1`.

#[path = "buffers.rs"]
mod buffers;
#[path = "checkpoints.rs"]
mod checkpoints;
#[path = "golden.rs"]
mod golden;
#[path = "objectives.rs"]
mod objectives;
#[path = "properties.rs"]
mod properties;
