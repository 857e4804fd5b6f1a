//! The CPU backend of fallline.
//!
//! Every rule is compiled for each instruction set ([`Isa`]) by [`Native`]. A default build chooses the best one that
//! the machine has at run time. One executor runs all passes. It cuts all tensors of a step into chunks and
//! distributes them over the backend's threads. Operands that are not stored in the compute type are converted block
//! by block, in L1.
//!
//! From the ground up: `vector` (what an instruction set can do), `codec` and `quant` (formats), `kernels` (a rule
//! over elements), `exec` (a pass over tensors). `gemm`, `reduce` and `gather` know no rule.
//!
//! `unsafe` is in the vectors, the kernels, the executor, the arena and the matrix product; everything handed in was
//! checked through borrowed slices before.
//!
//! An internal crate: depend on `fallline`, which re-exports it as `fallline::cpu`.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![allow(unsafe_code)]

mod codec;
#[cfg(feature = "matrix")]
mod context;
mod exec;
mod gather;
#[cfg(feature = "matrix")]
mod gemm;
mod isa;
mod kernels;
mod mapped;
mod matrix;
mod memory;
mod pool;
mod prefetch;
mod quant;
mod raw;
#[cfg(feature = "matrix")]
mod reduce;
#[cfg(feature = "stream")]
pub mod stream;
mod vector;
#[cfg(feature = "matrix")]
mod workspace;

#[cfg(feature = "matrix")]
pub use gemm::InRegisters;
pub use isa::{Isa, VARIABLE, processor};
pub use kernels::Native;
pub use mapped::MappedFile;
pub use raw::{slice_from_raw_parts, slice_from_raw_parts_mut};

use fallline_core::backend::{
    Backend, DeviceMemory, GatherSum, Indexing, LinearAlgebra, PagedMemory, Pass, Plan, Reductions, Scatter,
};
use fallline_core::host::{Slice, SliceMut};
use fallline_core::{Device, Error, Format, Result, Storage};
use pool::Pool;
use std::path::Path;
use std::sync::Arc;
#[cfg(feature = "matrix")]
use workspace::Workspace;

/// The CPU backend: its memory, an instruction set, and a thread pool.
///
/// A child that was forked (`fork`, Python's `multiprocessing`) has none of its parent's threads. A backend that it
/// inherits runs on the calling thread, with the same results, and is dropped as usual. A backend that the child
/// creates has threads of its own. Fork between steps: an optimizer that another thread is stepping is half
/// stepped in the child. Also build optimizers before or after a fork, not during one.
///
/// Results are the same bits on every instruction set and any number of threads, but for two things. The sign and payload of
/// a NaN are not defined, as in IEEE 754. Matrix products of `bf16` on AVX-512 are those of the processor's BF16 unit, where
/// it has one ([`LinearAlgebra::gemm`]).
///
/// # Threads
///
/// | program | backend |
/// |---|---|
/// | any | [`Cpu::new`]: all cores, one pool for all such backends of the process |
/// | with loops of rayon | [`Cpu::with_global_pool`], or [`Cpu::with_pool`] for a pool of yours |
/// | many small models, one a thread | [`Cpu::with_threads(1)`](Cpu::with_threads): nothing but the calling thread |
///
/// Threads are joined when the last backend that uses them is dropped. After a step they spin for some microseconds,
/// then sleep. Steps of several threads on one pool take turns. A step blocks its thread: in an async program
/// (tokio), call it in `spawn_blocking`, or on a thread of its own. Optimizers are `Send` and `Sync`, and a step does not
/// depend on the thread that takes it.
///
/// ```
/// use fallline_cpu::Cpu;
/// let cpu = Cpu::with_threads(2)?;
/// assert_eq!(cpu.threads(), 2);
/// # Ok::<(), fallline_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Cpu {
    isa: Isa,
    device: Device,
    pool: Pool,
    /// For packed factors of matrix products, and partial sums.
    #[cfg(feature = "matrix")]
    workspace: Workspace,
}

