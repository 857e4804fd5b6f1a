//! The kernels of a device: printed and loaded when they are first asked for, and kept.
//!
//! A kernel's text follows from its key alone, so that the key identifies the text.

use crate::context::{Context, DriverResult};
use crate::ptx::{self, NumberPlaces, Ptx, Stored, Target, Type};
use cudarc::driver::{CudaFunction, LaunchConfig};
use fallline_core::{Compute, Format, Kernel};
use std::collections::HashMap;

/// Warps of a block.
pub(crate) const WARPS: usize = 8;
/// Lanes of a warp.
pub(crate) const WARP: u32 = 32;

/// Returns a launch of this many warps.
pub(crate) fn grid_of(warps: usize) -> LaunchConfig {
    let grid_dim = (warps.div_ceil(WARPS) as u32, 1, 1);
    LaunchConfig { grid_dim, block_dim: (WARPS as u32 * WARP, 1, 1), shared_mem_bytes: 0 }
}

/// The compiled rules: which rule (by address), in which type, stored how, and whether it may be left out.
type Elements = HashMap<(usize, Compute, Vec<Stored>, bool), CudaFunction>;
/// The compiled numbers of rules: which rule, in which type, and where what it reads is and what is remembered.
type Numbers = HashMap<(usize, Compute, NumberPlaces), CudaFunction>;

/// A kernel that is no rule's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LibraryKernel {
    /// Folds partial sums.
    FinalReduce,
    /// Multiplies the gradient's factor in rows of scalars of a type.
    ScaleRows(Compute),
    /// Adds up rows of a format, in a type.
    AddRows(Format, Compute),
    /// Gathers rows of elements of so many bytes.
    GatherRows(usize),
    /// Scatters rows of elements of so many bytes.
    ScatterRows(usize),
    /// Makes a square matrix of elements of so many bytes symmetric.
    Symmetrize(usize),
    /// Adds up elements, or their squares, along an axis.
    SumAxis { along: Along, compute: Compute, squares: bool },
}

/// How sums along an axis lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Along {
    /// Of rows, with so many lanes for each: all that a warp has, or as many as hold a short one.
    Rows(usize),
    Columns,
}

impl LibraryKernel {
    /// Returns the name of its entry, and of it in errors.
    pub(crate) fn name(self) -> &'static str {
        match self {
            LibraryKernel::FinalReduce => "fold",
            LibraryKernel::ScaleRows(_) => "scale_rows",
            LibraryKernel::AddRows(..) => "add_rows",
            LibraryKernel::GatherRows(_) => "gather_rows",
            LibraryKernel::ScatterRows(_) => "scatter_rows",
            LibraryKernel::Symmetrize(_) => "mirror",
            LibraryKernel::SumAxis { .. } => "sum_axis",
        }
    }

    fn text(self, target: Target) -> Ptx {
        let name = self.name();
        match self {
            LibraryKernel::FinalReduce => ptx::final_reduce_kernel(name, target),
            LibraryKernel::ScaleRows(compute) => ptx::scale_kernel(name, compute, target),
            LibraryKernel::AddRows(format, compute) => ptx::add_rows_kernel(name, format, compute, target),
            LibraryKernel::GatherRows(bytes) => ptx::gather_rows_kernel(name, bytes, target),
            LibraryKernel::ScatterRows(bytes) => ptx::scatter_rows_kernel(name, bytes, target),
            LibraryKernel::Symmetrize(bytes) => ptx::symmetrize_kernel(name, bytes, target),
            LibraryKernel::SumAxis { along, compute, squares } => {
                let ty = match compute {
                    Compute::F32 => Type::F32,
                    Compute::F64 => Type::F64,
                };
                match along {
                    Along::Rows(lanes) if lanes == WARP as usize => {
                        ptx::sum_rows_kernel(name, ty, squares, target)
                    }
                    Along::Rows(lanes) => ptx::sum_short_rows_kernel(name, ty, squares, lanes, target),
                    Along::Columns => ptx::sum_columns_kernel(name, ty, squares, target),
                }
            }
        }
    }
}

/// What was loaded so far.
#[derive(Default)]
pub(crate) struct Kernels {
    elements: Elements,
    numbers: Numbers,
    library: HashMap<LibraryKernel, CudaFunction>,
}

impl Kernels {
    /// Returns the kernel of a rule for operands that are stored so, which a number may leave out.
    pub(crate) fn elements(
        &mut self,
        ctx: &Context,
        kernel: &'static Kernel,
        compute: Compute,
        (stored, skips): (&[Stored], bool),
    ) -> DriverResult<CudaFunction> {
        let key = (core::ptr::from_ref(kernel).addr(), compute, stored.to_vec(), skips);
        if let Some(function) = self.elements.get(&key) {
            return Ok(function.clone());
        }
        let graph = kernel.record();
        let text = match skips {
            true => ptx::skippable_kernel(&graph, kernel.name, compute, stored, ctx.target),
            false => ptx::element_kernel(&graph, kernel.name, compute, stored, ctx.target),
        };
        let function = ctx.load(&text)?;
        self.elements.insert(key, function.clone());
        Ok(function)
    }

    /// Returns the kernel of a rule's numbers.
    pub(crate) fn numbers(
        &mut self,
        ctx: &Context,
        kernel: &'static Kernel,
        compute: Compute,
        places: &NumberPlaces,
    ) -> DriverResult<CudaFunction> {
        let key = (core::ptr::from_ref(kernel).addr(), compute, places.clone());
        if let Some(function) = self.numbers.get(&key) {
            return Ok(function.clone());
        }
        let name = format!("{}_numbers", kernel.name);
        let text = ptx::numbers_kernel(kernel, &name, compute, places, ctx.target);
        let function = ctx.load(&text)?;
        self.numbers.insert(key, function.clone());
        Ok(function)
    }

    /// Returns a kernel that is not a rule's.
    pub(crate) fn library(&mut self, ctx: &Context, kernel: LibraryKernel) -> DriverResult<CudaFunction> {
        if let Some(function) = self.library.get(&kernel) {
            return Ok(function.clone());
        }
        let function = ctx.load(&kernel.text(ctx.target))?;
        self.library.insert(kernel, function.clone());
        Ok(function)
    }
}
