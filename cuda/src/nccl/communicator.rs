//! One rank's end: exchanges of the host's memory and of the device's, and sums in their documented order.

use super::ffi::{NcclId, present};
use super::worker::{Job, Worker};
use crate::Cuda;
use crate::context::{Failure, on_device};
use cudarc::driver::result::memcpy_dtod_async;
use fallline_core::backend::{Backend, DeviceMemory, Pass, TensorPass, View};
use fallline_core::ranks::{
    Communicator, RankAdd, RankError, RankFirst, RankMean, Reduction, WorldSize, chunk, known, same_length,
};
use fallline_core::{Compute, Error, Format, Kernel, Result, Rule, Storage};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// One rank's end, on its device.
pub struct Nccl {
    rank: usize,
    world: usize,
    worker: Worker,
    backend: Arc<Cuda>,
}

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl Nccl {
    /// Joins the world of an id as one of its ranks; all ranks do, each with a separate device. An exchange that is
    /// not finished within `limit` fails.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when there is no NCCL or it refuses; [`Error::Ranks`] when not all come within the limit.
    pub fn start(backend: Arc<Cuda>, id: NcclId, rank: usize, world: usize, limit: Duration) -> Result<Nccl> {
        present()?;
        known("starting NCCL", rank, world)?;
        let worker = Worker::start(&backend, id, (rank, world), limit)?;
        Ok(Nccl { rank, world, worker, backend })
    }

    /// Joins the same world as other `ranks` are in, through which the id is handed on.
    ///
    /// # Errors
    /// As [`start`](Nccl::start), and those of the exchange.
    pub fn beside(backend: Arc<Cuda>, ranks: &dyn Communicator, limit: Duration) -> Result<Nccl> {
        // Whether the first rank has one is handed on too, so that the others do not wait for it.
        let mut bytes = [0; 129];
        let made = if ranks.rank() == 0 { Some(NcclId::new()) } else { None };
        if let Some(Ok(id)) = &made {
            bytes[..128].copy_from_slice(id.bytes());
            bytes[128] = 1;
        }
        ranks.broadcast(0, &mut bytes)?;
        made.transpose()?;
        let (id, there) = (NcclId::from(bytes[..128].try_into().unwrap_or([0; 128])), bytes[128] == 1);
        if !there {
            return Err(Error::Unavailable("rank 0 has no NCCL".into()));
        }
        Nccl::start(backend, id, ranks.rank(), ranks.world_size(), limit)
    }

    /// Allocates memory of the device for so many bytes.
    fn memory(&self, bytes: usize) -> Result<Storage, RankError> {
        let allocated = self.backend.allocate(&[(Format::Bf16, bytes.div_ceil(2))]);
        Ok(allocated.map_err(|error| self.failed(&error))?.remove(0))
    }

    fn failed(&self, error: &Error) -> RankError {
        RankError::Failed { rank: self.rank, problem: error.to_string() }
    }

    fn upload(&self, to: &mut Storage, bytes: &[u8]) -> Result<(), RankError> {
        let address = to.address() as u64;
        // SAFETY: the storage has as many bytes and is borrowed mutably; all work on it is in the order of the streams.
        let copied = self.backend.copy(|s| unsafe { s.staging.upload(&s.ctx.copies, address, bytes) }, true);
        copied.map_err(|error| self.failed(&error))
    }

    fn download(&self, from: &Storage, bytes: &mut [u8]) -> Result<(), RankError> {
        let address = from.address() as u64;
        // SAFETY: the storage has as many bytes; all work on it is in the order of the streams.
        let copied =
            self.backend.copy(|s| unsafe { s.staging.download(&s.ctx.copies, address, bytes) }, false);
        copied.map_err(|error| self.failed(&error))
    }

    /// Returns whether a storage is on this rank's device.
    fn is_mine(&self, storage: &Storage) -> bool {
        on_device(self.backend.device(), "exchange", "a storage", storage).is_ok()
    }

    /// Copies bytes from one storage of the device to the start of another.
    fn put(&self, from: &Storage, to: &mut Storage, bytes: usize) -> Result<()> {
        if bytes > from.bytes().min(to.bytes()) {
            let (what, expected, got) = ("a storage".to_owned(), bytes, from.bytes().min(to.bytes()));
            return Err(Error::Length { operation: "exchange", what, expected, got });
        }
        if bytes == 0 {
            return Ok(());
        }
        let mut state = self.backend.state();
        state.enter("an exchange")?;
        let (source, target, stream) =
            (from.address() as u64, to.address() as u64, state.ctx.compute.cu_stream());
        // SAFETY: both storages are the device's and have as many bytes; all work is in the stream's order.
        let copied = unsafe { memcpy_dtod_async(target, source, bytes, stream) };
        copied.map_err(|cause| state.ctx.error(Failure::at("copying")(cause), true))
    }

    /// Runs a rule of two operands, the written one first, in `f64`.
    fn pass<'v>(
        &self,
        kernel: &'static Kernel,
        constants: &[f64],
        to: View<'v>,
        from: View<'v>,
    ) -> Result<()> {
        let mut views = Some((to, from));
        self.backend.run(Pass {
            kernel,
            compute: Compute::F64,
            tensors: &mut |places| {
                let (to, from) = views.take()?;
                let elements = to.len();
                (places[0], places[1]) = (Some(to), Some(from));
                Some(TensorPass { elements, constant_set: 0 })
            },
            constants,
            tensor_scalars: &[],
            plan: &mut self.backend.plan(),
            sums: &mut [],
            fused: &[],
            checked: false,
        })
    }

    /// Reduces the ranks' pieces, one after another, to one, on the device.
    fn fold(&self, pieces: &Storage, own: &mut Storage, how: Reduction) -> Result<()> {
        let length = own.len();
        let of = |rank: usize| View::read(pieces).slice(rank * length, length);
        let mut sum = self.backend.allocate(&[(Format::F64, length)])?.remove(0);
        self.pass(recorded::<RankFirst>(), &[1.0], View::write(&mut sum), of(0))?;
        for rank in 1..self.world {
            self.pass(recorded::<RankAdd>(), &[1.0], View::write(&mut sum), of(rank))?;
        }
        match how {
            Reduction::Sum => self.pass(recorded::<RankFirst>(), &[1.0], View::write(own), View::read(&sum)),
            Reduction::Mean => {
                let mut row = [1.0, 0.0];
                recorded::<RankMean>().compute_scalars(&WorldSize(self.world as f64), 1, &mut row[1..]);
                self.pass(recorded::<RankMean>(), &row, View::write(own), View::read(&sum))
            }
        }
    }
}

