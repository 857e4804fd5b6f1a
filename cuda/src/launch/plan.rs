//! What a place that runs passes keeps between them: tables, rows of scalars, and their memory.

use super::numbers::{Kept, Numbers};
use super::operand::{self, length};
use crate::context::on_device;
use crate::memory::Buffer;
use crate::ptx::Stored;
use crate::state::State;
use crate::tables::Tables;
use fallline_core::backend::{TensorPass, View};
use fallline_core::reduction::{SEGMENT, segments};
use fallline_core::{Compute, Error, Format, Kernel, Result, Storage};

/// Elements of a chunk, which is one warp's work, where a rule has no sums (else it is a segment). They give enough
/// warps for a device from a million elements on.
const CHUNK: usize = 1024;

/// What the device keeps between passes.
#[derive(Default)]
pub(crate) struct CudaPlan {
    /// What the tables on the device say; uploaded again when it changes.
    pub(super) known: Tables,
    pub(super) new: Tables,
    /// Where they are, once they are there.
    pub(super) known_at: Option<u64>,
    /// How the operands are stored, a row for each tensor.
    pub(super) stored: Vec<Stored>,
    /// The keys of what is rounded stochastically, a row for each tensor; behind them the fours of elements that come
    /// before its first.
    pub(super) keys: Vec<u64>,
    /// Where they are behind the rows of scalars, if anything is.
    pub(super) keys_at: Option<u64>,
    /// Whether each of them is in managed memory; empty where none is.
    pub(super) managed: Vec<bool>,
    /// For each tensor the row of scalars that it shares.
    pub(super) rows_of: Vec<usize>,
    /// Where some are taken in parts, the row of each of those that are whole.
    pub(super) wholes: Vec<usize>,
    /// Where is for each of those what is remembered for it, if the rule's numbers follow from that.
    pub(super) memory: Vec<u64>,
    pub(super) launches: Vec<Launch>,
    pub(super) tables: Buffer,
    pub(super) rows: Buffer,
    pub(super) partials: Buffer,
    pub(super) sums: Buffer,
    /// The sums of those that are taken in parts.
    pub(super) whole_sums: Buffer,
    pub(super) row_bytes: Vec<u8>,
    pub(super) sum_bytes: Vec<u8>,
    /// How many sums of how many tensors the last queued pass has left on the device.
    pub(super) kept: Option<(usize, usize)>,
    pub(super) numbers: Numbers,
    pub(super) scaling: Option<Scaling>,
    /// Those of the fused rules, launched before or after the pass's own.
    pub(super) fused: Vec<CudaPlan>,
}

/// The gradient's factor in rows of scalars, to be multiplied by one on the device.
#[derive(Clone, Copy)]
pub(super) struct Scaling {
    /// Where the rows' own factors are, behind the rows.
    pub(super) scales: u64,
    pub(super) rows: u32,
    pub(super) bytes: u32,
}

/// Chunks of tensors that are stored alike.
pub(super) struct Launch {
    pub(super) stored: Vec<Stored>,
    pub(super) first: usize,
    pub(super) count: usize,
}

impl CudaPlan {
    /// Forgets the tensors of the last pass.
    pub(super) fn clear(&mut self) {
        self.new.tensors.clear();
        self.new.segments.clear();
        self.new.parts.clear();
        self.stored.clear();
        self.managed.clear();
        self.keys.clear();
        self.rows_of.clear();
        self.wholes.clear();
        self.memory.clear();
    }

    /// Returns how many tensors have scalars and sums of their own.
    pub(super) fn tensors(&self) -> usize {
        if self.wholes.is_empty() { self.rows_of.len() } else { self.wholes.len() }
    }

    /// Returns for each of those the row of scalars that it shares.
    fn shared_rows(&self) -> impl Iterator<Item = usize> {
        let alone = if self.wholes.is_empty() { &self.rows_of[..] } else { &[] };
        alone.iter().chain(&self.wholes).copied()
    }

    /// Has tensors taken in so many parts: rows of scalars and sums are those of the whole ones.
    pub(super) fn unite(&mut self, kernel: &Kernel, parts: &[usize]) -> Result<()> {
        let count = parts.iter().fold(0usize, |all, &parts| all.saturating_add(parts));
        if count != self.rows_of.len() && !parts.is_empty() {
            return Err(length(kernel, "the parts of tensors", self.rows_of.len(), count));
        }
        let width = 2 * kernel.operands.len() + 2;
        let mut first = 0;
        for (whole, &parts) in parts.iter().enumerate() {
            // One without parts has no row that anybody reads.
            self.wholes.push(self.rows_of.get(first).copied().unwrap_or(0));
            for part in first..first + parts {
                if !kernel.tensor_scalars.is_empty() {
                    let last = &mut self.new.tensors[(part + 1) * width - 1];
                    *last = *last >> 32 << 32 | whole as u64;
                }
            }
            self.new.parts.extend([first as u64, parts as u64]);
            first += parts;
        }
        Ok(())
    }

