//! The one driver: every pass over memory goes through here.

mod broadcast;
mod convert;
mod fused;
#[cfg(test)]
mod tests;
pub(crate) mod tiling;

use crate::codec::Coded;
use crate::exec::tiling::{Chunk, Chunks};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::kernels::bf16::{Half, Halves};
use crate::kernels::direct::{Compiled, Entries};
#[cfg(target_arch = "x86_64")]
use crate::kernels::quantized::{BLOCK, Fused, Place};
use crate::kernels::tape::{Code, Tape};
use crate::pool::Pool;
#[cfg(target_arch = "x86_64")]
use crate::quant::{Codebook, block_codec, permutes_bytes};
#[cfg(target_arch = "x86_64")]
use crate::vector::Rounds;
use core::mem::MaybeUninit;
use fallline_core::backend::{
    Beside, MAX_BESIDE, MAX_OPERANDS, MAX_VIEWS, Pass, Repeat, TensorPass, View, Views,
};
use fallline_core::sums::{ACCUMULATORS, SEGMENT, fold, segments};
use fallline_core::{Compute, Device, Error, Format, Kernel, Operand, Recorded, Result, Role};
use fused::{Companion, run_beside, run_together};

/// The most sums that a rule may have.
const MAX_SUMS: usize = 8;

/// Passes over fewer elements run on the calling thread: waking the pool costs more.
const INLINE: usize = 256 * 1024;

/// Elements of some four operands that a last-level cache holds between two passes (8 MiB in `f32`), and so many that
/// waking the threads twice for them is little: more than [`INLINE`], they share them.
pub(crate) const CACHED: usize = 2 * INLINE;

/// An operand's memory, checked.
#[derive(Clone, Copy, Debug)]
struct Stored {
    address: *mut u8,
    /// The first scale of a block format.
    scales: *mut f32,
    format: Format,
    /// The key of the chance that rounds it, and where it is stored once more.
    noise: Option<u64>,
    copy: Option<(*mut u8, Format)>,
    repeat: Option<Repeat>,
}

impl Stored {
    const NOWHERE: Stored = Stored {
        address: core::ptr::null_mut(),
        scales: core::ptr::null_mut(),
        format: Format::F32,
        noise: None,
        copy: None,
        repeat: None,
    };

    /// Where a view's elements are.
    fn of(view: &View<'_>) -> Stored {
        let format = view.format();
        let noise = view.noise().filter(|_| format == Format::Bf16);
        let (address, scales) = (view.address(), view.scales());
        let (address, scales) =
            (core::ptr::with_exposed_provenance_mut(address), core::ptr::with_exposed_provenance_mut(scales));
        let copy =
            view.copy().map(|(address, format)| (core::ptr::with_exposed_provenance_mut(address), format));
        Stored { address, scales, format, noise, copy, repeat: view.repeat() }
    }

    /// Whether it is rounded by chance, stored once more or repeated.
    fn is_special(&self) -> bool {
        self.noise.is_some() || self.copy.is_some() || self.repeat.is_some()
    }

    /// The same to read alone: nothing is rounded or stored once more.
    fn read(self) -> Stored {
        Stored { noise: None, copy: None, ..self }
    }

    /// Whether `next` goes on where the first `elements` of this end.
    fn ends_at(&self, elements: usize, next: &Stored) -> bool {
        let format = self.format;
        let codes = next.address.addr().wrapping_sub(self.address.addr()) == format.size(elements);
        let whole = || match format.block() {
            Some(block) => {
                let scales = next.scales.addr().wrapping_sub(self.scales.addr());
                elements.is_multiple_of(block) && scales == size_of::<f32>() * format.scales(elements)
            }
            None => true,
        };
        // What is counted, copied or repeated stays a tensor of its own.
        format == next.format && codes && whole() && !self.is_special() && !next.is_special()
    }

    /// The addresses of element `start`, which is the first of a block, and of its scale.
    ///
    /// # Safety
    /// There are so many elements.
    unsafe fn at(&self, start: usize) -> (*mut u8, *mut f32) {
        let scales = match self.format.block() {
            // SAFETY: the caller's contract.
            Some(block) => unsafe { self.scales.add(start / block) },
            None => self.scales,
        };
        // SAFETY: the caller's contract.
        (unsafe { self.address.add(self.format.size(start)) }, scales)
    }
}

