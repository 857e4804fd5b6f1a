//! What OnebitLamb does between its passes: the momenta's compressed mean, and how far denominators have come.

use super::super::onebit::{self, Phase};
use super::super::prelude::*;
use super::{OnebitLamb, OnebitLambRatioRule, OnebitLambScaleRule, OnebitLambUnscaleRule};
use crate::compression::Compression;
use crate::op::{CollectiveAt, CollectiveOp, OpAt, TensorOp};
use fallline_core::backend::{Pass, TensorPass, View};
use fallline_core::ranks::Communicator;
use fallline_core::{Backend, Compute, Kernel, Result};

/// Places in [`OnebitLamb::MEMORY`].
const LARGEST: usize = 2;
/// Of the momentum: its root mean square at the end of warm-up, and what makes it that of the others; 0 before.
const MOMENTUM: usize = 3;
const SCALING: usize = 4;

/// The mean of the ranks' momenta, compressed in one piece, and masked.
pub struct MomentaAllReduce;

impl CollectiveOp for MomentaAllReduce {
    type Hyper = OnebitLamb;
    const NAME: &'static str = "MomentaAllReduce";
    const FORMULAS: &'static [&'static str] =
        &["in compression: m of all tensors ← the mean of all ranks', scaled alike and sent as signs"];

    fn rules<K: Link>() -> Vec<&'static Kernel> {
        vec![K::kernel::<OnebitLambScaleRule>(), K::kernel::<OnebitLambUnscaleRule>()]
    }

    fn run<K: Link>(_: &OnebitLamb, at: &mut CollectiveAt<'_>) -> Result<()> {
        if onebit::phase(at.shared) != Phase::Compressed {
            return Ok(());
        }
        let compression = Compression::new::<K>();
        if let Some(ranks) = at.ranks {
            send::<K>(ranks, &compression, at)?;
        }
        for tensor in &mut at.tensors {
            compression.mask((at.backend, at.compute), tensor.states.get_mut("m")?, tensor.mask)?;
        }
        Ok(())
    }
}

/// How much smaller a denominator would be by now, had it not been frozen.
pub struct LargestRatio;

impl TensorOp for LargestRatio {
    type Hyper = OnebitLamb;
    const NAME: &'static str = "LargestRatio";
    const FORMULAS: &'static [&'static str] =
        &["in compression: largest_ratio = max (√v + ε) / (√v_fresh + ε), over the elements of the tensor"];

    fn rules<K: Link>() -> Vec<&'static Kernel> {
        vec![K::kernel::<OnebitLambRatioRule>()]
    }

    fn run<K: Link>(h: &OnebitLamb, at: &mut OpAt<'_>) -> Result<()> {
        if onebit::phase(at.shared) != Phase::Compressed || at.shape.elements() == 0 {
            return Ok(());
        }
        let mut ratios = at.take(at.shape.elements())?;
        let (v, fresh) = (at.states.get("v")?, at.states.get("v_fresh")?);
        let views = &mut [Some(View::write(&mut ratios)), Some(View::read(v)), Some(View::read(fresh))];
        at.on.run(K::kernel::<OnebitLambRatioRule>(), h, &[], views)?;
        at.remember_largest::<K>(&mut ratios, LARGEST)?;
        at.workspace.release([ratios]);
        Ok(())
    }
}

/// Replaces the momenta by the mean of the ranks', compressed in one piece.
fn send<K: Link>(
    ranks: &dyn Communicator,
    compression: &Compression,
    step: &mut CollectiveAt<'_>,
) -> Result<()> {
    // As DeepSpeed: once, when the first momenta are compressed. One that is all 0, or comes later, is left as it is.
    let first = step.tensors.first_mut().map(|first| first.memory.get(SCALING)).transpose()?;
    if first == Some(0.0) {
        let momenta = step.tensors.iter_mut().map(|tensor| tensor.memory.get(MOMENTUM));
        let momenta = momenta.collect::<Result<Vec<f64>>>()?;
        let united = momenta.iter().sum::<f64>() / momenta.len() as f64;
        for (tensor, own) in step.tensors.iter_mut().zip(momenta) {
            let scaling = if own == 0.0 || united == 0.0 { 1.0 } else { united / own };
            tensor.memory.set(SCALING, scaling)?;
        }
    }
    let scalings = step.tensors.iter_mut().map(|tensor| {
        let scaling = tensor.memory.get(SCALING)?;
        if scaling != 0.0 {
            return Ok(scaling);
        }
        tensor.memory.set(SCALING, 1.0)?;
        Ok(1.0)
    });
    let scalings = scalings.collect::<Result<Vec<f64>>>()?;
    let all: usize = step.tensors.iter().map(|tensor| tensor.shape.elements()).sum();
    let (backend, compute) = (step.backend, step.compute);
    let mut piece = step.workspace.acquire(backend, compute.format(), all)?;
    let momenta = step.tensors.iter().map(|tensor| tensor.states.get("m").map(View::read));
    let momenta = momenta.collect::<Result<Vec<View<'_>>>>()?;
    let mut whole = View::write(&mut piece);
    let pairs = momenta.into_iter().map(|m| (whole.take(0, m.len()), m));
    pass(backend, compute, K::kernel::<OnebitLambScaleRule>(), &scalings, pairs)?;
    compression.all_reduce_over(ranks, (backend, compute), step.residuals, step.workspace, &mut piece)?;
    let momenta = step.tensors.iter_mut().map(|tensor| tensor.states.get_mut("m").map(View::write));
    let momenta = momenta.collect::<Result<Vec<View<'_>>>>()?;
    let mut start = 0;
    let pairs = momenta.into_iter().map(|m| {
        let from = View::read(&piece).slice(start, m.len());
        start += m.len();
        (m, from)
    });
    pass(backend, compute, K::kernel::<OnebitLambUnscaleRule>(), &scalings, pairs)?;
    step.workspace.release([piece]);
    Ok(())
}

/// Runs a pass of a rule without sums over pairs of operands, the written one first.
fn pass<'v>(
    backend: &dyn Backend,
    compute: Compute,
    kernel: &'static Kernel,
    own: &[f64],
    mut pairs: impl Iterator<Item = (View<'v>, View<'v>)>,
) -> Result<()> {
    backend.run(Pass {
        kernel,
        compute,
        tensors: &mut |places| {
            let (to, from) = pairs.next()?;
            let elements = to.len();
            (places[0], places[1]) = (Some(to), Some(from));
            Some(TensorPass { elements, constant_set: 0 })
        },
        constants: &[1.0],
        tensor_scalars: own,
        plan: &mut backend.plan(),
        sums: &mut [],
        fused: &[],
        checked: false,
    })
}
