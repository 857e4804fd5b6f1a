//! What a device must be able to do.

mod axis;
mod queued;

pub use axis::{AxisSums, MatrixSums};
pub use queued::{Computed, Placed, Queued, SharedNumbers};

use crate::host::{Slice, SliceMut};
use crate::transfer::Transfers;
use crate::{Compute, Format, Kernel, Result, Storage, private::Sealed};
use core::any::Any;
use core::fmt;
use core::marker::PhantomData;
use std::path::Path;

/// The most operands that a rule may have.
pub const MAX_OPERANDS: usize = 8;
/// The most rules that go [beside](Beside) a pass's own.
pub const MAX_BESIDE: usize = 5;
/// The most views of a tensor in a pass: those of its rule, and others that rules beside it need.
pub const MAX_VIEWS: usize = MAX_OPERANDS + 4;

/// Where memory lives and work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The host, with its SIMD instruction sets.
    Cpu,
    /// The host, one element at a time: the reference.
    Scalar,
    /// The CUDA device with this index.
    Cuda(usize),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Scalar => f.write_str("scalar"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// A device with its memory. Object-safe, small, and not a tensor library.
pub trait Backend: fmt::Debug + Send + Sync + Sealed {
    /// Which device it is.
    fn device(&self) -> Device;

    /// One line for people: device, instruction set, threads.
    fn describe(&self) -> String;

    /// Whether passes reach the host's own memory. Where they do not, drivers copy there and back.
    fn reaches_host(&self) -> bool {
        true
    }

    /// Allocates one zero-filled storage for each `(format, elements)` requested, side by side in one
    /// arena: many small states then read like one.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), with nothing allocated.
    fn allocate(&self, requests: &[(Format, usize)]) -> Result<Vec<Storage>>;

    /// Copies `values` into `storage`, rounding once where the formats differ.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) when the lengths differ.
    fn write(&self, storage: &mut Storage, values: Slice<'_>) -> Result<()>;

    /// Copies `storage` into `values`, rounding once where the formats differ.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) when the lengths differ.
    fn read(&self, storage: &Storage, values: SliceMut<'_>) -> Result<()>;

    /// Copies the codes and scales of a block format out, bit for bit.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) for other formats, [`Error::Length`](crate::Error::Length) when there
    /// are more or fewer of them.
    fn read_blocks(&self, storage: &Storage, codes: &mut [u8], scales: &mut [f32]) -> Result<()>;

    /// Copies the scales of a block format out.
    ///
    /// # Errors
    /// As [`read_blocks`](Backend::read_blocks).
    fn read_scales(&self, storage: &Storage, scales: &mut [f32]) -> Result<()>;

    /// Copies codes and scales of a block format in, bit for bit.
    ///
    /// # Errors
    /// As [`read_blocks`](Backend::read_blocks).
    fn write_blocks(&self, storage: &mut Storage, codes: &[u8], scales: &[f32]) -> Result<()>;

    /// Copies `from` to `to`, bit for bit.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) or [`Error::Format`](crate::Error::Format) when they differ in either.
    fn copy(&self, from: &Storage, to: &mut Storage) -> Result<()>;

    /// About how many elements of a rule's operands stay in a cache from one pass to the next, if the device has
    /// such a cache: passes over as many that follow each other read memory once. Results never depend on it.
    fn cached_elements(&self) -> Option<usize> {
        None
    }

    /// Memory for [`run`](Backend::run) to keep between passes: tables and chunk lists, valid until the
    /// shapes change. One for each place that runs passes; empty at first.
    fn plan(&self) -> Plan;

    /// As [`allocate`](Backend::allocate), in a file of a folder that is mapped into memory and is gone with its last
    /// storage: for more than there is memory. A device that has no such thing gives ordinary memory.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) names the folder, with nothing allocated.
    fn allocate_paged(&self, requests: &[(Format, usize)], _folder: &Path) -> Result<Vec<Storage>> {
        self.allocate(requests)
    }

    /// Runs a rule over all elements of many tensors, in one pass over memory.
    ///
    /// The sums that the rule declares are written to `pass.sums`, a row of them for each tensor, in the
    /// order of [`sums`](crate::sums).
    ///
    /// # Errors
    /// Everything that can be found wrong is found before the first write.
    fn run(&self, pass: Pass<'_, '_>) -> Result<()>;

    /// Whether it computes what this rule's scalars follow from itself ([`run_queued`](Backend::run_queued)), because its
    /// sums would have to be waited for.
    fn computes(&self, _kernel: &Kernel) -> bool {
        false
    }

    /// As [`run`](Backend::run), without waiting for anything: the sums stay in the pass's plan, where the next pass's
    /// `queued` or [`sums`](Backend::sums) finds them, and tensors' own scalars are computed before it on the device.
    /// `pass.sums` is empty, and where they are computed `pass.tensor_scalars` is. The same bits as on the host.
    ///
    /// # Errors
    /// As [`run`](Backend::run); [`Error::Unavailable`](crate::Error::Unavailable) for a rule that it does not
    /// [compute](Backend::computes).
    fn run_queued(&self, pass: Pass<'_, '_>, queued: Queued<'_>) -> Result<()> {
        let _ = queued;
        Err(crate::Error::Unavailable(format!(
            "{}: {} is computed on the host",
            self.device(),
            pass.kernel.name
        )))
    }

    /// Fetches the sums that the last [queued](Backend::run_queued) pass of a plan has left, and waits for them.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) where there are not as many; when the device failed meanwhile.
    fn sums(&self, plan: &Plan, to: &mut [f64]) -> Result<()> {
        let _ = plan;
        exactly("sums", "the sums of the last pass", to.len(), 0)
    }

    /// `c = alpha op(a) op(b) + beta d`, where `op` transposes as each matrix says and d is what is to be added, or
    /// the old `c`. With `beta` 0 that is not read.
    ///
    /// Independent of threads; equal between instruction sets and devices within rounding only. Products of 16-bit
    /// factors add up in `f32`.
    ///
    /// # Errors
    /// When shapes do not fit, or the formats are not the same throughout.
    fn matmul(&self, product: MatMul<'_>) -> Result<()>;

    /// Gathers rows by index, those that share an index added up: row i of `to` is the sum of the rows
    /// `order[j]` of `from` with j from `ends[i - 1]` (0 for the first) to `ends[i]`, each rounded to the
    /// format of `to` and added in this order. A row on its own is copied, not added to 0.
    ///
    /// # Errors
    /// Everything that can be found wrong is found before the first write: see [`RowSums::check`].
    fn sum_rows(&self, rows: RowSums<'_>) -> Result<()>;

    /// Scatters rows by index: row `index[i]` of `to` becomes row i of `from`, bit for bit.
    ///
    /// # Errors
    /// Everything that can be found wrong is found before the first write: see [`RowScatter::check`].
    fn scatter_rows(&self, rows: RowScatter<'_>) -> Result<()>;

    /// Adds up along the middle one of three axes, or adds up squares: see [`AxisSums`].
    ///
    /// Independent of threads, and the same bits on every device.
    ///
    /// # Errors
    /// Everything that can be found wrong is found before the first write: see [`AxisSums::check`].
    fn sum_axis(&self, sums: AxisSums<'_>) -> Result<()>;

    /// Adds up the rows of matrices and their columns: the same bits as two calls of [`sum_axis`](Backend::sum_axis).
    ///
    /// # Errors
    /// Everything that can be found wrong is found before the first write: see [`MatrixSums::check`].
    fn sum_matrices(&self, sums: MatrixSums<'_>) -> Result<()>;

    /// Memory of the host for [`transfer`](Backend::transfer): such that the device copies it at its full speed.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    fn allocate_for_transfer(&self, format: Format, len: usize) -> Result<Storage> {
        Ok(self.allocate(&[(format, len)])?.remove(0))
    }

    /// Lets `work` copy to and from the device while the host computes. When this returns the device has all copies in
    /// the order of its other work.
    ///
    /// # Errors
    /// Those of `work` and of the device; [`Error::Unavailable`](crate::Error::Unavailable) on a device that is the host.
    fn transfer<'s>(&self, work: &mut dyn FnMut(&mut dyn Transfers<'s>) -> Result<()>) -> Result<()> {
        let _ = work;
        Err(crate::Error::Unavailable(format!("{}: there is nothing to transfer on the host", self.device())))
    }

    /// Waits until all work given so far is done.
    ///
    /// # Errors
    /// When the device failed meanwhile.
    fn synchronise(&self) -> Result<()>;
}

/// What a backend remembers between passes. Opaque to everyone else.
pub type Plan = Box<dyn Any + Send>;

/// How the elements of a [`View`] are repeated: each run of `run` stored elements stands `times` times in a row, so
/// that element `e` is the stored element `e / (times · run) · run + e mod run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Repeat {
    /// Elements of a run, at least one.
    pub run: usize,
    /// How often it stands there.
    pub times: usize,
}

impl Repeat {
    /// Which stored element an element is.
    pub fn stored(&self, element: usize) -> usize {
        element / (self.times * self.run) * self.run + element % self.run
    }
}

/// An operand's memory, borrowed for the length of a pass: where its elements are, how many, and how they are
/// stored. Small, since a step hands over some for each of its tensors.
#[derive(Debug)]
pub struct View<'a> {
    address: usize,
    scales: usize,
    len: usize,
    format: Format,
    on_host: bool,
    writable: bool,
    noise: Option<u64>,
    copy: Option<(usize, Format)>,
    repeat: Option<Repeat>,
    borrow: PhantomData<&'a mut [u8]>,
}

impl<'a> View<'a> {
    /// A backend's memory to read.
    pub fn read(storage: &'a Storage) -> Self {
        View::of(storage, false)
    }

    /// A backend's memory to write.
    pub fn write(storage: &'a mut Storage) -> Self {
        View::of(storage, true)
    }

    fn of(storage: &Storage, writable: bool) -> Self {
        let (address, scales) = (storage.address(), storage.scales());
        let (len, format, on_host) = (storage.len(), storage.format(), storage.on_host());
        View {
            address,
            scales,
            len,
            format,
            on_host,
            writable,
            noise: None,
            copy: None,
            repeat: None,
            borrow: PhantomData,
        }
    }

    /// The same, with what is stored as bfloat16 rounded up or down by chance, drawn with this key
    /// ([`codec::stochastic`](crate::codec::stochastic)).
    pub fn with_noise(self, key: u64) -> Self {
        View { noise: Some(key), ..self }
    }

    /// The same, with what is stored stored in `copy` too, in its format, in the same pass.
    ///
    /// # Panics
    /// When it is not as long, is in a block format, or cannot be written where this can.
    pub fn with_copy(self, copy: View<'a>) -> Self {
        let fits = copy.len == self.len && copy.on_host == self.on_host && copy.writable;
        assert!(fits && copy.format.block().is_none(), "a copy that does not fit");
        View { copy: Some((copy.address, copy.format)), ..self }
    }

    /// The same elements to read once more.
    pub fn again(&self) -> View<'_> {
        View { writable: false, noise: None, copy: None, ..*self }
    }

    /// A view to read in which each run of `run` elements stands `times` times in a row: with the rows' factors of an
    /// m × n matrix and a run of 1, n times, each element has its row's; with the columns' and a run of n, m times, its
    /// column's.
    ///
    /// # Panics
    /// When there is a part of a run, a run of none, or more than the elements to it: a block format, chance, a copy,
    /// another repetition.
    pub fn repeated(self, run: usize, times: usize) -> Self {
        let plain = self.noise.is_none() && self.copy.is_none() && self.repeat.is_none();
        assert!(plain && self.format.block().is_none(), "a view that cannot be repeated");
        assert!(run > 0 && self.len.is_multiple_of(run), "a part of a run");
        let len = self.len.checked_mul(times).expect("more elements than can be counted");
        let repeat = (times != 1).then_some(Repeat { run, times });
        View { len, writable: false, repeat, ..self }
    }

    /// The elements from `start` on, `len` of them.
    ///
    /// # Panics
    /// When there are not as many, or `start` is not that of a block.
    pub fn part(self, start: usize, len: usize) -> Self {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "a part beyond the end of a view");
        let block = self.format.block();
        assert!(block.is_none_or(|block| start.is_multiple_of(block)), "a part that begins within a block");
        let scales = self.scales + size_of::<f32>() * self.format.scales(start);
        assert!(self.noise.is_none(), "a part of a view whose elements are counted");
        assert!(self.repeat.is_none(), "a part of a view whose elements are repeated");
        let copy = self.copy.map(|(address, format)| (address + format.size(start), format));
        View { address: self.address + self.format.size(start), scales, len, copy, ..self }
    }

    /// Takes `len` elements after the first `skip` out of the view, which from now on begins behind them: parts
    /// of one view that do not overlap.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn take(&mut self, skip: usize, len: usize) -> Self {
        let end = skip.checked_add(len).filter(|&end| end <= self.len);
        let end = end.expect("a part beyond the end of a view");
        let part = View { ..*self }.part(skip, len);
        *self = View { ..*self }.part(end, self.len - end);
        part
    }

    /// The elements before `at`, and the others.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn split(self, at: usize) -> (Self, Self) {
        let len = self.len;
        (View { ..self }.part(0, at), self.part(at, len - at))
    }

    /// The address of the first element: the host's, with exposed provenance, or the device's own.
    pub fn address(&self) -> usize {
        self.address
    }

    /// The address of the first scale of a block format; of other formats nothing's.
    pub fn scales(&self) -> usize {
        self.scales
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How the elements are stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The key of the chance that rounds what is stored as bfloat16, if one does.
    pub fn noise(&self) -> Option<u64> {
        self.noise
    }

    /// Where what is stored is stored once more, and how.
    pub fn copy(&self) -> Option<(usize, Format)> {
        self.copy
    }

    /// How its elements are repeated, if they are.
    pub fn repeat(&self) -> Option<Repeat> {
        self.repeat
    }

    /// Whether the host can reach it.
    pub fn on_host(&self) -> bool {
        self.on_host
    }

    /// Whether it may be written.
    pub fn writable(&self) -> bool {
        self.writable
    }
}