/// What the CPU remembers between passes.
#[derive(Debug, Default)]
pub(crate) struct CpuPlan {
    chunks: Chunks,
    /// For each tensor, or run of tensors that lie end to end, its length and row; its operands in `stored`.
    tensors: Vec<(usize, usize)>,
    stored: Vec<Stored>,
    /// For each tensor the operands that only rules beside the pass's own have; `others` of them.
    beside: Vec<Option<Stored>>,
    others: usize,
    rows32: Vec<f32>,
    rows64: Vec<f64>,
    partials: Vec<f64>,
}

impl CpuPlan {
    /// Takes the last `count` operands as a tensor's. Where each of them begins at the address at which the
    /// tensor before has ended, and the scalars are the same, the two become one: of a thousand small tensors
    /// in flat buffers remains one large one.
    fn add(&mut self, count: usize, tensor: TensorPass, merges: bool) {
        let (before, own) = self.stored.split_at(self.stored.len() - count);
        let (besides, own_beside) = self.beside.split_at(self.beside.len() - self.others);
        if merges
            && let Some((elements, row)) = self.tensors.last_mut()
            && *row == tensor.row
            && before[before.len() - count..]
                .iter()
                .zip(own)
                .all(|(last, next)| last.ends_at(*elements, next))
            && besides[besides.len() - self.others..].iter().zip(own_beside).all(|pair| match pair {
                (Some(last), Some(next)) => last.ends_at(*elements, next),
                (last, next) => last.is_none() && next.is_none(),
            })
        {
            *elements += tensor.elements;
            self.stored.truncate(self.stored.len() - count);
            self.beside.truncate(self.beside.len() - self.others);
            return;
        }
        self.tensors.push((tensor.elements, tensor.row));
    }
}

// SAFETY: the addresses in `stored` are overwritten at the start of each pass and used only during it,
// while the pass holds the borrows that they come from.
unsafe impl Send for CpuPlan {}

/// Runs a pass.
pub(crate) fn run(device: Device, isa: Isa, pool: &Pool, pass: Pass<'_, '_>) -> Result<()> {
    let Pass { kernel, compute, tensors, rows, tensor_scalars, plan, sums, beside } = pass;
    let scalars = Scalars { shared: rows, own: tensor_scalars };
    let linked =
        |kernel: &'static Kernel| Linked::of(kernel).ok_or(Error::NotLinked { rule: kernel.name, device });
    Beside::check(beside)?;
    for beside in beside {
        linked(beside.kernel)?;
    }
    let rules = Rules { kernel, entries: linked(kernel)?, beside };
    let Some(plan) = plan.downcast_mut::<CpuPlan>() else {
        return Err(Error::Unavailable(format!("{}: the plan is another backend's", kernel.name)));
    };
    assert!(
        kernel.sums.len() <= MAX_SUMS && kernel.operands.len() <= MAX_OPERANDS,
        "{kernel:?} is too large"
    );

    plan.tensors.clear();
    plan.stored.clear();
    plan.beside.clear();
    let count = kernel.operands.len();
    let last = beside.iter().flat_map(|beside| beside.operands).max();
    plan.others = last.map_or(0, |&last| (last + 1).saturating_sub(count));
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
        for (operand, view) in kernel.operands.iter().zip(own) {
            plan.stored.push(check(device, kernel, index, operand, view.take().as_ref(), tensor.elements)?);
        }
        let others = others[..plan.others].iter_mut();
        plan.beside.extend(others.map(|view| view.take().as_ref().map(Stored::of)));
        plan.add(kernel.operands.len(), tensor, merges);
        index += 1;
    }
    plan.chunks.prepare(plan.tensors.iter().map(|&(elements, _)| elements), pool.threads());
    if sums.len() != plan.tensors.len() * kernel.sums.len() {
        return Err(Error::Length {
            operation: kernel.name,
            what: "the table of sums".into(),
            expected: plan.tensors.len() * kernel.sums.len(),
            got: sums.len(),
        });
    }
    plan.partials.clear();
    plan.partials.resize(plan.chunks.total_segments * kernel.sums.len(), 0.0);
    match compute {
        Compute::F32 => {
            let mut rows = core::mem::take(&mut plan.rows32);
            lay_rows(kernel, &scalars, plan, &mut rows)?;
            execute(&rules, isa, pool, plan, &mut rows);
            plan.rows32 = rows;
        }
        Compute::F64 => {
            let mut rows = core::mem::take(&mut plan.rows64);
            lay_rows(kernel, &scalars, plan, &mut rows)?;
            execute(&rules, isa, pool, plan, &mut rows);
            plan.rows64 = rows;
        }
    }
    let count = kernel.sums.len();
    for (tensor, row) in sums.chunks_exact_mut(count.max(1)).enumerate() {
        let first = plan.chunks.segments[tensor];
        let last = first + segments(plan.tensors[tensor].0);
        for (s, sum) in row.iter_mut().enumerate() {
            *sum = fold((first..last).map(|segment| plan.partials[segment * count + s]));
        }
    }
    Ok(())
}