impl Cpu {
    /// Returns all of the machine's threads and its best instruction set (or that of `FALLLINE_ISA`). All backends that
    /// are created so share one pool.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when `FALLLINE_ISA` asks for what the machine lacks, or threads cannot be
    /// started.
    pub fn new() -> Result<Cpu> {
        let isa = Isa::from_environment()?.require()?;
        let pool = Pool::shared(std::thread::available_parallelism().map_or(1, usize::from));
        let pool = pool.map_err(Error::Unavailable)?;
        Ok(Cpu::of(isa, Device::Cpu, pool))
    }

    /// Returns a separate pool of `threads` (at least 1), and the best instruction set (or that of `FALLLINE_ISA`).
    ///
    /// # Errors
    /// As for [`Cpu::new`].
    pub fn with_threads(threads: usize) -> Result<Cpu> {
        Cpu::with_isa(Isa::from_environment()?, threads)
    }

    /// Returns a given instruction set, and a pool of `threads` (at least 1).
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the machine lacks the instruction set, or threads cannot be started.
    pub fn with_isa(isa: Isa, threads: usize) -> Result<Cpu> {
        let pool = Pool::new(threads).map_err(Error::Unavailable)?;
        Ok(Cpu::of(isa.require()?, Device::Cpu, pool))
    }

    /// Creates a backend with the best instruction set (or that of `FALLLINE_ISA`) and the program's thread pool. A
    /// training loop that runs on rayon needs no second set of threads then. The backend's own threads start passes
    /// sooner ([`Cpu::with_threads`]). The results are the same.
    ///
    /// ```
    /// use fallline_cpu::Cpu;
    /// let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build()?;
    /// assert_eq!(Cpu::with_pool(pool.into())?.threads(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unavailable`] when `FALLLINE_ISA` asks for what the machine lacks.
    #[cfg(feature = "rayon")]
    pub fn with_pool(pool: Arc<rayon::ThreadPool>) -> Result<Cpu> {
        let (isa, pool) = (Isa::from_environment()?.require()?, Pool::given(pool));
        Ok(Cpu::of(isa, Device::Cpu, pool))
    }

    /// Creates a backend with the best instruction set (or that of `FALLLINE_ISA`) and rayon's global pool, which
    /// `par_iter` uses. Steps between parallel loops then do not compete with the loops' threads. A step that is taken in
    /// a pool of rayon's runs in that one. Where the global pool was not started, this starts it: configure it before.
    /// The results are the same.
    ///
    /// ```
    /// use fallline_cpu::Cpu;
    /// assert_eq!(Cpu::with_global_pool()?.threads(), rayon::current_num_threads());
    /// # Ok::<(), fallline_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unavailable`] when `FALLLINE_ISA` asks for what the machine lacks, or threads cannot be started.
    #[cfg(feature = "rayon")]
    pub fn with_global_pool() -> Result<Cpu> {
        let isa = Isa::from_environment()?.require()?;
        let pool = Pool::global().map_err(Error::Unavailable)?;
        Ok(Cpu::of(isa, Device::Cpu, pool))
    }

    /// Returns the reference device: the same rules, one element at a time, on one thread.
    pub fn scalar() -> Cpu {
        Cpu::of(Isa::Scalar, Device::Scalar, Pool::caller())
    }

    /// As the shared backend that optimizers and tensors take.
    pub fn shared(self) -> Arc<dyn Backend> {
        Arc::new(self)
    }

    /// Returns the instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Returns the number of threads in use.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}

impl fallline_core::private::Sealed for Cpu {}

impl Backend for Cpu {
    fn device(&self) -> Device {
        self.device
    }

    fn describe(&self) -> String {
        let threads = self.threads();
        format!("{} ({}, {threads} thread{})", self.device, self.isa, if threads == 1 { "" } else { "s" })
    }

    fn cache_batch_len(&self) -> Option<usize> {
        Some(exec::CACHED)
    }

    fn plan(&self) -> Plan {
        Box::new(exec::CpuPlan::default())
    }

    fn run(&self, pass: Pass<'_, '_>) -> Result<()> {
        exec::run(self.device, self.isa, &self.pool, pass)
    }

    fn synchronise(&self) -> Result<()> {
        Ok(())
    }

    fn linalg(&self) -> &dyn LinearAlgebra {
        self
    }

    fn indexing(&self) -> &dyn Indexing {
        self
    }