impl<'a> From<Slice<'a>> for View<'a> {
    fn from(slice: Slice<'a>) -> Self {
        let (address, len, format) = (slice.address().expose_provenance(), slice.len(), slice.format());
        View {
            address,
            scales: 0,
            len,
            format,
            on_host: true,
            writable: false,
            noise: None,
            copy: None,
            repeat: None,
            borrow: PhantomData,
        }
    }
}

impl<'a> From<SliceMut<'a>> for View<'a> {
    fn from(mut slice: SliceMut<'a>) -> Self {
        let (address, len, format) = (slice.address().expose_provenance(), slice.len(), slice.format());
        View {
            address,
            scales: 0,
            len,
            format,
            on_host: true,
            writable: true,
            noise: None,
            copy: None,
            repeat: None,
            borrow: PhantomData,
        }
    }
}

/// The memory of each operand of a tensor, in the order of [`Kernel::operands`]; behind it what only rules
/// [beside](Beside) the pass's own need.
pub type Views<'a> = [Option<View<'a>>; MAX_VIEWS];

/// A rule that goes over the same elements as a pass's own, part by part, while they are in cache: it forms the gradient
/// before, say, or averages the parameter afterwards. The bits are those of a pass of its own.
#[derive(Clone, Copy, Debug)]
pub struct Beside<'p> {
    /// The rule: one without sums and without scalars of tensors' own.
    pub kernel: &'static Kernel,
    /// Where the view of each of its operands is among a tensor's [`Views`], no place twice. A tensor that lacks one of
    /// them is passed over.
    pub operands: &'p [usize],
    /// Its scalars: the gradient scale, then one for each of [`Kernel::scalars`].
    pub row: &'p [f64],
    /// Whether it comes before the pass's own rule, or after it.
    pub first: bool,
}