/// An operand's address, if its memory is what the rule needs.
fn check(
    device: Device,
    kernel: &Kernel,
    index: usize,
    operand: &Operand,
    view: Option<&View<'_>>,
    elements: usize,
) -> Result<Stored> {
    let what = || format!("operand {} of tensor {index}", operand.name);
    let view = view.filter(|view| view.on_host() && (view.writable() || !operand.written));
    let Some(view) = view else {
        return Err(Error::Unreachable { operation: kernel.name, what: what(), device });
    };
    if view.len() != elements {
        let got = view.len();
        return Err(Error::Length { operation: kernel.name, what: what(), expected: elements, got });
    }
    Ok(Stored::of(view))
}

/// The scalars of a pass: rows that tensors share, and a row for each tensor of its own.
struct Scalars<'a> {
    shared: &'a [f64],
    own: &'a [f64],
}

/// Lays out the rows of scalars in the compute type: the pass's own, or, where tensors have scalars of
/// their own, one row for each tensor.
fn lay_rows<T: Compiled>(
    kernel: &Kernel,
    scalars: &Scalars<'_>,
    plan: &mut CpuPlan,
    rows: &mut Vec<T>,
) -> Result<()> {
    let shared = 1 + kernel.scalars.len();
    let own = kernel.tensor_scalars.len();
    let wrong = |what: &str, expected, got| Error::Length {
        operation: kernel.name,
        what: what.into(),
        expected,
        got,
    };
    let count = scalars.shared.len() / shared;
    if count * shared != scalars.shared.len() {
        return Err(wrong("the table of scalars", (count + 1) * shared, scalars.shared.len()));
    }
    if let Some(&(_, row)) = plan.tensors.iter().find(|(_, row)| *row >= count) {
        return Err(wrong("the table of scalars", (row + 1) * shared, scalars.shared.len()));
    }
    if scalars.own.len() != plan.tensors.len() * own {
        return Err(wrong("the tensors' own scalars", plan.tensors.len() * own, scalars.own.len()));
    }
    rows.clear();
    if own == 0 {
        rows.extend(scalars.shared.iter().map(|&x| T::from_f64(x)));
        return Ok(());
    }
    for (index, tensor) in plan.tensors.iter_mut().enumerate() {
        rows.extend(scalars.shared[tensor.1 * shared..][..shared].iter().map(|&x| T::from_f64(x)));
        rows.extend(scalars.own[index * own..][..own].iter().map(|&x| T::from_f64(x)));
        tensor.1 = index;
    }
    Ok(())
}

/// The rule of a pass, and those beside it.
struct Rules<'a> {
    kernel: &'static Kernel,
    entries: Linked,
    beside: &'a [Beside<'a>],
}