    /// Adds a tensor to the table, by the views of a rule's operands, which are checked.
    pub(super) fn add<'v>(
        &mut self,
        state: &State,
        kernel: &Kernel,
        number: usize,
        views: impl Iterator<Item = Option<&'v View<'v>>>,
        tensor: TensorPass,
    ) -> Result<()> {
        let index = self.rows_of.len();
        let mut fours_before = None;
        for (operand, view) in kernel.operands.iter().zip(views) {
            let args = operand::check(state.ctx.device, kernel, number, operand, view, tensor.elements)?;
            self.new.tensors.extend(args.addresses);
            self.stored.push(args.stored);
            self.keys.push(args.key);
            if let Some(fours) = args.fours_before
                && *fours_before.get_or_insert(fours) != fours
            {
                let problem = format!("{}: operands whose elements are counted differently", kernel.name);
                return Err(Error::Unavailable(problem));
            }
        }
        self.keys.push(fours_before.unwrap_or(0));
        let row = if kernel.tensor_scalars.is_empty() { tensor.constant_set } else { index };
        let count = segments(tensor.elements);
        let first_segment =
            self.new.segments.last_chunk().map_or(0, |&[first, count]| (first + count) as usize);
        if first_segment + count > u32::MAX as usize || index > u32::MAX as usize {
            let problem = format!("{}: more than 2^44 elements in one pass", kernel.name);
            return Err(Error::Unavailable(problem));
        }
        self.new.tensors.extend([tensor.elements as u64, (first_segment as u64) << 32 | row as u64]);
        self.new.segments.extend([first_segment as u64, count as u64]);
        self.rows_of.push(tensor.constant_set);
        Ok(())
    }

    /// Finds out which operands are in managed memory.
    pub(super) fn find_managed(&mut self, state: &State, kernel: &Kernel) {
        if !state.managed.is_empty() {
            let width = 2 * kernel.operands.len() + 2;
            let records = self.new.tensors.chunks_exact(width);
            let addresses = records.flat_map(|record| record[..width - 2].iter().step_by(2));
            self.managed.extend(addresses.map(|&address| state.managed.has(address)));
        }
    }

    /// Returns the sums that the last queued pass has left.
    pub(super) fn kept(&self) -> Option<Kept> {
        let (tensors, width) = self.kept?;
        let sums = if self.wholes.is_empty() { &self.sums } else { &self.whole_sums };
        Some((sums.at(0).unwrap_or(0), tensors, width))
    }

    /// Packs the constants in the compute type: the pass's own, or, where tensors have scalars, one set for each
    /// tensor. It leaves room for those that are computed on the device.
    pub(super) fn pack_constants(
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
        let expected = self.tensors() * own_width;
        if let Some(own) = own.filter(|own| own.len() != expected) {
            return Err(length(kernel, "the tensors' own scalars", expected, own.len()));
        }
        let mut bytes = core::mem::take(&mut self.row_bytes);
        bytes.clear();
        let mut push = |row: &[f64]| match compute {
            Compute::F32 => row.iter().for_each(|&x| bytes.extend((x as f32).to_le_bytes())),
            Compute::F64 => row.iter().for_each(|&x| bytes.extend(x.to_le_bytes())),
        };
        if own_width == 0 {
            push(shared);
        } else {
            for (i, row) in self.shared_rows().enumerate() {
                push(&shared[row * width..][..width]);
                match own {
                    Some(own) => push(&own[i * own_width..][..own_width]),
                    None => (0..own_width).for_each(|_| push(&[0.0])),
                }
            }
        }
        self.row_bytes = bytes;
        // Behind the rows, where they change in every step as those do.
        self.keys_at = None;
        if self.stored.iter().any(|stored| stored.stochastic) {
            self.row_bytes.resize(self.row_bytes.len().next_multiple_of(size_of::<u64>()), 0);
            self.keys_at = Some(self.row_bytes.len() as u64);
            self.keys.iter().for_each(|key| self.row_bytes.extend(key.to_le_bytes()));
        }
        Ok(())
    }

    /// Lays the rows' own factors of the gradient behind the rows, where one on the device multiplies them.
    pub(super) fn pack_gradient_factors(
        &mut self,
        state: &State,
        (kernel, compute): (&Kernel, Compute),
        shared: &[f64],
        factor: Option<(&Storage, usize)>,
    ) -> Result<()> {
        self.scaling = None;
        let Some((storage, place)) = factor else { return Ok(()) };
        on_device(state.ctx.device, kernel.name, "the factor of the gradients", storage)?;
        if place >= storage.len() || storage.format() != Format::F64 {
            return Err(length(kernel, "the factor of the gradients", place + 1, storage.len()));
        }
        let (width, own_width) = (1 + kernel.scalars.len(), kernel.tensor_scalars.len());
        let mut bytes = core::mem::take(&mut self.row_bytes);
        bytes.resize(bytes.len().next_multiple_of(size_of::<u64>()), 0);
        let scales = bytes.len() as u64;
        let factor = storage.address() + place * size_of::<f64>();
        bytes.extend((factor as u64).to_le_bytes());
        let mut push = |row: usize| bytes.extend(shared[row * width].to_le_bytes());
        let rows = match own_width {
            0 => shared.len() / width,
            _ => self.tensors(),
        };
        match own_width {
            0 => (0..rows).for_each(&mut push),
            _ => self.shared_rows().for_each(&mut push),
        }
        self.row_bytes = bytes;
        let bytes = ((width + own_width) * compute.format().bytes()) as u32;
        self.scaling = (rows > 0).then_some(Scaling { scales, rows: rows as u32, bytes });
        Ok(())
    }

    /// Cuts the tensors into chunks, those that are stored alike one after another.
    pub(super) fn tile(&mut self, kernel: &Kernel) {
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
}