impl Beside<'_> {
    /// Whether a tensor's views are all there.
    pub fn has(&self, views: &Views<'_>) -> bool {
        self.operands.iter().all(|&place| views[place].is_some())
    }

    /// Checks that it is one, and that there are not too many of them. For backends.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) where the table of scalars is not a row, and
    /// [`Error::Unavailable`](crate::Error::Unavailable) for what no backend does.
    pub fn check(all: &[Beside<'_>]) -> Result<()> {
        for Beside { kernel, operands, row, .. } in all {
            let alone = kernel.sums.is_empty() && kernel.tensor_scalars.is_empty();
            let twice = (1..operands.len()).any(|i| operands[..i].contains(&operands[i]));
            let within = operands.iter().all(|&place| place < MAX_VIEWS);
            let fits = alone && !twice && within && operands.len() == kernel.operands.len();
            if !fits || all.len() > MAX_BESIDE {
                let problem = format!("{}: this rule cannot go beside another's pass", kernel.name);
                return Err(crate::Error::Unavailable(problem));
            }
            exactly(kernel.name, "the table of scalars", 1 + kernel.scalars.len(), row.len())?;
        }
        Ok(())
    }
}

/// One tensor's part in a pass, beside its [`Views`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorPass {
    /// The number of elements of every operand.
    pub elements: usize,
    /// Which row of scalars it takes.
    pub row: usize,
}