/// What there is of a rule for the CPU.
#[derive(Clone, Copy)]
enum Linked {
    Compiled(&'static Entries),
    Tape(&'static Tape),
}

impl Linked {
    /// Of a kernel; a derived one's tape is made when it is first run.
    fn of(kernel: &'static Kernel) -> Option<Linked> {
        if let Some(entries) = kernel.host.downcast_ref() {
            return Some(Linked::Compiled(entries));
        }
        kernel.host.downcast_ref::<Recorded>()?.prepared(Tape::new).map(Linked::Tape)
    }
}

/// What runs a rule with the instruction set and type of a pass.
#[derive(Clone, Copy)]
struct Chosen<T: 'static> {
    kernel: &'static Kernel,
    entry: Code<T>,
    bf16_entry: Option<Code<T>>,
    #[cfg(target_arch = "x86_64")]
    fused: Option<Fused>,
    #[cfg(target_arch = "x86_64")]
    halves: Option<Halves>,
}

/// Everything that the work on a chunk needs, shared by the threads.
struct Work<'a, T: 'static> {
    rule: Chosen<T>,
    beside: [Option<Companion<'a, T>>; MAX_BESIDE],
    isa: Isa,
    plan: &'a CpuPlan,
    rows: &'a [T],
    partials: Partials,
}

/// Where partial sums are written: each segment's row by one thread.
#[derive(Clone, Copy)]
struct Partials(*mut f64);

impl<T> Work<'_, T> {
    /// # Safety
    /// No other thread works on the segment, and its row lies within the table of partial sums.
    unsafe fn write_partial(&self, segment: usize, sum: usize, value: f64) {
        // SAFETY: the caller's contract.
        unsafe { self.partials.0.add(segment * self.rule.kernel.sums.len() + sum).write(value) }
    }
}

// SAFETY: threads work on different chunks: the addresses that they write, and the rows of partial sums,
// do not overlap.
unsafe impl<T: Sync> Sync for Work<'_, T> {}

impl<T: Compiled> Chosen<T> {
    fn of(kernel: &'static Kernel, linked: Linked, isa: Isa) -> Chosen<T> {
        let entries = match linked {
            Linked::Compiled(entries) => entries,
            Linked::Tape(tape) => {
                return Chosen {
                    kernel,
                    entry: Code::of_tape(tape, isa),
                    bf16_entry: None,
                    #[cfg(target_arch = "x86_64")]
                    fused: None,
                    #[cfg(target_arch = "x86_64")]
                    halves: None,
                };
            }
        };
        Chosen {
            kernel,
            entry: Code::Compiled(T::entry(entries, isa)),
            bf16_entry: T::bf16_entry(entries, isa).map(Code::Compiled),
            #[cfg(target_arch = "x86_64")]
            fused: entries.fused[isa as usize]
                .filter(|_| T::COMPUTE == Compute::F32 && (isa != Isa::Avx512 || permutes_bytes())),
            #[cfg(target_arch = "x86_64")]
            halves: entries.halves[isa as usize].filter(|_| T::COMPUTE == Compute::F32),
        }
    }
}

impl<T: Compiled> Chosen<T> {
    /// The entry that takes operands as they are stored, if there is one.
    fn direct(&self, stored: &[Stored]) -> Option<Code<T>> {
        let native = T::COMPUTE.format();
        let halved = |operand: &Operand| matches!(operand.role, Role::Param | Role::Grad);
        if stored.iter().any(Stored::is_special) {
            return None;
        }
        if stored.iter().all(|stored| stored.format == native) {
            return Some(self.entry);
        }
        let mut pairs = self.kernel.operands.iter().zip(stored);
        let fits = pairs.all(|(o, s)| s.format == if halved(o) { Format::Bf16 } else { native });
        self.bf16_entry.filter(|_| fits)
    }
}

fn execute<T: Compiled + Coded>(
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
        Companion::new(beside, row, isa)
    });
    let beside = core::array::from_fn(|_| companions.next());
    let rule = Chosen::of(rules.kernel, rules.entries, isa);
    let work = Work { rule, beside, isa, plan, rows, partials };
    let chunks = &work.plan.chunks;
    if chunks.total_elements <= INLINE || pool.threads() == 1 {
        chunks.list.iter().for_each(|chunk| run_chunk(&work, chunk));
    } else {
        pool.for_each(0..chunks.bins.len(), |bin| {
            chunks.list[chunks.bins[bin].clone()].iter().for_each(|chunk| run_chunk(&work, chunk));
        });
    }
}

