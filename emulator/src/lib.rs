//! A CUDA driver for tests.
//!
//! The library replaces `libcuda.so.1`, and a little of `libcublas.so.12` and of `libnccl.so.2` (for ranks that are
//! threads of one process). Its device is emulated: kernels are PTX, read and interpreted, with checks that a
//! device does not have. It says what a program means, and nothing about its speed.
//!
//! # Ways to put it in place
//! - In a test: [`install`], before the first call of cudarc. Cargo builds the library together with the test
//!   when this crate is a dev-dependency. It is opened under CUDA's names, and the loader gives what is loaded.
//! - Around a command: `tests/emulated-cuda [--checked] COMMAND…` puts a folder with those names in front of the
//!   loader's path.
//!
//! A process has one machine, which keeps a fault, as a device does. So tests that provoke faults run one after
//! another, and let go of the context in between.
//!
//! # Options
//! `FALLLINE_EMULATOR`, or [`Emulator::configure`], separated by commas:
//! - `checked`: checks for uninitialised memory, races, divergent barriers, arithmetic that the assembler may
//!   contract, and leaks.
//! - `seed=N`: another order of blocks, warps, diverged threads and atomics.
//! - `lazy`: a stream runs only when something depends on it.
//! - `steps=N`: instructions of a warp in a block before it counts as endless.
//! - `devices=N`, `memory=BYTES`, `peers`, `fail=CALL:NTH:CODE`, `fail-alloc=NTH`.
//!
//! Bounds and alignment are always checked.
//!
//! # Limits
//! Approximate instructions are computed exactly. Blocks run one after another: one that waits for another is
//! endless, and what fences and atomics order between blocks is reported as a race. There is no `call`, no texture,
//! no arithmetic in 16 bits, no tensor core. An unknown opcode is a fault when it is reached. An unknown modifier
//! or type is refused with its line when the module is loaded.

#![cfg(target_os = "linux")]

mod control;
mod cublas;
mod driver_api;
mod exec;
mod install;
mod machine;
mod nccl;
mod ptx;

pub use install::{Emulator, InstallError, install};