/// Returns a rule for this backend alone, which needs its recording only.
fn recorded<R: Rule>() -> &'static Kernel {
    struct Of<R>(R);
    impl<R: Rule> Of<R> {
        const KERNEL: &'static Kernel = &Kernel::new::<R>(&());
    }
    Of::<R>::KERNEL
}

impl Communicator for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world
    }

    fn describe(&self) -> String {
        format!("{} ranks over NCCL", self.world)
    }

    fn all_to_all(&self, send: &[u8], receive: &mut [u8]) -> Result<(), RankError> {
        let operation = "all_to_all";
        same_length(operation, "the receive buffer", send.len(), receive.len())?;
        let piece = chunk(operation, send.len(), self.world)?;
        if piece == 0 {
            return self.barrier();
        }
        let (mut from, to) = (self.memory(send.len())?, self.memory(send.len())?);
        self.upload(&mut from, send)?;
        let (from_at, to_at) = (from.address() as u64, to.address() as u64);
        self.worker.ask(operation, Job::AllToAll { from: from_at, to: to_at, piece })?;
        self.download(&to, receive)
    }

    fn all_gather(&self, send: &[u8], receive: &mut [u8]) -> Result<(), RankError> {
        let (operation, bytes) = ("all_gather", send.len());
        same_length(operation, "the receive buffer", bytes * self.world, receive.len())?;
        if bytes == 0 {
            return self.barrier();
        }
        let (mut from, to) = (self.memory(bytes)?, self.memory(receive.len())?);
        self.upload(&mut from, send)?;
        self.worker
            .ask(operation, Job::AllGather { from: from.address() as u64, to: to.address() as u64, bytes })?;
        self.download(&to, receive)
    }

    fn broadcast(&self, root: usize, bytes: &mut [u8]) -> Result<(), RankError> {
        known("broadcast", root, self.world)?;
        if bytes.is_empty() {
            return self.barrier();
        }
        let mut memory = self.memory(bytes.len())?;
        if root == self.rank {
            self.upload(&mut memory, bytes)?;
        }
        let job = Job::Broadcast { at: memory.address() as u64, bytes: bytes.len(), root };
        self.worker.ask("broadcast", job)?;
        if root == self.rank { Ok(()) } else { self.download(&memory, bytes) }
    }

    fn barrier(&self) -> Result<(), RankError> {
        let (from, to) = (self.memory(4)?, self.memory(4 * self.world)?);
        let (from_at, to_at) = (from.address() as u64, to.address() as u64);
        self.worker.ask("barrier", Job::AllGather { from: from_at, to: to_at, bytes: 4 })
    }

    fn all_reduce_storage(&self, backend: &dyn Backend, storage: &mut Storage, how: Reduction) -> Result<()> {
        if !self.is_mine(storage) {
            return OnHost(self).all_reduce_storage(backend, storage, how);
        }
        let (format, length, bytes) = (storage.format(), storage.len(), storage.bytes());
        if length == 0 || self.world == 1 {
            return Ok(());
        }
        let piece = length.div_ceil(self.world);
        let padded = (format, piece * self.world);
        let mut memory = self.backend.allocate(&[padded, padded, (format, piece)])?.into_iter();
        let (Some(mut all), Some(mut pieces), Some(mut own)) = (memory.next(), memory.next(), memory.next())
        else {
            unreachable!("a backend allocates what it is asked for")
        };
        self.put(storage, &mut all, bytes)?;
        self.all_to_all_storage(backend, &all, &mut pieces)?;
        self.fold(&pieces, &mut own, how)?;
        self.all_gather_storage(backend, &own, &mut all)?;
        self.put(&all, storage, bytes)
    }

    fn reduce_scatter_storage(
        &self,
        backend: &dyn Backend,
        values: &Storage,
        own: &mut Storage,
        how: Reduction,
    ) -> Result<()> {
        if !(self.is_mine(values) && self.is_mine(own)) {
            return OnHost(self).reduce_scatter_storage(backend, values, own, how);
        }
        same_length("reduce_scatter", "the values", own.len() * self.world, values.len())?;
        let mut pieces = self.backend.allocate(&[(values.format(), values.len())])?.remove(0);
        self.all_to_all_storage(backend, values, &mut pieces)?;
        self.fold(&pieces, own, how)
    }

    fn broadcast_storage(&self, backend: &dyn Backend, root: usize, storage: &mut Storage) -> Result<()> {
        if !self.is_mine(storage) || storage.is_empty() {
            return OnHost(self).broadcast_storage(backend, root, storage);
        }
        known("broadcast", root, self.world)?;
        let job = Job::Broadcast { at: storage.address() as u64, bytes: storage.bytes(), root };
        Ok(self.worker.ask("broadcast", job)?)
    }

    fn all_gather_storage(&self, backend: &dyn Backend, own: &Storage, all: &mut Storage) -> Result<()> {
        if !(self.is_mine(own) && self.is_mine(all)) || own.is_empty() {
            return OnHost(self).all_gather_storage(backend, own, all);
        }
        same_length("all_gather", "the receive buffer", own.bytes() * self.world, all.bytes())?;
        let (from, to) = (own.address() as u64, all.address() as u64);
        Ok(self.worker.ask("all_gather", Job::AllGather { from, to, bytes: own.bytes() })?)
    }

    fn all_to_all_storage(&self, backend: &dyn Backend, send: &Storage, receive: &mut Storage) -> Result<()> {
        if !(self.is_mine(send) && self.is_mine(receive)) || send.is_empty() {
            return OnHost(self).all_to_all_storage(backend, send, receive);
        }
        same_length("all_to_all", "the receive buffer", send.bytes(), receive.bytes())?;
        let piece = chunk("all_to_all", send.bytes(), self.world)?;
        let (from, to) = (send.address() as u64, receive.address() as u64);
        Ok(self.worker.ask("all_to_all", Job::AllToAll { from, to, piece })?)
    }
}

/// The same ranks for memory that is not on their devices: by way of the host.
#[derive(Debug)]
struct OnHost<'a>(&'a Nccl);

impl Communicator for OnHost<'_> {
    fn rank(&self) -> usize {
        self.0.rank
    }
    fn world_size(&self) -> usize {
        self.0.world
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
    fn all_to_all(&self, send: &[u8], receive: &mut [u8]) -> Result<(), RankError> {
        self.0.all_to_all(send, receive)
    }
    fn all_gather(&self, send: &[u8], receive: &mut [u8]) -> Result<(), RankError> {
        self.0.all_gather(send, receive)
    }
    fn broadcast(&self, root: usize, bytes: &mut [u8]) -> Result<(), RankError> {
        self.0.broadcast(root, bytes)
    }
    fn barrier(&self) -> Result<(), RankError> {
        self.0.barrier()
    }
}