/// A chunk's elements through all rules.
fn run_chunk<T: Compiled + Coded>(work: &Work<'_, T>, chunk: &Chunk) {
    let kernel = work.rule.kernel;
    let count = kernel.operands.len();
    let stored = &work.plan.stored[chunk.tensor * count..][..count];
    let width = 1 + kernel.scalars.len() + kernel.tensor_scalars.len();
    let row = &work.rows[work.plan.tensors[chunk.tensor].1 * width..][..width];
    if work.beside[0].is_none() {
        return run_rule(work, &work.rule, chunk, stored, row);
    }
    if kernel.sums.is_empty() && run_together(work, chunk, stored, row) {
        return;
    }
    run_beside(work, chunk, stored, true);
    run_rule(work, &work.rule, chunk, stored, row);
    run_beside(work, chunk, stored, false);
}

/// A chunk's elements, or a piece of them, through one rule.
fn run_rule<T: Compiled + Coded>(
    work: &Work<'_, T>,
    rule: &Chosen<T>,
    chunk: &Chunk,
    stored: &[Stored],
    row: &[T],
) {
    let kernel = rule.kernel;
    let first_segment = work.plan.chunks.segments[chunk.tensor] + chunk.start / SEGMENT;
    let Some(entry) = rule.direct(stored) else {
        #[cfg(target_arch = "x86_64")]
        let chunk = &run_fused(rule, work.isa, chunk, stored, row);
        #[cfg(target_arch = "x86_64")]
        if run_halves(rule, chunk, stored, row) {
            return;
        }
        let native = |stored: &Stored| {
            stored.format == T::COMPUTE.format() && stored.noise.is_none() && stored.copy.is_none()
        };
        return match stored.iter().all(native) {
            true => broadcast::run(work, rule, chunk, stored, row),
            false => convert::run(work, rule, chunk, stored, row),
        };
    };

    let mut addresses = [core::ptr::null_mut::<T>(); MAX_OPERANDS];
    for (address, operand) in addresses.iter_mut().zip(stored) {
        // SAFETY: the chunk lies within the tensor, whose memory was checked.
        *address = unsafe { operand.address.add(chunk.start * operand.format.bytes()) }.cast();
    }
    if kernel.sums.is_empty() {
        // SAFETY: the addresses are those of `chunk.elements` elements each, borrowed for the pass, the
        // written ones mutably; the machine has the instruction set (checked when it was chosen).
        return unsafe { entry.run(row.as_ptr(), addresses.as_ptr(), chunk.elements, core::ptr::null_mut()) };
    }
    let mut accumulators = Accumulators::<T>::new(kernel.sums.len());
    for (k, start) in (0..chunk.elements).step_by(SEGMENT).enumerate() {
        let elements = SEGMENT.min(chunk.elements - start);
        // SAFETY: as above; the accumulators hold a row for each sum, and this is at most a segment.
        unsafe { entry.run(row.as_ptr(), addresses.as_ptr(), elements, accumulators.start()) };
        for (address, operand) in addresses.iter_mut().zip(stored) {
            // SAFETY: at most one past the last element.
            *address = unsafe { address.byte_add(elements * operand.format.bytes()) };
        }
        accumulators.finish(work, first_segment + k);
    }
}

/// The whole blocks of a chunk whose states have dynamic codes, in one loop; returns what is left of it.
#[cfg(target_arch = "x86_64")]
fn run_fused<T: Compiled>(rule: &Chosen<T>, isa: Isa, chunk: &Chunk, stored: &[Stored], row: &[T]) -> Chunk {
    let Some(fused) = rule.fused else { return *chunk };
    if stored.iter().any(Stored::is_special) {
        return *chunk;
    }
    let (address, scales) = (core::ptr::null_mut(), core::ptr::null_mut());
    let mut places = [Place { address, scales, codebook: None, blocks: None }; MAX_OPERANDS];
    for ((place, operand), stored) in places.iter_mut().zip(rule.kernel.operands).zip(stored) {
        let codebook = Codebook::of(stored.format);
        let fits = match operand.role {
            Role::State => codebook.is_some(),
            _ => stored.format == Format::F32,
        };
        if !fits {
            return *chunk;
        }
        let blocks = codebook.map(|_| block_codec(stored.format, isa));
        // SAFETY: the chunk lies within the tensor, whose memory was checked; chunks begin with a block.
        let (address, scales) = unsafe { stored.at(chunk.start) };
        *place = Place { address, scales, codebook, blocks };
    }
    let blocks = chunk.elements / BLOCK;
    // SAFETY: the row is of singles (the entry is there for no other type), places are those of the chunk's elements,
    // borrowed for the pass, the written ones mutably; the machine has the instruction set.
    unsafe { fused(row.as_ptr().cast(), places.as_ptr(), blocks) };
    let done = blocks * BLOCK;
    Chunk { tensor: chunk.tensor, start: chunk.start + done, elements: chunk.elements - done }
}

