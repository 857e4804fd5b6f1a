//! The executor: every pass over memory goes through here.
//!
//! [`run`] checks the operands (`operands`), cuts all tensors into chunks (`tiling`), packs the constants (`plan`) and hands
//! chunks to the threads. A chunk goes through the pass's rules (`fused`), and through each in the way that its operands are
//! stored in (`rule`): with a kernel that takes them as they are (`dispatch`), or converted (`convert`) or repeated
//! (`broadcast`) into scratch.

mod accumulate;
mod broadcast;
mod convert;
mod dispatch;
mod fused;
mod operands;
mod plan;
mod rule;
mod state;
#[cfg(test)]
mod tests;
mod tiling;

use crate::codec::Coded;
use crate::isa::Isa;
use crate::kernels::ComputeType;
use crate::pool::Pool;
use accumulate::MAX_SUMS;
use dispatch::{Dispatch, LinkedRule};
use fallline_core::backend::{Beside, MAX_OPERANDS, MAX_VIEWS, Pass, Views};
use fallline_core::sums::{fold, segments};
use fallline_core::{Compute, Device, Error, Kernel, Result};
use fused::run_chunk;
use operands::check;
pub(crate) use plan::CpuPlan;
use plan::{Constants, pack_constants};
use state::{FusedKernel, Partials, PassState};

/// Passes over fewer elements run on the calling thread: waking the pool costs more.
const SERIAL_BELOW: usize = 256 * 1024;

/// Elements of some four operands that a last-level cache holds between two passes (8 MiB in `f32`), and so many that
/// waking the threads twice for them is little: more than [`SERIAL_BELOW`], they share them.
pub(crate) const CACHED: usize = 2 * SERIAL_BELOW;

/// Runs a pass.
pub(crate) fn run(device: Device, isa: Isa, pool: &Pool, pass: Pass<'_, '_>) -> Result<()> {
    let Pass { kernel, compute, tensors, rows, tensor_scalars, plan, sums, beside } = pass;
    let scalars = Constants { shared: rows, own: tensor_scalars };
    let linked = |kernel: &'static Kernel| {
        LinkedRule::of(kernel).ok_or(Error::NotLinked { rule: kernel.name, device })
    };
    Beside::check(beside)?;
    for beside in beside {
        linked(beside.kernel)?;
    }
    let rules = Rules { kernel, linked: linked(kernel)?, beside };
    let Some(plan) = plan.downcast_mut::<CpuPlan>() else {
        return Err(Error::Unavailable(format!("{}: the plan is another backend's", kernel.name)));
    };
    assert!(
        kernel.sums.len() <= MAX_SUMS && kernel.operands.len() <= MAX_OPERANDS,
        "{kernel:?} is too large"
    );

    plan.tensors.clear();
    plan.stored.clear();
    plan.fused_operands.clear();
    let count = kernel.operands.len();
    let last = beside.iter().flat_map(|beside| beside.operands).max();
    plan.fused_count = last.map_or(0, |&last| (last + 1).saturating_sub(count));
    let merges = kernel.sums.is_empty() && kernel.tensor_scalars.is_empty();
    let mut views: Views<'_> = [const { None }; MAX_VIEWS];
    let mut index = 0;
    while let Some(tensor) = tensors(&mut views) {
        for Beside { kernel, operands, .. } in beside.iter().filter(|beside| beside.has(&views)) {
            for (operand, &place) in kernel.operands.iter().zip(*operands) {
                check(device, kernel, index, operand, views[place].as_ref(), tensor.elements)?;
            }
        }
        let (own, others) = views.split_at_mut(count);
        let others = &mut others[..plan.fused_count];
        for (operand, view) in kernel.operands.iter().zip(&*own) {
            check(device, kernel, index, operand, view.as_ref(), tensor.elements)?;
        }
        plan.add(own, others, tensor, merges);
        own.iter_mut().chain(others).for_each(|view| *view = None);
        index += 1;
    }
    plan.tiling.prepare(plan.tensors.iter().map(|&(elements, _)| elements), pool.threads());
    if sums.len() != plan.tensors.len() * kernel.sums.len() {
        return Err(Error::Length {
            operation: kernel.name,
            what: "the table of sums".into(),
            expected: plan.tensors.len() * kernel.sums.len(),
            got: sums.len(),
        });
    }
    plan.partials.clear();
    plan.partials.resize(plan.tiling.total_segments * kernel.sums.len(), 0.0);
    match compute {
        Compute::F32 => {
            let mut rows = core::mem::take(&mut plan.constants_f32);
            pack_constants(kernel, &scalars, plan, &mut rows)?;
            execute(&rules, isa, pool, plan, &mut rows);
            plan.constants_f32 = rows;
        }
        Compute::F64 => {
            let mut rows = core::mem::take(&mut plan.constants_f64);
            pack_constants(kernel, &scalars, plan, &mut rows)?;
            execute(&rules, isa, pool, plan, &mut rows);
            plan.constants_f64 = rows;
        }
    }
    let count = kernel.sums.len();
    for (tensor, row) in sums.chunks_exact_mut(count.max(1)).enumerate() {
        let first = plan.tiling.segments[tensor];
        let last = first + segments(plan.tensors[tensor].0);
        for (s, sum) in row.iter_mut().enumerate() {
            *sum = fold((first..last).map(|segment| plan.partials[segment * count + s]));
        }
    }
    Ok(())
}

/// The rule of a pass, and those that are fused with it.
struct Rules<'a> {
    kernel: &'static Kernel,
    linked: LinkedRule,
    beside: &'a [Beside<'a>],
}

/// Runs the rules over all chunks, on the pool's threads where they are worth waking.
fn execute<T: ComputeType + Coded>(
    rules: &Rules<'_>,
    isa: Isa,
    pool: &Pool,
    plan: &mut CpuPlan,
    rows: &mut Vec<T>,
) {
    let partials = Partials(plan.partials.as_mut_ptr());
    let own = rows.len();
    rows.extend(rules.beside.iter().flat_map(|beside| beside.row).map(|&x| T::from_f64(x)));
    let (rows, mut others) = rows.split_at(own);
    let mut companions = rules.beside.iter().filter_map(|beside| {
        let row;
        (row, others) = others.split_at(beside.row.len());
        FusedKernel::new(beside, row, isa)
    });
    let fused = core::array::from_fn(|_| companions.next());
    let rule = Dispatch::of(rules.kernel, rules.linked, isa);
    let pass = PassState { rule, fused, isa, plan, rows, partials };
    let tiling = &pass.plan.tiling;
    if tiling.total_elements <= SERIAL_BELOW || pool.threads() == 1 {
        tiling.list.iter().for_each(|chunk| run_chunk(&pass, chunk));
    } else {
        pool.for_each(0..tiling.tasks.len(), |task| {
            tiling.list[tiling.tasks[task].clone()].iter().for_each(|chunk| run_chunk(&pass, chunk));
        });
    }
}
