//! The executor: every pass over memory goes through here.
//!
//! [`run`] checks the operands of each tensor (`walk`, `operands`), and cuts all tensors into chunks (`tiling`). It
//! packs the constants (`constants`) and hands chunks to the threads. With many small tensors these begin while the
//! caller still walks over them (`feed`). A chunk goes through the pass's rules (`fused`), and through each in the
//! way that its operands are stored in (`rule`). A kernel takes the operands as they are (`dispatch`), or converted
//! (`convert`) or repeated (`broadcast`) into scratch.

mod accumulate;
mod broadcast;
mod constants;
mod convert;
mod dispatch;
mod feed;
mod fused;
mod operands;
mod plan;
mod rule;
mod state;
mod table;
#[cfg(test)]
mod tests;
mod tiling;
mod walk;

use crate::codec::Coded;
use crate::isa::Isa;
use crate::kernels::ComputeType;
use crate::pool::Pool;
use accumulate::MAX_SUMS;
use constants::{Constants, pack_constants};
use dispatch::{Dispatch, LinkedRule};
use fallline_core::backend::{FusedRule, MAX_OPERANDS, Pass};
use fallline_core::reduction::{segments, tree_reduce};
use fallline_core::{Compute, Device, Error, Kernel, Result};
use fused::run_chunk;
pub(crate) use plan::CpuPlan;
use state::{FusedKernel, Partials, PassState};
use table::Table;
use walk::Walk;

/// Passes over fewer elements run on the calling thread, since waking the pool costs more.
const SERIAL_BELOW: usize = 256 * 1024;

/// Elements of some four operands that a last-level cache holds between two passes (8 MiB in `f32`). They are so many
/// that waking the threads twice costs little: more than [`SERIAL_BELOW`], the threads share them.
pub(crate) const CACHED: usize = 2 * SERIAL_BELOW;

/// Runs a pass.
pub(crate) fn run(device: Device, isa: Isa, pool: &Pool, pass: Pass<'_, '_>) -> Result<()> {
    let Pass { kernel, compute, tensors, constants: rows, tensor_scalars, plan, sums, fused, checked } = pass;
    let scalars = Constants { shared: rows, own: tensor_scalars };
    let linked = |kernel: &'static Kernel| {
        LinkedRule::of(kernel).ok_or(Error::NotLinked { rule: kernel.name, device })
    };
    FusedRule::check(fused)?;
    for fused in fused {
        linked(fused.kernel)?;
    }
    let Some(plan) = plan.downcast_mut::<CpuPlan>() else {
        return Err(Error::Unavailable(format!("{}: the plan is another backend's", kernel.name)));
    };
    assert!(
        kernel.sums.len() <= MAX_SUMS && kernel.operands.len() <= MAX_OPERANDS,
        "{kernel:?} is too large"
    );
    let walk = Walk::new(device, kernel, fused, tensors);
    let rules = Rules { kernel, linked: linked(kernel)?, fused, fused_count: walk.fused_count, isa };
    match compute {
        Compute::F32 => {
            let mut rows = core::mem::take(&mut plan.constants_f32);
            let ran = run_rules(&rules, pool, walk, (scalars, checked), (plan, &mut rows), sums);
            plan.constants_f32 = rows;
            ran
        }
        Compute::F64 => {
            let mut rows = core::mem::take(&mut plan.constants_f64);
            let ran = run_rules(&rules, pool, walk, (scalars, checked), (plan, &mut rows), sums);
            plan.constants_f64 = rows;
            ran
        }
    }
}

/// The rule of a pass, and those that are fused with it.
struct Rules<'a> {
    kernel: &'static Kernel,
    linked: LinkedRule,
    fused: &'a [FusedRule<'a>],
    fused_count: usize,
    isa: Isa,
}

/// Walks over all tensors, and runs the rules over them.
fn run_rules<T: ComputeType + Coded>(
    rules: &Rules<'_>,
    pool: &Pool,
    mut walk: Walk<'_, '_>,
    (scalars, checked): (Constants<'_>, bool),
    (plan, rows): (&mut CpuPlan, &mut Vec<T>),
    sums: &mut [f64],
) -> Result<()> {
    let kernel = rules.kernel;
    let CpuPlan { tiling, table, feed, partials, .. } = plan;
    table.clear();
    let expect_sums = |expected: usize| match sums.len() == expected {
        true => Ok(()),
        false => Err(Error::Length {
            operation: kernel.name,
            what: "the table of sums".into(),
            expected,
            got: sums.len(),
        }),
    };
    let feeds = checked && walk.merges && pool.feeds();
    if feeds && feed.is_worth() {
        expect_sums(0)?;
        pack_constants(kernel, &scalars, table, rows)?;
        let none = Table::default();
        let pass = rules.state(rows, (&none, &[]), partials);
        let (begun, walked) = feed.run(pool, &pass, &scalars, &mut walk, table);
        walked.map_err(|cause| match begun {
            true => Error::Failed { device: walk.device, problem: cause.to_string(), written: true },
            false => cause,
        })?;
    } else {
        while let Some(tensor) = walk.next()? {
            walk.add(table, tensor);
        }
    }
    if feeds {
        feed.fit(walk.count, walk.small);
    }
    tiling.prepare(table.tensors.iter().map(|&(elements, _)| elements), pool.threads());
    expect_sums(table.tensors.len() * kernel.sums.len())?;
    partials.clear();
    partials.resize(tiling.total_segments * kernel.sums.len(), 0.0);
    pack_constants(kernel, &scalars, table, rows)?;
    let pass = rules.state(rows, (table, &tiling.segments), partials);
    if tiling.total_elements <= SERIAL_BELOW || pool.threads() == 1 {
        tiling.list.iter().for_each(|chunk| run_chunk(&pass, chunk));
    } else {
        pool.for_each(0..tiling.tasks.len(), |task| {
            tiling.list[tiling.tasks[task].clone()].iter().for_each(|chunk| run_chunk(&pass, chunk));
        });
    }
    let count = kernel.sums.len();
    for (tensor, row) in sums.chunks_exact_mut(count.max(1)).enumerate() {
        let first = tiling.segments[tensor];
        let last = first + segments(table.tensors[tensor].0);
        for (s, sum) in row.iter_mut().enumerate() {
            *sum = tree_reduce((first..last).map(|segment| partials[segment * count + s]));
        }
    }
    Ok(())
}

impl Rules<'_> {
    /// Returns what the threads share that run the rules over a table, with the fused rules' rows behind those of the pass.
    fn state<'s, T: ComputeType + Coded>(
        &'s self,
        rows: &'s mut Vec<T>,
        (table, segments): (&'s Table, &'s [usize]),
        partials: &mut [f64],
    ) -> PassState<'s, T> {
        let own = rows.len();
        rows.extend(self.fused.iter().flat_map(|fused| fused.constants).map(|&x| T::from_f64(x)));
        let (rows, mut others) = rows.split_at(own);
        let mut companions = self.fused.iter().filter_map(|fused| {
            let row;
            (row, others) = others.split_at(fused.constants.len());
            FusedKernel::new(fused, row, self.isa)
        });
        let fused = core::array::from_fn(|_| companions.next());
        let rule = Dispatch::of(self.kernel, self.linked, self.isa);
        let partials = Partials(partials.as_mut_ptr());
        PassState {
            rule,
            fused,
            fused_count: self.fused_count,
            isa: self.isa,
            table,
            segments,
            rows,
            partials,
        }
    }
}
