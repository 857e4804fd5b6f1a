//! A pass: one launch for all tensors whose operands are stored alike.

pub(crate) mod numbers;

use crate::context::{Failure, Lasting, State};
use crate::graph::{Recorded, RecordedPass, Upload};
use crate::memory::{address_of, managed};
use crate::ptx::Stored;
use core::ops::Range;
use cudarc::driver::{CudaFunction, CudaSlice, CudaStream, LaunchConfig, PushKernelArg};
use fallline_core::backend::{Beside, MAX_VIEWS, Pass, Plan, Queued, Repeat, TensorPass, View, Views};
use fallline_core::sums::{SEGMENT, segments};
use fallline_core::{Compute, Error, Format, Kernel, Operand, Result, Storage};
use numbers::{Numbers, depend};
use std::sync::Arc;

/// Elements of a chunk, which is one warp's work, where a rule has no sums (else it is a segment): enough
/// warps for a device from a million elements on.
const CHUNK: usize = 1024;
/// Warps of a block.
pub(crate) const WARPS: usize = 8;
pub(crate) const WARP: u32 = 32;

/// What the device remembers between passes.
#[derive(Default)]
pub(crate) struct CudaPlan {
    /// What the tables on the device say; uploaded again when it changes.
    known: Tables,
    new: Tables,
    /// Where they are, once they are there.
    known_at: Option<u64>,
    /// How the operands are stored, a row for each tensor.
    stored: Vec<Stored>,
    /// The keys of what is rounded by chance, a row for each tensor.
    keys: Vec<u64>,
    /// Where they are behind the rows of scalars, if anything is.
    keys_at: Option<u64>,
    /// Whether each of them is in managed memory; empty where none is.
    managed: Vec<bool>,
    /// For each tensor the row of scalars that it shares.
    rows_of: Vec<usize>,
    launches: Vec<Launch>,
    tables: Buffer,
    rows: Buffer,
    partials: Buffer,
    sums: Buffer,
    row_bytes: Vec<u8>,
    sum_bytes: Vec<u8>,
    /// How many sums of how many tensors the last queued pass has left on the device.
    kept: Option<(usize, usize)>,
    numbers: Numbers,
    scaling: Option<Scaling>,
    /// Those of the rules beside the pass's own, launched before or after it.
    beside: Vec<CudaPlan>,
}

/// What the launch of a rule needs that may be missing.
struct Rule {
    functions: Vec<CudaFunction>,
    /// The kernel of its numbers, where they are computed on the device, and that of the gradient's factor.
    numbers: Option<CudaFunction>,
    scale: Option<CudaFunction>,
    /// Where its tables, rows of scalars and partial sums are.
    at: [u64; 3],
}

/// The gradient's factor in rows of scalars, to be multiplied by one on the device.
#[derive(Clone, Copy)]
struct Scaling {
    /// Where the rows' own factors are, behind the rows.
    scales: u64,
    rows: u32,
    bytes: u32,
}

/// The kernel that folds partial sums, and where the sums go.
type Fold = (CudaFunction, u64);

/// The tables that a kernel reads, in the words of its interface.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Tables {
    /// For each tensor: its operands' addresses (each with that of its scales or copy, or how it is repeated), elements,
    /// first segment and row.
    tensors: Vec<u64>,
    /// For each chunk: its first element, then its elements (upper half) and its tensor.
    chunks: Vec<u64>,
    /// For each tensor its first segment, and how many it has.
    segments: Vec<u64>,
}

/// Chunks of tensors that are stored alike.
struct Launch {
    stored: Vec<Stored>,
    first: usize,
    count: usize,
}

/// Bytes of managed memory that are brought to the device at a time.
const PREFETCHED: usize = 64 << 20;

/// Chunks that are launched together.
struct Piece {
    chunks: Range<usize>,
    /// Addresses and bytes of what they touch in managed memory.
    ranges: Vec<(u64, usize)>,
}

impl Piece {
    fn prefetch(&self, stream: &CudaStream) -> Lasting<()> {
        self.ranges.iter().try_for_each(|&(address, bytes)| managed::prefetch(stream, address, bytes))
    }
}

/// Memory on the device that grows when it must.
#[derive(Default)]
pub(crate) struct Buffer(Option<Arc<CudaSlice<u8>>>);

impl Buffer {
    /// The address of at least this many bytes. What was there before is not kept.
    pub(crate) fn reserve(&mut self, state: &State, bytes: usize) -> Lasting<u64> {
        let enough = self.0.as_ref().filter(|slice| slice.len() >= bytes);
        if let Some(slice) = enough {
            return Ok(address_of(slice));
        }
        // SAFETY: kernels read only what was written before.
        let slice = unsafe { state.compute.alloc::<u8>(bytes.next_power_of_two().max(256)) };
        let slice = slice.map_err(Failure::at("allocating tables"))?;
        Ok(address_of(self.0.insert(Arc::new(slice))))
    }

