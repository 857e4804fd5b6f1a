//! What every communicator must do: run by all ranks at once, over threads, MPI and NCCL.

use fallline_core::host::{Slice, SliceMut};
use fallline_core::ranks::{Communicator, RankError, Reduction, check_equal};
use fallline_core::{Backend, Element, Tensor, bf16, f16};
use fallline_cpu::Cpu;
use std::sync::Arc;

/// Returns numbers that differ from rank to rank, the same on whoever computes them.
fn values<T: Element>(rank: usize, length: usize) -> Vec<T> {
    let mut bits = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(1 + rank as u64);
    let mut next = || {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        // Magnitudes apart, so that another order of the sums, or a rounding more, shows.
        ((bits >> 11) as f64 / (1_u64 << 52) as f64 - 1.0) * 10.0_f64.powi((bits % 5) as i32 - 2)
    };
    (0..length).map(|_| T::from_f64(next())).collect()
}

/// Reduces in the documented order of sums, literally.
fn reduced<T: Element>(world: usize, length: usize, how: Reduction) -> Vec<T> {
    let all: Vec<Vec<T>> = (0..world).map(|rank| values(rank, length)).collect();
    let sum = |i: usize| all[1..].iter().fold(all[0][i].to_f64(), |sum, values| sum + values[i].to_f64());
    let divisor = if how == Reduction::Mean { world as f64 } else { 1.0 };
    (0..length).map(|i| T::from_f64(sum(i) / divisor)).collect()
}

fn bytes<T: Element>(values: &[T]) -> &[u8] {
    bytemuck::cast_slice(values)
}

/// Reductions of one format: the same bits as the literal order, for lengths around the number of ranks and blocks.
fn reductions<T: Element>(ranks: &dyn Communicator)
where
    for<'a> SliceMut<'a>: From<&'a mut [T]>,
    for<'a> Slice<'a>: From<&'a [T]>,
{
    let (rank, world) = (ranks.rank(), ranks.world_size());
    for how in [Reduction::Sum, Reduction::Mean] {
        for length in [0, 1, 2, 3, 4, 5, 1023, 1024 * world, 1024 * world + 1, 5000] {
            let mut own = values::<T>(rank, length);
            ranks.all_reduce(own.as_mut_slice().into(), how).unwrap();
            assert_eq!(bytes(&own), bytes(&reduced::<T>(world, length, how)), "{how:?} of {length}");
            let all = values::<T>(rank, length * world);
            let mut piece = vec![T::default(); length];
            ranks.reduce_scatter(all.as_slice().into(), piece.as_mut_slice().into(), how).unwrap();
            let expected = &reduced::<T>(world, length * world, how)[rank * length..][..length];
            assert_eq!(bytes(&piece), bytes(expected), "{how:?} of {length}, scattered");
        }
    }
}

/// A backend's memory goes through the same exchanges.
pub fn storages(ranks: &dyn Communicator, backend: &Arc<dyn Backend>) {
    storages_of::<f64>(ranks, backend);
    storages_of::<f32>(ranks, backend);
    storages_of::<bf16>(ranks, backend);
    storages_of::<f16>(ranks, backend);
}

fn storages_of<T: Element>(ranks: &dyn Communicator, backend: &Arc<dyn Backend>)
where
    for<'a> SliceMut<'a>: From<&'a mut [T]>,
    for<'a> Slice<'a>: From<&'a [T]>,
{
    let (rank, world) = (ranks.rank(), ranks.world_size());
    let own = values::<T>(rank, 12 * world);
    let tensor = |values: &[T]| Tensor::from_slice(backend, values, [values.len()]).unwrap();
    let read = |tensor: &Tensor| {
        let mut values = vec![T::default(); tensor.storage().len()];
        backend.read(tensor.storage(), values.as_mut_slice().into()).unwrap();
        values
    };
    let mut summed = tensor(&own);
    ranks.all_reduce_storage(&**backend, summed.storage_mut(), Reduction::Sum).unwrap();
    assert_eq!(read(&summed), reduced::<T>(world, 12 * world, Reduction::Sum));
    let mut piece = tensor(&[T::default(); 12]);
    let full = tensor(&own);
    ranks.reduce_scatter_storage(&**backend, full.storage(), piece.storage_mut(), Reduction::Mean).unwrap();
    let mean = reduced::<T>(world, 12 * world, Reduction::Mean);
    assert_eq!(read(&piece), mean[12 * rank..][..12]);
    let mut all = tensor(&vec![T::default(); 12 * world]);
    ranks.all_gather_storage(&**backend, piece.storage(), all.storage_mut()).unwrap();
    assert_eq!(read(&all), mean);
    ranks.all_to_all_storage(&**backend, full.storage(), all.storage_mut()).unwrap();
    let crossed = (0..world).flat_map(|from| values::<T>(from, 12 * world)[12 * rank..][..12].to_vec());
    assert_eq!(read(&all), crossed.collect::<Vec<_>>());
    for root in 0..world {
        let mut told = tensor(&own);
        ranks.broadcast_storage(&**backend, root, told.storage_mut()).unwrap();
        assert_eq!(read(&told), values::<T>(root, 12 * world));
    }
}

