//! A kernel and a module as a whole.

use super::instr::{Instr, Reg};

/// A special register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Vector,
    Warp,
    Warps,
    MaskEq,
    MaskLt,
    MaskLe,
    MaskGt,
    MaskGe,
    SharedSize,
    DynamicSharedSize,
    Zero,
}

/// A row of a register file that no instruction writes: filled when a block starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Constant {
    Value(u64),
    /// Offset in the module's image of `.global` and `.const` variables.
    Global(u64),
    Shared(u64),
    DynamicShared,
    Local(u64),
    Special(Special),
}

/// A parameter's place in the parameter buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    pub name: String,
    pub offset: usize,
    pub size: usize,
}

/// A kernel, ready to run.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    pub name: String,
    pub params: Vec<Param>,
    pub param_bytes: usize,
    pub code: Vec<Instr>,
    /// The text of each instruction and its line.
    pub texts: Vec<(usize, String)>,
    pub words: usize,
    pub longs: usize,
    pub preds: usize,
    pub word_constants: Vec<(Reg, Constant)>,
    pub long_constants: Vec<(Reg, Constant)>,
    pub slots: usize,
    pub shared: usize,
    pub local: usize,
    pub max_threads: Option<u32>,
    pub required: Option<[u32; 3]>,
}

/// A variable of the module.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub offset: usize,
    pub size: usize,
}

/// A module: its kernels and the image of its variables.
#[derive(Clone, Debug, Default)]
pub struct Module {
    pub kernels: Vec<Kernel>,
    pub variables: Vec<Variable>,
    pub image: Vec<u8>,
    pub version: (u32, u32),
    pub target: u32,
}