    /// What keeps the memory.
    pub(crate) fn owner(&self) -> Option<Arc<CudaSlice<u8>>> {
        self.0.clone()
    }

    /// The address, if as many bytes are there already.
    pub(crate) fn at(&self, bytes: usize) -> Option<u64> {
        self.0.as_ref().filter(|slice| slice.len() >= bytes).map(|slice| address_of(slice))
    }
}

/// A launch of this many warps.
pub(crate) fn config(warps: usize) -> LaunchConfig {
    let grid_dim = (warps.div_ceil(WARPS) as u32, 1, 1);
    LaunchConfig { grid_dim, block_dim: (WARPS as u32 * WARP, 1, 1), shared_mem_bytes: 0 }
}

/// Runs a pass; with `queued` its numbers are computed on the device, and its sums stay there.
pub(crate) fn run(state: &mut State, pass: Pass<'_, '_>, queued: Option<Queued<'_>>) -> Result<()> {
    let Pass { kernel, compute, tensors, rows, tensor_scalars, plan, sums, beside } = pass;
    let Some(plan) = plan.downcast_mut::<CudaPlan>() else {
        return Err(Error::Unavailable(format!("{}: the plan is another backend's", kernel.name)));
    };
    Beside::check(beside)?;
    state.enter_to_run()?;
    let mut others = core::mem::take(&mut plan.beside);
    others.resize_with(others.len().max(beside.len()), CudaPlan::default);
    let mut whole = Whole { plan, beside, others: &mut others, queued };
    let mut launched = false;
    let ran = whole.run(state, (kernel, compute), tensors, (rows, tensor_scalars), sums, &mut launched);
    plan.beside = others;
    ran
}

/// Fetches the sums that a queued pass has left.
pub(crate) fn sums(state: &mut State, plan: &Plan, to: &mut [f64]) -> Result<()> {
    let kept = plan.downcast_ref::<CudaPlan>().and_then(CudaPlan::kept);
    let (at, tensors, width) = kept.unwrap_or_default();
    if tensors * width != to.len() {
        let what = "the sums of the last pass".into();
        return Err(Error::Length { operation: "sums", what, expected: to.len(), got: tensors * width });
    }
    if to.is_empty() {
        return Ok(());
    }
    state.enter("fetching sums")?;
    let stream = Arc::clone(&state.compute);
    let bytes = bytemuck::cast_slice_mut(to);
    // SAFETY: the buffer holds as many sums, written before in the order of the stream.
    let fetched = unsafe { state.staging.download(&stream, at, bytes) };
    fetched.map_err(|failure| state.error(failure, false))?;
    // They came after everything else.
    state.idle();
    Ok(())
}

/// The rule of a pass together with those beside it.
struct Whole<'p> {
    plan: &'p mut CudaPlan,
    beside: &'p [Beside<'p>],
    others: &'p mut [CudaPlan],
    queued: Option<Queued<'p>>,
}