/// A rule to run over many tensors.
pub struct Pass<'p, 'a> {
    /// The rule.
    pub kernel: &'static Kernel,
    /// The type in which it calculates.
    pub compute: Compute,
    /// The tensors, one at each call until there is none, its views written to the argument. (A table would
    /// have to be allocated in every step, since views are borrowed for one.)
    pub tensors: &'p mut dyn FnMut(&mut Views<'a>) -> Option<TensorPass>,
    /// Rows of scalars: the gradient scale, then one for each of [`Kernel::scalars`].
    pub rows: &'p [f64],
    /// One row for each tensor, in order, of its own scalars ([`Kernel::tensor_scalars`]).
    pub tensor_scalars: &'p [f64],
    /// What the backend remembers for this place.
    pub plan: &'p mut Plan,
    /// One row for each tensor, in order, of sums ([`Kernel::sums`]); overwritten.
    pub sums: &'p mut [f64],
    /// Rules that go over the same elements beside it, in order.
    pub beside: &'p [Beside<'p>],
}

impl fmt::Debug for Pass<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass").field("kernel", &self.kernel.name).finish_non_exhaustive()
    }
}

/// A matrix in row-major order.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// What holds its elements.
    pub storage: &'a Storage,
    /// Where they start.
    pub start: usize,
    /// Rows as stored.
    pub rows: usize,
    /// Columns as stored.
    pub columns: usize,
    /// Whether its transpose is meant.
    pub transposed: bool,
}