    fn reductions(&self) -> &dyn Reductions {
        self
    }

    fn paged_memory(&self) -> Option<&dyn PagedMemory> {
        Some(self)
    }
}

impl DeviceMemory for Cpu {
    fn allocate(&self, requests: &[(Format, usize)]) -> Result<Vec<Storage>> {
        memory::allocate(self.device, requests)
    }

    fn write(&self, storage: &mut Storage, values: Slice<'_>) -> Result<()> {
        let expected = storage.len();
        if let Some(mut target) = storage.memory_mut().blocks_mut() {
            same_length("write", expected, values.len())?;
            target.encode(values);
            return Ok(());
        }
        let mut target = storage.memory_mut().host_mut().ok_or_else(|| self.unreachable("write"))?;
        same_length("write", expected, values.len())?;
        target.copy_from(values);
        Ok(())
    }

    fn read(&self, storage: &Storage, mut values: SliceMut<'_>) -> Result<()> {
        if let Some(source) = storage.memory().blocks() {
            same_length("read", storage.len(), values.len())?;
            source.decode(values);
            return Ok(());
        }
        let source = storage.memory().host().ok_or_else(|| self.unreachable("read"))?;
        same_length("read", storage.len(), values.len())?;
        values.copy_from(source);
        Ok(())
    }

    fn read_blocks(&self, storage: &Storage, codes: &mut [u8], scales: &mut [f32]) -> Result<()> {
        fallline_core::backend::check_block_layout("read", storage, codes.len(), scales.len())?;
        let source = storage.memory().blocks().ok_or_else(|| self.unreachable("read"))?;
        codes.copy_from_slice(source.codes);
        scales.copy_from_slice(source.scales);
        Ok(())
    }

    fn read_scales(&self, storage: &Storage, scales: &mut [f32]) -> Result<()> {
        let codes = storage.format().size(storage.len());
        fallline_core::backend::check_block_layout("read", storage, codes, scales.len())?;
        let source = storage.memory().blocks().ok_or_else(|| self.unreachable("read"))?;
        scales.copy_from_slice(source.scales);
        Ok(())
    }

    fn write_blocks(&self, storage: &mut Storage, codes: &[u8], scales: &[f32]) -> Result<()> {
        fallline_core::backend::check_block_layout("write", storage, codes.len(), scales.len())?;
        let target = storage.memory_mut().blocks_mut().ok_or_else(|| self.unreachable("write"))?;
        target.codes.copy_from_slice(codes);
        target.scales.copy_from_slice(scales);
        Ok(())
    }

    fn copy(&self, from: &Storage, to: &mut Storage) -> Result<()> {
        fallline_core::backend::check_same_layout(from, to)?;
        if let (Some(source), Some(target)) = (from.memory().blocks(), to.memory_mut().blocks_mut()) {
            target.codes.copy_from_slice(source.codes);
            target.scales.copy_from_slice(source.scales);
            return Ok(());
        }
        let source = from.memory().host().ok_or_else(|| self.unreachable("copy"))?;
        let mut target = to.memory_mut().host_mut().ok_or_else(|| self.unreachable("copy"))?;
        target.copy_from(source);
        Ok(())
    }
}

impl PagedMemory for Cpu {
    fn allocate_paged(&self, requests: &[(Format, usize)], folder: &Path) -> Result<Vec<Storage>> {
        memory::allocate_paged(self.device, requests, folder)
    }
}

impl Indexing for Cpu {
    fn gather_sum(&self, rows: GatherSum<'_>) -> Result<()> {
        gather::sum(self.device, &self.pool, rows)
    }

    fn scatter(&self, rows: Scatter<'_>) -> Result<()> {
        gather::scatter(self.device, &self.pool, rows)
    }
}

impl Cpu {
    fn of(isa: Isa, device: Device, pool: Pool) -> Cpu {
        Cpu {
            isa,
            device,
            pool,
            #[cfg(feature = "matrix")]
            workspace: Workspace::default(),
        }
    }

    fn unreachable(&self, operation: &'static str) -> Error {
        Error::Unreachable { operation, what: "the storage".into(), device: self.device }
    }
}

fn same_length(operation: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::Length { operation, what: "the slice".into(), expected, got })
}