/// A chunk whose operands are stored as singles or bfloat16, in one loop; whether they are.
#[cfg(target_arch = "x86_64")]
fn run_halves<T: Compiled>(rule: &Chosen<T>, chunk: &Chunk, stored: &[Stored], row: &[T]) -> bool {
    let Some(entry) = rule.halves else { return false };
    let mut operands = [Half::NOWHERE; MAX_OPERANDS];
    for (half, stored) in operands.iter_mut().zip(stored) {
        let Stored { address, format, noise, copy, repeat, .. } = *stored;
        let copy = copy.unwrap_or((core::ptr::null_mut(), Format::Bf16));
        if !matches!(format, Format::F32 | Format::Bf16) || copy.1 != Format::Bf16 || repeat.is_some() {
            return false;
        }
        half.bytes = format.bytes();
        half.address = address.wrapping_add(chunk.start * half.bytes);
        if let Some(key) = noise {
            (half.by_chance, half.rounds) = (true, Rounds::new(key));
        }
        half.copy = copy.0.cast();
        if !half.copy.is_null() {
            half.copy = half.copy.wrapping_add(chunk.start);
        }
    }
    // SAFETY: the row is of singles (the entry is there for no other type); the chunk lies within the tensor, whose memory
    // and that of copies is borrowed for the pass, mutably where it is written; the machine has the instruction set.
    unsafe { entry(row.as_ptr().cast(), operands.as_ptr(), chunk.start, chunk.elements) };
    true
}

/// A row of accumulators for each sum, on the stack.
#[repr(C, align(64))]
struct Accumulators<T> {
    rows: [MaybeUninit<[T; ACCUMULATORS]>; MAX_SUMS],
    count: usize,
}

impl<T: Compiled + Coded> Accumulators<T> {
    fn new(count: usize) -> Self {
        let mut rows = [const { MaybeUninit::uninit() }; MAX_SUMS];
        rows[..count].fill(MaybeUninit::new([T::default(); ACCUMULATORS]));
        Accumulators { rows, count }
    }

    fn start(&mut self) -> *mut T {
        self.rows.as_mut_ptr().cast()
    }

    /// Folds the accumulators of a segment into its partial sums, and clears them.
    fn finish(&mut self, work: &Work<'_, T>, segment: usize) {
        for (s, row) in self.rows[..self.count].iter_mut().enumerate() {
            // SAFETY: the first `count` rows were initialised.
            let row = unsafe { row.assume_init_mut() };
            let total = tree(work.isa, row).to_f64();
            *row = [T::default(); ACCUMULATORS];
            // SAFETY: this thread alone works on the chunk that the segment is in.
            unsafe { work.write_partial(segment, s, total) };
        }
    }
}

/// `row[j] += row[j + half]` for halves of 32, 16, … 1.
#[inline(always)]
fn halve<T: Compiled>(row: &mut [T; ACCUMULATORS]) -> T {
    let mut half = ACCUMULATORS / 2;
    while half > 0 {
        let (low, high) = row.split_at_mut(half);
        for (a, b) in low.iter_mut().zip(&high[..half]) {
            *a = a.plus(*b);
        }
        half /= 2;
    }
    row[0]
}

fn tree<T: Compiled>(isa: Isa, row: &mut [T; ACCUMULATORS]) -> T {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn avx2<T: Compiled>(row: &mut [T; ACCUMULATORS]) -> T {
        halve(row)
    }
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx2 {
        // SAFETY: the machine has the instruction set (checked when it was chosen).
        return unsafe { avx2(row) };
    }
    let _ = isa;
    halve(row)
}
