//! Reductions, made of exchanges of bytes: each rank sums its piece in the order of the ranks.

use super::{Buffer, Communicator, RankError, Reduction, same_length};
use crate::host::{Slice, SliceMut};
use crate::{Backend, Element, Error, Result, Storage};
use half::{bf16, f16};

pub(super) fn all_reduce<C: Communicator + ?Sized>(
    ranks: &C,
    values: SliceMut<'_>,
    how: Reduction,
) -> Result<(), RankError> {
    match values {
        SliceMut::F64(values) => all_reduce_of::<f64, C>(ranks, values, how),
        SliceMut::F32(values) => all_reduce_of::<f32, C>(ranks, values, how),
        SliceMut::Bf16(values) => all_reduce_of::<bf16, C>(ranks, values, how),
        SliceMut::F16(values) => all_reduce_of::<f16, C>(ranks, values, how),
    }
}

fn all_reduce_of<T: Element, C: Communicator + ?Sized>(
    ranks: &C,
    values: &mut [T],
    how: Reduction,
) -> Result<(), RankError> {
    let world = ranks.world_size();
    if values.is_empty() || world == 1 {
        return Ok(());
    }
    let piece = values.len().div_ceil(world);
    let mut send = vec![T::default(); piece * world];
    send[..values.len()].copy_from_slice(values);
    let mut own = vec![T::default(); piece];
    reduce_scatter_of::<T, C>(ranks, &send, &mut own, how)?;
    ranks.all_gather(bytemuck::cast_slice(&own), bytemuck::cast_slice_mut(&mut send))?;
    values.copy_from_slice(&send[..values.len()]);
    Ok(())
}

pub(super) fn reduce_scatter<C: Communicator + ?Sized>(
    ranks: &C,
    values: Slice<'_>,
    own: SliceMut<'_>,
    how: Reduction,
) -> Result<(), RankError> {
    let operation = "reduce_scatter";
    same_length(operation, "the values", own.len() * ranks.world_size(), values.len())?;
    let formats = (values.format(), own.format());
    match (values, own) {
        (Slice::F64(values), SliceMut::F64(own)) => reduce_scatter_of::<f64, C>(ranks, values, own, how),
        (Slice::F32(values), SliceMut::F32(own)) => reduce_scatter_of::<f32, C>(ranks, values, own, how),
        (Slice::Bf16(values), SliceMut::Bf16(own)) => reduce_scatter_of::<bf16, C>(ranks, values, own, how),
        (Slice::F16(values), SliceMut::F16(own)) => reduce_scatter_of::<f16, C>(ranks, values, own, how),
        _ => {
            let problem = format!("{operation}: values of {} and a result of {}", formats.0, formats.1);
            Err(RankError::Failed { rank: ranks.rank(), problem })
        }
    }
}

fn reduce_scatter_of<T: Element, C: Communicator + ?Sized>(
    ranks: &C,
    values: &[T],
    own: &mut [T],
    how: Reduction,
) -> Result<(), RankError> {
    if own.is_empty() {
        return Ok(());
    }
    let mut received = vec![T::default(); values.len()];
    ranks.all_to_all(bytemuck::cast_slice(values), bytemuck::cast_slice_mut(&mut received))?;
    fold(&received, own, how);
    Ok(())
}

/// Elements that are summed at a time: their `f64` sums stay in the first-level cache.
const BLOCK: usize = 1024;

/// Reduces the pieces of all ranks, one after another, to one.
fn fold<T: Element>(pieces: &[T], result: &mut [T], how: Reduction) {
    let (length, world) = (result.len(), pieces.len() / result.len());
    let divisor = if how == Reduction::Mean { world as f64 } else { 1.0 };
    let mut sums = [0.0_f64; BLOCK];
    for start in (0..length).step_by(BLOCK) {
        let count = BLOCK.min(length - start);
        let sums = &mut sums[..count];
        let of = |rank: usize| &pieces[rank * length + start..][..count];
        sums.iter_mut().zip(of(0)).for_each(|(sum, value)| *sum = value.to_f64());
        for rank in 1..world {
            sums.iter_mut().zip(of(rank)).for_each(|(sum, value)| *sum += value.to_f64());
        }
        let result = &mut result[start..][..count];
        result.iter_mut().zip(sums).for_each(|(result, sum)| *result = T::from_f64(*sum / divisor));
    }
}

/// Works on a backend's memory where the host reaches it, else on a copy that is written back.
pub(super) fn on_host(
    backend: &dyn Backend,
    storage: &mut Storage,
    work: impl FnOnce(SliceMut<'_>) -> Result<(), RankError>,
) -> Result<()> {
    if let Some(values) = storage.memory_mut().host_mut() {
        return Ok(work(values)?);
    }
    let mut copy = copy_of(storage)?;
    backend.read(storage, copy.slice_mut())?;
    work(copy.slice_mut())?;
    backend.write(storage, copy.slice())
}

/// Works between two storages, with copies where the host does not reach them.
pub(super) fn between(
    backend: &dyn Backend,
    from: &Storage,
    to: &mut Storage,
    work: impl FnOnce(Slice<'_>, SliceMut<'_>) -> Result<(), RankError>,
) -> Result<()> {
    if let (Some(from), Some(to)) = (from.memory().host(), to.memory_mut().host_mut()) {
        return Ok(work(from, to)?);
    }
    let (mut sent, mut received) = (copy_of(from)?, copy_of(to)?);
    backend.read(from, sent.slice_mut())?;
    work(sent.slice(), received.slice_mut())?;
    backend.write(to, received.slice())
}

/// Returns host memory for a storage's elements.
fn copy_of(storage: &Storage) -> Result<Buffer> {
    if !Buffer::takes(storage.format()) {
        let (expected, what) = ("f64, f32, bf16 or f16".to_owned(), "a storage".to_owned());
        return Err(Error::Format { operation: "exchange", what, expected, got: storage.format() });
    }
    let mut buffer = Buffer::default();
    buffer.resize(storage.format(), storage.len());
    Ok(buffer)
}
