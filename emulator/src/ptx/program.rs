//! A decoded kernel: typed instructions on dense register indices.

mod instr;
mod kernel;

pub use instr::*;
pub use kernel::{Constant, Kernel, Module, Param, Special, Variable};