/// The whole contract.
pub fn suite(ranks: &dyn Communicator) {
    let (rank, world) = (ranks.rank(), ranks.world_size());
    assert!(rank < world && !ranks.describe().is_empty());
    ranks.barrier().unwrap();
    for length in [0, 1, 7, 4096] {
        let piece = |from: usize, to: usize| vec![(16 * from + to + length) as u8; length];
        let send: Vec<u8> = (0..world).flat_map(|to| piece(rank, to)).collect();
        let mut received = vec![0xee; send.len()];
        ranks.all_to_all(&send, &mut received).unwrap();
        assert_eq!(received, (0..world).flat_map(|from| piece(from, rank)).collect::<Vec<_>>());
        let mut all = vec![0xee; length * world];
        ranks.all_gather(&piece(rank, 0), &mut all).unwrap();
        assert_eq!(all, (0..world).flat_map(|from| piece(from, 0)).collect::<Vec<_>>());
        for root in 0..world {
            let mut told = piece(rank, root);
            ranks.broadcast(root, &mut told).unwrap();
            assert_eq!(told, piece(root, root));
        }
    }
    // As many as each has, in pieces that need not be those of others.
    for lengths in [
        vec![0; world],
        vec![5; world],
        (0..world).map(|rank| 3000 * rank).collect(),
        (0..world).map(|rank| usize::from(rank == 0)).collect(),
    ] {
        let bytes = |rank: usize| (0..lengths[rank]).map(|i| (i + 7 * rank) as u8).collect::<Vec<u8>>();
        let own = bytes(rank);
        let (first, second) = own.split_at(own.len() / (rank + 1));
        let mut taken = Vec::new();
        ranks
            .all_gather_v(&[first, &[], second], &lengths, &mut |from, bytes| {
                taken.push((from, bytes.to_vec()))
            })
            .unwrap();
        let others = (0..world).filter(|from| *from != rank).map(|from| (from, bytes(from)));
        let given = |taken: &[(usize, Vec<u8>)]| {
            taken.iter().filter(|(_, bytes)| !bytes.is_empty()).cloned().collect::<Vec<_>>()
        };
        assert_eq!(given(&taken), given(&others.collect::<Vec<_>>()), "{lengths:?}");
        let error = ranks.all_gather_v(&[&own, &[1]], &lengths, &mut |_, _| {}).unwrap_err();
        assert!(matches!(error, RankError::Length { .. }), "{error}");
    }
    reductions::<f64>(ranks);
    reductions::<f32>(ranks);
    reductions::<bf16>(ranks);
    reductions::<f16>(ranks);
    storages(ranks, &Cpu::with_threads(1).unwrap().shared());

    // What is wrong on its face is refused before anything is exchanged, and breaks nothing.
    assert!(matches!(ranks.broadcast(world, &mut []), Err(RankError::NoRank { .. })));
    assert!(matches!(ranks.all_gather(&[0], &mut []), Err(RankError::Length { .. })));
    assert!(matches!(ranks.all_to_all(&[0], &mut []), Err(RankError::Length { .. })));

    let lines = |own: &str| vec!["lr=0.1".to_owned(), own.to_owned(), "eps=0".to_owned()];
    check_equal(ranks, "the configuration", &lines("betas=(0.9, 0.999)")).unwrap();
    if world > 1 {
        let own = if rank == world - 1 { "betas=(0.9, 0.99)" } else { "betas=(0.9, 0.999)" };
        let error = check_equal(ranks, "the configuration", &lines(own)).unwrap_err().to_string();
        let (last, quoted) = (world - 1, "\"betas=(0.9, 0.999)\" on rank 0, \"betas=(0.9, 0.99)\" on rank");
        assert_eq!(error, format!("ranks 0 and {last} differ in the configuration: {quoted} {last}"));
        // One rank has a line more than the others.
        let own = if rank == 1 { lines("x") } else { lines("x")[..2].to_vec() };
        let error = check_equal(ranks, "it", &own).unwrap_err().to_string();
        assert_eq!(error, "ranks 0 and 1 differ in it: \"nothing\" on rank 0, \"eps=0\" on rank 1");
    }
    ranks.barrier().unwrap();
}