impl<'a> Matrix<'a> {
    /// The matrix at the start of a storage.
    pub fn new(storage: &'a Storage, rows: usize, columns: usize) -> Matrix<'a> {
        Matrix { storage, start: 0, rows, columns, transposed: false }
    }

    /// The one that starts at element `start` instead.
    pub fn at(self, start: usize) -> Self {
        Matrix { start, ..self }
    }

    /// Its transpose.
    pub fn transpose(self) -> Self {
        Matrix { transposed: !self.transposed, ..self }
    }

    /// Rows and columns of what is meant.
    pub fn extents(&self) -> (usize, usize) {
        if self.transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }
}

/// `c = alpha op(a) op(b) + beta d`.
#[derive(Debug)]
pub struct MatMul<'a> {
    /// The factor of the product.
    pub alpha: f64,
    /// The left factor, m × k.
    pub a: Matrix<'a>,
    /// The right factor, k × n.
    pub b: Matrix<'a>,
    /// The factor of what is added.
    pub beta: f64,
    /// What is added: d, m × n and not transposed. None adds the old result.
    pub add: Option<Matrix<'a>>,
    /// What holds the result, m × n, row-major.
    pub c: &'a mut Storage,
    /// Where the result starts.
    pub c_start: usize,
    /// Whether the result is known to be symmetric but for rounding, as that of a product with the own transpose is.
    /// A backend may compute one half then and mirror it; d must be symmetric too.
    pub symmetric: bool,
}