impl Whole<'_> {
    fn run<'a>(
        &mut self,
        state: &mut State,
        (kernel, compute): (&'static Kernel, Compute),
        tensors: &mut dyn FnMut(&mut Views<'a>) -> Option<TensorPass>,
        (rows, own): (&[f64], &[f64]),
        sums: &mut [f64],
        launched: &mut bool,
    ) -> Result<()> {
        self.gather(state, kernel, tensors)?;
        let computed = self.queued.as_ref().and_then(|queued| queued.computed.as_ref());
        let computed = computed.filter(|_| depend(kernel));
        self.plan.lay_rows(kernel, compute, rows, computed.is_none().then_some(own))?;
        self.plan.kept = None;
        self.plan.numbers.clear();
        if let Some(computed) = computed {
            let CudaPlan { numbers, rows_of, row_bytes, .. } = &mut *self.plan;
            numbers.lay(kernel, computed, rows_of.len(), row_bytes)?;
        }
        let factor = self.queued.as_ref().and_then(|queued| queued.factor);
        self.plan.lay_scales(state, (kernel, compute), rows, factor)?;
        let kept = self.plan.rows_of.len() * kernel.sums.len();
        let expected = if self.queued.is_some() { 0 } else { kept };
        if sums.len() != expected {
            return Err(length(kernel, "the table of sums", expected, sums.len()));
        }
        self.plan.cut(kernel);
        for (plan, beside) in self.others.iter_mut().zip(self.beside) {
            plan.lay_rows(beside.kernel, compute, beside.row, Some(&[]))?;
            plan.cut(beside.kernel);
        }
        if state.capture.as_ref().is_some_and(|capture| capture.is_own()) {
            let queued = self.queued.is_some();
            return self.each(kernel, |plan, kernel| plan.capture(state, kernel, compute, queued));
        }
        let ran = self.launch(state, (kernel, compute), sums, launched);
        let writes = |kernel: &Kernel| kernel.operands.iter().any(|operand| operand.written);
        let writes = writes(kernel) || self.beside.iter().any(|beside| writes(beside.kernel));
        ran.map_err(|failure| state.error(failure, *launched && writes))
    }

    /// Each rule in its turn, with what is remembered for it.
    fn each<E>(
        &mut self,
        kernel: &'static Kernel,
        mut work: impl FnMut(&mut CudaPlan, &'static Kernel) -> core::result::Result<(), E>,
    ) -> core::result::Result<(), E> {
        for first in [true, false] {
            for (plan, beside) in self.others.iter_mut().zip(self.beside) {
                // A rule that passes over all tensors has nothing to do.
                if beside.first == first && !plan.rows_of.is_empty() {
                    work(plan, beside.kernel)?;
                }
            }
            if first {
                work(self.plan, kernel)?;
            }
        }
        Ok(())
    }

    /// Fills the tensors' tables from the pass's views, which are checked.
    fn gather<'a>(
        &mut self,
        state: &State,
        kernel: &Kernel,
        tensors: &mut dyn FnMut(&mut Views<'a>) -> Option<TensorPass>,
    ) -> Result<()> {
        let all = core::iter::once(&mut *self.plan).chain(&mut *self.others);
        all.for_each(CudaPlan::clear);
        let mut views: Views<'a> = [const { None }; MAX_VIEWS];
        let mut index = 0;
        while let Some(tensor) = tensors(&mut views) {
            for (plan, beside) in self.others.iter_mut().zip(self.beside) {
                if beside.has(&views) {
                    let views = beside.operands.iter().map(|&place| views[place].as_ref());
                    plan.add(state, beside.kernel, index, views, TensorPass { row: 0, ..tensor })?;
                }
            }
            self.plan.add(state, kernel, index, views.iter().map(Option::as_ref), tensor)?;
            views.iter_mut().for_each(|view| *view = None);
            index += 1;
        }
        self.plan.find_managed(state, kernel);
        for (plan, beside) in self.others.iter_mut().zip(self.beside) {
            plan.find_managed(state, beside.kernel);
        }
        Ok(())
    }

    /// Uploads what changed and launches. `launched` is set with the first kernel.
    fn launch(
        &mut self,
        state: &mut State,
        (kernel, compute): (&'static Kernel, Compute),
        sums: &mut [f64],
        launched: &mut bool,
    ) -> Lasting<()> {
        // Everything that may be missing, first: after the first launch nothing should fail.
        let mut rules = Vec::with_capacity(1 + self.beside.len());
        self.each(kernel, |plan, kernel| {
            rules.push(plan.ready(state, kernel, compute)?);
            Ok(())
        })?;
        let fold = self.plan.ready_to_fold(state, kernel)?;
        let mut next = rules.iter();
        self.each(kernel, |plan, _| next.next().map_or(Ok(()), |rule| plan.upload(state, rule)))?;
        let mut next = rules.iter();
        self.each(kernel, |plan, kernel| match next.next() {
            Some(rule) => plan.launch_kernels(state, kernel, rule, launched),
            None => Ok(()),
        })?;
        let Some(fold) = fold else { return Ok(()) };
        self.plan.launch_fold(state, kernel, &fold)?;
        match self.queued {
            Some(_) => Ok(()),
            None => self.plan.download(state, fold.1, sums),
        }
    }
}

fn length(kernel: &Kernel, what: &str, expected: usize, got: usize) -> Error {
    Error::Length { operation: kernel.name, what: what.into(), expected, got }
}

/// An operand's memory, as a kernel takes it.
struct Operated {
    /// The elements' address, and the scales' or the copy's, or how they are repeated.
    addresses: [u64; 2],
    stored: Stored,
    key: u64,
}

/// An operand's memory, if it is what the rule needs.
fn check(
    state: &State,
    kernel: &Kernel,
    index: usize,
    operand: &Operand,
    view: Option<&View<'_>>,
    elements: usize,
) -> Result<Operated> {
    let what = || format!("operand {} of tensor {index}", operand.name);
    let view = view.filter(|view| !view.on_host() && (view.writable() || !operand.written));
    let Some(view) = view else {
        return Err(Error::Unreachable { operation: kernel.name, what: what(), device: state.device });
    };
    if view.len() != elements {
        return Err(length(kernel, &what(), elements, view.len()));
    }
    let format = view.format();
    let key = view.noise().filter(|_| operand.written && format == Format::Bf16);
    let copy = view.copy().filter(|_| operand.written);
    if let (Some((_, copy)), Some(_)) = (copy, format.block()) {
        // Both would take the second address.
        let expected = Format::ALL.map(Format::name).join(", ");
        return Err(Error::Format { operation: kernel.name, what: what(), expected, got: copy });
    }
    let mut second = copy.map_or(view.scales(), |(address, _)| address) as u64;
    let repeat = view.repeat();
    if let Some(Repeat { run, times }) = repeat.filter(|_| elements > 0) {
        if u32::try_from(elements).is_err() {
            let problem =
                format!("{}: {} is repeated in {elements} elements, 2^32 or more", kernel.name, what());
            return Err(Error::Unavailable(problem));
        }
        // No more than there are elements.
        second = ((times * run) as u64) << 32 | run as u64;
    }
    Ok(Operated {
        addresses: [view.address() as u64, second],
        stored: Stored {
            format,
            chance: key.is_some(),
            copy: copy.map(|(_, format)| format),
            repeated: repeat.is_some(),
        },
        key: key.unwrap_or(0),
    })
}

impl CudaPlan {
    /// Forgets the tensors of the last pass.
    fn clear(&mut self) {
        self.new.tensors.clear();
        self.new.segments.clear();
        self.stored.clear();
        self.managed.clear();
        self.keys.clear();
        self.rows_of.clear();
    }

    /// Adds a tensor to the table, by the views of a rule's operands, which are checked.
    fn add<'v>(
        &mut self,
        state: &State,
        kernel: &Kernel,
        number: usize,
        views: impl Iterator<Item = Option<&'v View<'v>>>,
        tensor: TensorPass,
    ) -> Result<()> {
        let index = self.rows_of.len();
        for (operand, view) in kernel.operands.iter().zip(views) {
            let operated = check(state, kernel, number, operand, view, tensor.elements)?;
            self.new.tensors.extend(operated.addresses);
            self.stored.push(operated.stored);
            self.keys.push(operated.key);
        }
        let row = if kernel.tensor_scalars.is_empty() { tensor.row } else { index };
        let count = segments(tensor.elements);
        let first_segment =
            self.new.segments.last_chunk().map_or(0, |&[first, count]| (first + count) as usize);
        if first_segment + count > u32::MAX as usize || index > u32::MAX as usize {
            let problem = format!("{}: more than 2^44 elements in one pass", kernel.name);
            return Err(Error::Unavailable(problem));
        }
        self.new.tensors.extend([tensor.elements as u64, (first_segment as u64) << 32 | row as u64]);
        self.new.segments.extend([first_segment as u64, count as u64]);
        self.rows_of.push(tensor.row);
        Ok(())
    }

    /// Finds out which operands are in managed memory.
    fn find_managed(&mut self, state: &State, kernel: &Kernel) {
        if !state.managed.is_empty() {
            let width = 2 * kernel.operands.len() + 2;
            let records = self.new.tensors.chunks_exact(width);
            let addresses = records.flat_map(|record| record[..width - 2].iter().step_by(2));
            self.managed.extend(addresses.map(|&address| state.managed.has(address)));
        }
    }

    /// The sums that the last queued pass has left: where they are, of how many tensors, and how many of each.
    pub(crate) fn kept(&self) -> Option<(u64, usize, usize)> {
        let (tensors, width) = self.kept?;
        Some((self.sums.at(0).unwrap_or(0), tensors, width))
    }

    /// Lays out the rows of scalars in the compute type: the pass's own, or, where tensors have scalars of
    /// their own, one row for each tensor, with room for those that are computed on the device.
    fn lay_rows(
        &mut self,
        kernel: &Kernel,
        compute: Compute,
        shared: &[f64],
        own: Option<&[f64]>,
    ) -> Result<()> {
        let (width, own_width) = (1 + kernel.scalars.len(), kernel.tensor_scalars.len());
        let count = shared.len() / width;
        let highest = self.rows_of.iter().max().map_or(0, |row| row + 1);
        if count * width != shared.len() || highest > count {
            return Err(length(kernel, "the table of scalars", highest.max(count) * width, shared.len()));
        }
        let expected = self.rows_of.len() * own_width;
        if let Some(own) = own.filter(|own| own.len() != expected) {
            return Err(length(kernel, "the tensors' own scalars", expected, own.len()));
        }
        self.row_bytes.clear();
        let bytes = &mut self.row_bytes;
        let mut push = |row: &[f64]| match compute {
            Compute::F32 => row.iter().for_each(|&x| bytes.extend((x as f32).to_le_bytes())),
            Compute::F64 => row.iter().for_each(|&x| bytes.extend(x.to_le_bytes())),
        };
        if own_width == 0 {
            push(shared);
        } else {
            for (i, &row) in self.rows_of.iter().enumerate() {
                push(&shared[row * width..][..width]);
                match own {
                    Some(own) => push(&own[i * own_width..][..own_width]),
                    None => (0..own_width).for_each(|_| push(&[0.0])),
                }
            }
        }
        // Behind the rows, where they change in every step as those do.
        self.keys_at = None;
        if self.stored.iter().any(|stored| stored.chance) {
            self.row_bytes.resize(self.row_bytes.len().next_multiple_of(size_of::<u64>()), 0);
            self.keys_at = Some(self.row_bytes.len() as u64);
            self.keys.iter().for_each(|key| self.row_bytes.extend(key.to_le_bytes()));
        }
        Ok(())
    }

    /// Lays the rows' own factors of the gradient behind the rows, where one on the device multiplies them.
    fn lay_scales(
        &mut self,
        state: &State,
        (kernel, compute): (&Kernel, Compute),
        shared: &[f64],
        factor: Option<(&Storage, usize)>,
    ) -> Result<()> {
        self.scaling = None;
        let Some((storage, place)) = factor else { return Ok(()) };
        crate::on_device(state.device, kernel.name, "the factor of the gradients", storage)?;
        if place >= storage.len() || storage.format() != Format::F64 {
            return Err(length(kernel, "the factor of the gradients", place + 1, storage.len()));
        }
        let (width, own_width) = (1 + kernel.scalars.len(), kernel.tensor_scalars.len());
        let bytes = &mut self.row_bytes;
        bytes.resize(bytes.len().next_multiple_of(size_of::<u64>()), 0);
        let scales = bytes.len() as u64;
        let factor = storage.address() + place * size_of::<f64>();
        bytes.extend((factor as u64).to_le_bytes());
        let mut push = |row: usize| bytes.extend(shared[row * width].to_le_bytes());
        let rows = match own_width {
            0 => shared.len() / width,
            _ => self.rows_of.len(),
        };
        match own_width {
            0 => (0..rows).for_each(&mut push),
            _ => self.rows_of.iter().copied().for_each(&mut push),
        }
        let bytes = ((width + own_width) * compute.format().bytes()) as u32;
        self.scaling = (rows > 0).then_some(Scaling { scales, rows: rows as u32, bytes });
        Ok(())
    }

    /// Cuts the tensors into chunks, those that are stored alike one after another.
    fn cut(&mut self, kernel: &Kernel) {
        let (width, count) = (kernel.operands.len(), self.rows_of.len());
        let chunk = if kernel.sums.is_empty() { CHUNK } else { SEGMENT };
        self.new.chunks.clear();
        self.launches.clear();
        let stored_of = |tensor: usize| &self.stored[tensor * width..][..width];
        for first in 0..count {
            let stored = stored_of(first);
            if self.launches.iter().any(|launch| launch.stored == stored) {
                continue;
            }
            let start = self.new.chunks.len() / 2;
            for tensor in (first..count).filter(|&tensor| stored_of(tensor) == stored) {
                let elements = self.new.tensors[tensor * (2 * width + 2) + 2 * width] as usize;
                for begin in (0..elements).step_by(chunk) {
                    let length = chunk.min(elements - begin) as u64;
                    self.new.chunks.extend([begin as u64, length << 32 | tensor as u64]);
                }
            }
            let count = self.new.chunks.len() / 2 - start;
            self.launches.push(Launch { stored: stored.to_vec(), first: start, count });
        }
    }

    /// Loads kernels and reserves memory for a launch.
    fn ready(&mut self, state: &mut State, kernel: &'static Kernel, compute: Compute) -> Lasting<Rule> {
        let functions = self.functions(state, kernel, compute)?;
        let numbers = self.numbers.ready(state, kernel, compute, &mut self.row_bytes)?;
        let scale = self.scaling.map(|_| state.scale(compute)).transpose()?;
        let Tables { tensors, chunks, segments } = &self.new;
        let bytes = [tensors, chunks, segments].map(|table| size_of_val(&table[..]));
        let tables = self.tables.reserve(state, bytes.iter().sum())?;
        let rows = self.rows.reserve(state, self.row_bytes.len())?;
        let total = segments.chunks_exact(2).map(|pair| pair[1]).sum::<u64>() as usize;
        let partials = self.partials.reserve(state, total * kernel.sums.len() * size_of::<f64>())?;
        Ok(Rule { functions, numbers, scale, at: [tables, rows, partials] })
    }

    /// The kernel of each launch.
    fn functions(
        &self,
        state: &mut State,
        kernel: &'static Kernel,
        compute: Compute,
    ) -> Lasting<Vec<CudaFunction>> {
        let skips = self.skips(kernel);
        let of = |launch: &Launch| state.function(kernel, compute, (&launch.stored, skips));
        self.launches.iter().map(of).collect()
    }

    /// Whether a number on the device says if the pass is left out.
    fn skips(&self, kernel: &Kernel) -> bool {
        kernel.between.declared.may_skip && self.numbers.launches()
    }

    /// The kernel that folds the rule's sums, and memory for them, if it has any.
    fn ready_to_fold(&mut self, state: &mut State, kernel: &Kernel) -> Lasting<Option<Fold>> {
        let (tensors, width) = (self.rows_of.len(), kernel.sums.len());
        if tensors * width == 0 {
            return Ok(None);
        }
        Ok(Some((state.fold()?, self.sums.reserve(state, tensors * width * size_of::<f64>())?)))
    }

    /// Uploads what changed.
    fn upload(&mut self, state: &mut State, rule: &Rule) -> Lasting<()> {
        let [tables, rows, _] = rule.at;
        self.upload_tables(state, tables)?;
        self.upload_rows(state, rows)
    }

    /// Folds the partial sums that a launch has left.
    fn launch_fold(&mut self, state: &mut State, kernel: &Kernel, (fold, found): &Fold) -> Lasting<()> {
        let stream = Arc::clone(&state.compute);
        let Tables { tensors, chunks, segments } = &self.known;
        let tables = [tensors, chunks].map(|table| size_of_val(&table[..]) as u64);
        let total = segments.chunks_exact(2).map(|pair| pair[1]).sum::<u64>() as usize;
        let partials = self.partials.at(total * kernel.sums.len() * size_of::<f64>()).unwrap_or(0);
        let segments_at = self.known_at.unwrap_or(0) + tables[0] + tables[1];
        let (tensors, width) = (self.rows_of.len() as u32, kernel.sums.len() as u32);
        let warps = (tensors * width) as usize;
        let config = config(warps);
        let mut call = stream.launch_builder(fold);
        call.arg(&segments_at).arg(&partials).arg(found).arg(&tensors).arg(&width);
        // SAFETY: as above; the kernel writes one number for each tensor and sum.
        unsafe { call.launch(config) }.map_err(Failure::at("launching a kernel"))?;
        self.kept = Some((self.rows_of.len(), kernel.sums.len()));
        Ok(())
    }

    /// Waits for the sums.
    fn download(&mut self, state: &mut State, found: u64, sums: &mut [f64]) -> Lasting<()> {
        let stream = Arc::clone(&state.compute);
        self.sum_bytes.resize(size_of_val(sums), 0);
        // SAFETY: the buffer holds the sums, written before in the order of the stream.
        unsafe { state.staging.download(&stream, found, &mut self.sum_bytes)? };
        for (sum, bytes) in sums.iter_mut().zip(self.sum_bytes.as_chunks().0) {
            *sum = f64::from_le_bytes(*bytes);
        }
        // The sums came after everything else.
        state.idle();
        Ok(())
    }

    /// Launches the kernel of the rule's numbers, and its own for each mix of formats. `launched` is set with the first.
    fn launch_kernels(
        &self,
        state: &mut State,
        kernel: &'static Kernel,
        rule: &Rule,
        launched: &mut bool,
    ) -> Lasting<()> {
        let Rule { functions, numbers, scale, at: [tables, rows, partials] } = rule;
        let (&tables, &rows, &partials) = (tables, rows, partials);
        if self.numbers.launches() {
            self.numbers.launch(state, kernel, numbers.as_ref(), rows)?;
            *launched = true;
        }
        let skip = self.skips(kernel).then(|| self.numbers.skip());
        let stream = Arc::clone(&state.compute);
        if let (Some(Scaling { scales, rows: count, bytes }), Some(scale)) = (self.scaling, scale) {
            let scales = rows + scales;
            let mut call = stream.launch_builder(scale);
            call.arg(&rows).arg(&scales).arg(&count).arg(&bytes);
            // SAFETY: the arguments are those of the kernel's interface; the factors were laid behind the rows.
            unsafe { call.launch(config((count as usize).div_ceil(WARP as usize))) }
                .map_err(Failure::at("launching a kernel"))?;
            *launched = true;
        }
        let chunks_at = tables + size_of_val(&self.known.tensors[..]) as u64;
        let pieces = self.pieces(state, kernel);
        let functions = self.launches.iter().zip(functions);
        let function_of = |piece: &Piece| {
            let at = piece.chunks.start;
            functions.clone().find(|(launch, _)| (launch.first..launch.first + launch.count).contains(&at))
        };
        for (i, piece) in pieces.iter().enumerate() {
            let Some((launch, function)) = function_of(piece) else { continue };
            if i == 0 {
                piece.prefetch(&stream)?;
            }
            if let Some(next) = pieces.get(i + 1) {
                // Beside the computation.
                next.prefetch(&state.copies)?;
            }
            let (chunks, count) = (chunks_at + 16 * piece.chunks.start as u64, piece.chunks.len() as u32);
            let mut call = stream.launch_builder(function);
            call.arg(&tables).arg(&chunks).arg(&rows).arg(&partials).arg(&count);
            let keys = rows + self.keys_at.unwrap_or(0);
            if launch.stored.iter().any(|stored| stored.chance) {
                call.arg(&keys);
            }
            if let Some(skip) = &skip {
                call.arg(skip);
            }
            state.running(kernel.name);
            // SAFETY: the arguments are those of the kernel's interface; the tables describe memory that the
            // pass's views borrow, and what they own is freed in the order of the stream.
            unsafe { call.launch(config(piece.chunks.len())) }.map_err(Failure::at("launching a kernel"))?;
            *launched = true;
        }
        Ok(())
    }

    /// What is launched at a time: all chunks that are stored alike, or, where some of it is in managed memory, as much
    /// of them as is brought to the device while the piece before is worked on.
    fn pieces(&self, state: &mut State, kernel: &Kernel) -> Vec<Piece> {
        let whole = |launch: &Launch| launch.first..launch.first + launch.count;
        let with_work = self.launches.iter().filter(|launch| launch.count > 0).map(whole);
        // Nothing is prefetched in a step that is captured.
        let prefetches = self.managed.contains(&true) && state.capture.is_none() && {
            let compute = &state.compute;
            *state.prefetches.get_or_insert_with(|| managed::prefetches(compute))
        };
        if !prefetches {
            return with_work.map(|chunks| Piece { chunks, ranges: Vec::new() }).collect();
        }
        let operands = kernel.operands.len();
        let mut pieces = Vec::new();
        for chunks in with_work {
            let (mut first, mut bytes) = (chunks.start, 0);
            let mut ranges: Vec<(u64, usize)> = Vec::new();
            for chunk in chunks.clone() {
                let [begin, at] = [0, 1].map(|word| self.known.chunks[2 * chunk + word]);
                let (tensor, begin, count) = (at as u32 as usize, begin as usize, (at >> 32) as usize);
                let record = &self.known.tensors[tensor * (2 * operands + 2)..];
                // What is repeated is small, and other than the chunk says: it comes when it is read.
                let brought = |k: &usize| {
                    let place = tensor * operands + k;
                    self.managed[place] && !self.stored[place].repeated
                };
                for k in (0..operands).filter(brought) {
                    let format = self.stored[tensor * operands + k].format;
                    let start = record[2 * k] + format.size(begin) as u64;
                    let length = format.size(count);
                    bytes += length;
                    match ranges.iter_mut().find(|(at, before)| at + *before as u64 == start) {
                        Some((_, before)) => *before += length,
                        None => ranges.push((start, length)),
                    }
                }
                if bytes >= PREFETCHED || chunk + 1 == chunks.end {
                    pieces.push(Piece { chunks: first..chunk + 1, ranges: core::mem::take(&mut ranges) });
                    (first, bytes) = (chunk + 1, 0);
                }
            }
        }
        pieces
    }

    /// A pass of a step that is captured: its launches are recorded, and its rows uploaded before the graph's first
    /// launch. Or one that is replayed: its rows are uploaded, and it must be the one that was recorded.
    fn capture(
        &mut self,
        state: &mut State,
        kernel: &'static Kernel,
        compute: Compute,
        queued: bool,
    ) -> Result<()> {
        let refused = |problem: &str| Err(Error::Unavailable(format!("{}: {problem}", kernel.name)));
        if !(queued || kernel.sums.is_empty()) {
            return refused("its sums come back to the host, so that its step cannot be captured");
        }
        let replays = state.capture.as_ref().is_some_and(|capture| capture.replayed.is_some());
        let numbers = match replays {
            // Powers may need more memory by now.
            true => {
                let ready = self.numbers.ready(state, kernel, compute, &mut self.row_bytes);
                ready.map_err(|failure| state.error(failure, false))?;
                Some(())
            }
            false => self.numbers.ready_again(kernel, &mut self.row_bytes),
        };
        let total = self.new.segments.chunks_exact(2).map(|pair| pair[1]).sum::<u64>() as usize;
        let partials = self.partials.at(total * kernel.sums.len() * size_of::<f64>());
        let sums = self.sums.at(self.rows_of.len() * kernel.sums.len() * size_of::<f64>());
        let sums = sums.or_else(|| kernel.sums.is_empty().then_some(0));
        let ready = (self.known_at, self.rows.at(self.row_bytes.len()), partials, sums, numbers);
        let (Some(tables), Some(rows), Some(partials), Some(sums), Some(())) = ready else {
            return refused(
                "step these tensors once before they are captured: it allocates memory and loads kernels",
            );
        };
        let [read, work] = self.numbers.told();
        let told = [read, work, sums];
        let Some(capture) = &mut state.capture else { unreachable!("asked for by a capture") };
        if let Some(replayed) = &mut capture.replayed {
            let expected = capture.passes.get(*replayed).and_then(Recorded::pass).filter(|expected| {
                let same = core::ptr::eq(expected.kernel, kernel) && expected.tables == self.new;
                same && (expected.tables_at, expected.rows_at) == (tables, rows)
                    && (expected.row_bytes, expected.told) == (self.row_bytes.len(), told)
            });
            if expected.is_none() {
                return refused("this is not the pass that was captured: capture the step again");
            }
            *replayed += 1;
            let uploaded = self.upload_tables(state, tables).and_then(|()| self.upload_rows(state, rows));
            // The graph's launch folds them again.
            self.kept = (!kernel.sums.is_empty()).then_some((self.rows_of.len(), kernel.sums.len()));
            return uploaded.map_err(|failure| state.error(failure, false));
        }
        if self.known != self.new {
            return refused("step these tensors once before they are captured");
        }
        let launched = self.launch_captured(state, (kernel, compute), [tables, rows, partials], sums);
        let mut functions = launched.map_err(|failure| state.error(failure, false))?;
        let memory = [&self.tables, &self.rows, &self.partials, &self.sums];
        let memory = memory.into_iter().filter_map(Buffer::owner).chain(self.numbers.memory());
        let recorded = RecordedPass {
            kernel,
            tables: self.new.clone(),
            tables_at: tables,
            rows_at: rows,
            row_bytes: self.row_bytes.len(),
            told,
            memory: memory.collect(),
            functions: core::mem::take(&mut functions),
        };
        if let Some(capture) = &mut state.capture {
            capture.passes.push(Recorded::Pass(recorded));
            capture.uploads.push((rows, self.row_bytes.clone()));
            capture.uploads.extend(self.numbers.uploads());
        }
        Ok(())
    }

    /// Launches everything of a pass that is captured. Returns what was launched.
    fn launch_captured(
        &mut self,
        state: &mut State,
        (kernel, compute): (&'static Kernel, Compute),
        at: [u64; 3],
        sums: u64,
    ) -> Lasting<Vec<CudaFunction>> {
        let numbers = self.numbers.function(state, kernel, compute)?;
        let scale = self.scaling.map(|_| state.scale(compute)).transpose()?;
        let mut rule = Rule { functions: self.functions(state, kernel, compute)?, numbers, scale, at };
        self.launch_kernels(state, kernel, &rule, &mut false)?;
        if self.rows_of.len() * kernel.sums.len() > 0 {
            let fold = (state.fold()?, sums);
            self.launch_fold(state, kernel, &fold)?;
            rule.functions.push(fold.0);
        }
        rule.functions.extend(rule.numbers.into_iter().chain(rule.scale));
        Ok(rule.functions)
    }

    /// Uploads the tables, if they are not those that are there.
    fn upload_tables(&mut self, state: &mut State, at: u64) -> Lasting<()> {
        if self.known_at == Some(at) && self.known == self.new {
            return Ok(());
        }
        let stream = Arc::clone(&state.compute);
        let Tables { tensors, chunks, segments } = &self.new;
        let tables = [tensors, chunks, segments];
        self.known_at = None;
        let mut address = at;
        for table in tables {
            // SAFETY: the buffer has room for the three tables; kernels of earlier passes that read it come
            // before in the order of the stream.
            unsafe { state.tables.upload(&stream, address, bytemuck::cast_slice(table))? };
            address += size_of_val(&table[..]) as u64;
        }
        core::mem::swap(&mut self.known, &mut self.new);
        self.known_at = Some(at);
        Ok(())
    }

    fn upload_rows(&mut self, state: &mut State, at: u64) -> Lasting<()> {
        let stream = Arc::clone(&state.compute);
        let new: Vec<Upload> = self.numbers.uploads().collect();
        for (address, bytes) in &new {
            // SAFETY: the table of powers has room for them, and is read in the order of the stream alone.
            unsafe { state.tables.upload(&stream, *address, bytes)? };
        }
        self.numbers.uploaded();
        // SAFETY: the buffer has room for the rows; kernels of earlier passes that read it come before in the
        // order of the stream.
        unsafe { state.tables.upload(&stream, at, &self.row_bytes) }
    }
}