impl<'a> MatMul<'a> {
    /// `c = a b`, at the start of c.
    pub fn new(a: Matrix<'a>, b: Matrix<'a>, c: &'a mut Storage) -> MatMul<'a> {
        MatMul { alpha: 1.0, a, b, beta: 0.0, add: None, c, c_start: 0, symmetric: false }
    }

    /// What is added, when it is not the old result.
    pub fn added(&self) -> Option<Matrix<'a>> {
        self.add.filter(|_| self.beta != 0.0)
    }

    /// m, k and n of the product.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) when the matrices do not fit together or one does not lie within its
    /// storage.
    pub fn extents(&self) -> Result<(usize, usize, usize)> {
        let ((m, k), (inner, n)) = (self.a.extents(), self.b.extents());
        let length = |what: &str, expected, got| {
            Err(crate::Error::Length { operation: "matmul", what: what.into(), expected, got })
        };
        if k != inner {
            return length("the right factor's extent along the product", k, inner);
        }
        if self.symmetric && m != n {
            return length("the symmetric result's row", m, n);
        }
        if let Some(add) = &self.add
            && (add.extents() != (m, n) || add.transposed)
        {
            return length("what is added", m.saturating_mul(n), add.rows.saturating_mul(add.columns));
        }
        let within = |what: &str, start: usize, (rows, columns): (usize, usize), got: usize| {
            let end = rows.checked_mul(columns).and_then(|elements| start.checked_add(elements));
            let end = end.unwrap_or(usize::MAX);
            if end > got { length(what, end, got) } else { Ok((0, 0, 0)) }
        };
        within("the left factor", self.a.start, (m, k), self.a.storage.len())?;
        within("the right factor", self.b.start, (k, n), self.b.storage.len())?;
        if let Some(add) = &self.add {
            within("what is added", add.start, (m, n), add.storage.len())?;
        }
        within("the result", self.c_start, (m, n), self.c.len())?;
        Ok((m, k, n))
    }

    /// Checks that all is stored in one format.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) naming what is not.
    pub fn formats(&self) -> Result<()> {
        let expected = self.c.format();
        let operands = [
            ("the left factor", Some(self.a)),
            ("the right factor", Some(self.b)),
            ("what is added", self.added()),
        ];
        for (what, matrix) in operands {
            match matrix.map(|matrix| matrix.storage.format()) {
                Some(got) if got != expected => {
                    let (operation, what, expected) = ("matmul", what.into(), expected.to_string());
                    return Err(crate::Error::Format { operation, what, expected, got });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Rows to gather and add up: see [`Backend::sum_rows`].
#[derive(Debug)]
pub struct RowSums<'a> {
    /// The rows to choose from.
    pub from: View<'a>,
    /// Elements of a row.
    pub width: usize,
    /// Which rows, those of one sum next to each other.
    pub order: &'a [u64],
    /// Where each sum ends in `order`; the last at its end.
    pub ends: &'a [u64],
    /// What takes the sums, from its start: `f32` or `f64`.
    pub to: &'a mut Storage,
}

impl RowSums<'_> {
    /// Checks that all of it lies in memory. For backends.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) where it does not, [`Error::Format`](crate::Error::Format) where sums
    /// are not `f32` or `f64`.
    pub fn check(&self) -> Result<()> {
        let operation = "sum_rows";
        whole_rows(operation, "the memory of the rows", self.from.len(), self.width, self.order)?;
        let needed = self.ends.len().saturating_mul(self.width);
        exactly(operation, "the sums", needed, needed.min(self.to.len()))?;
        let last = self.ends.last().map_or(0, |&end| end as usize);
        exactly(operation, "the order of the rows", last, self.order.len())?;
        if let Some(pair) = self.ends.windows(2).find(|pair| pair[0] > pair[1]) {
            exactly(operation, "a sum", pair[0] as usize, pair[1] as usize)?;
        }
        match self.to.format() {
            Format::F32 | Format::F64 => Ok(()),
            got => {
                let (what, expected) = ("the sums".to_owned(), "f32 or f64".to_owned());
                Err(crate::Error::Format { operation, what, expected, got })
            }
        }
    }
}

/// Rows to write by index: see [`Backend::scatter_rows`].
#[derive(Debug)]
pub struct RowScatter<'a> {
    /// The rows.
    pub from: View<'a>,
    /// Elements of a row.
    pub width: usize,
    /// Where each of them goes, in rising order, so that none stands twice.
    pub index: &'a [u64],
    /// What they are written to, of the same format.
    pub to: &'a mut Storage,
}

impl RowScatter<'_> {
    /// Checks that all of it lies in memory. For backends.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) or [`Error::Format`](crate::Error::Format) where it does not.
    pub fn check(&self) -> Result<()> {
        let operation = "scatter_rows";
        exactly(operation, "the rows", self.index.len().saturating_mul(self.width), self.from.len())?;
        whole_rows(operation, "the target", self.to.len(), self.width, self.index)?;
        if let Some(pair) = self.index.windows(2).find(|pair| pair[0] >= pair[1]) {
            let problem = format!("{operation}: row {} stands before row {}", pair[0], pair[1]);
            return Err(crate::Error::Unavailable(problem));
        }
        if self.from.format() != self.to.format() {
            let (expected, got) = (self.to.format().to_string(), self.from.format());
            return Err(crate::Error::Format { operation, what: "the rows".into(), expected, got });
        }
        Ok(())
    }
}

/// Checks that `len` elements hold every row of an index.
fn whole_rows(operation: &'static str, what: &str, len: usize, width: usize, index: &[u64]) -> Result<()> {
    let rows = len.checked_div(width).unwrap_or(usize::MAX);
    match index.iter().max() {
        Some(&last) if last as usize >= rows => {
            exactly(operation, what, (last as usize).saturating_add(1).saturating_mul(width), len)
        }
        _ => Ok(()),
    }
}

fn exactly(operation: &'static str, what: &str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(crate::Error::Length { operation, what: what.into(), expected, got })
}

/// Checks that a storage can be copied to another. For backends.
///
/// # Errors
/// [`Error::Length`](crate::Error::Length) or [`Error::Format`](crate::Error::Format) when it cannot.
pub fn same_kind(from: &Storage, to: &Storage) -> Result<()> {
    let (operation, what) = ("copy", "the source".to_owned());
    if from.len() != to.len() {
        return Err(crate::Error::Length { operation, what, expected: to.len(), got: from.len() });
    }
    if from.format() != to.format() {
        let (expected, got) = (to.format().to_string(), from.format());
        return Err(crate::Error::Format { operation, what, expected, got });
    }
    Ok(())
}

/// Checks that so many codes and scales are those of a storage. For backends.
///
/// # Errors
/// [`Error::Format`](crate::Error::Format) when it is not in blocks, [`Error::Length`](crate::Error::Length) when there
/// are more or fewer of them.
pub fn fit_blocks(operation: &'static str, storage: &Storage, codes: usize, scales: usize) -> Result<()> {
    let (format, len) = (storage.format(), storage.len());
    if format.block().is_none() {
        let (what, expected) = ("the storage".to_owned(), "a block format".to_owned());
        return Err(crate::Error::Format { operation, what, expected, got: format });
    }
    for (what, expected, got) in
        [("the table of codes", format.size(len), codes), ("the table of scales", format.scales(len), scales)]
    {
        if expected != got {
            return Err(crate::Error::Length { operation, what: what.into(), expected, got });
        }
    }
    Ok(())
}
