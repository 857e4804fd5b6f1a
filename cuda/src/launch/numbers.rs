//! The numbers of a pass that are computed on the device: what the host provides for them, and their launch.

use crate::context::{DriverResult, Failure};
use crate::kernels::{WARP, WARPS};
use crate::memory::Buffer;
use crate::ptx::{self, NumberPlaces};
use crate::staging::Upload;
use crate::state::State;
use cudarc::driver::{CudaFunction, CudaSlice, LaunchConfig, PushKernelArg};
use fallline_core::backend::{Computed, SharedNumbers};
use fallline_core::between::Over;
use fallline_core::math::pow;
use fallline_core::{Compute, Error, Kernel, Result};
use std::sync::Arc;

/// What is remembered for the numbers of a place that runs passes.
#[derive(Default)]
pub(crate) struct Numbers {
    /// The rule that the rest is of, by address.
    of: usize,
    powers: Vec<Powers>,
    places: NumberPlaces,
    /// A flag, the totals and their terms.
    work: Buffer,
    call: Option<Call>,
}

/// What a launch is told, in addition to where memory is.
#[derive(Clone, Copy)]
struct Call {
    /// Where the pass's part begins among what is uploaded with its rows: the inputs and the order.
    inputs: u64,
    order: u64,
    sums: u64,
    tensors: u32,
    groups: u32,
    found: u32,
}

/// The powers of a number to all counts that come.
#[derive(Default)]
struct Powers {
    /// The place of the base among the numbers of all tensors.
    place: usize,
    /// What is added to a number of steps at most.
    more: u64,
    base: f64,
    values: Vec<f64>,
    memory: Buffer,
    /// How many of them the device has.
    written: usize,
}

/// Sums that a queued pass has left on the device: where they are, of how many tensors, and how many of each.
pub(super) type Kept = (u64, usize, usize);

/// Returns whether a rule has numbers that follow from sums or from what is remembered.
pub(crate) fn depend(kernel: &Kernel) -> bool {
    kernel.between.declared.depends()
}

/// Returns whether the device can compute them.
pub(crate) fn can_compute(kernel: &Kernel) -> bool {
    !depend(kernel) || kernel.between.record().powers(&kernel.between.declared).is_some()
}

impl Numbers {
    /// Checks what the host provides, and appends it to the rows. `kept` are the sums that the pass before has
    /// left, `memory` is where for each tensor is what is remembered for it.
    pub(crate) fn lay(
        &mut self,
        kernel: &'static Kernel,
        computed: &Computed<'_>,
        (tensors, memory): (usize, &[u64]),
        kept: Option<Kept>,
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        self.clear();
        if !depend(kernel) {
            return Ok(());
        }
        if !can_compute_known(self.of, kernel) {
            let problem = format!("{}: its numbers are computed on the host", kernel.name);
            return Err(Error::Unavailable(problem));
        }
        let declared = &kernel.between.declared;
        let length = |what: &str, expected, got| {
            Err(Error::Length { operation: kernel.name, what: what.into(), expected, got })
        };
        let places = |all: usize| computed.order.iter().all(|placed| (placed.tensor as usize) < all);
        if computed.order.len() != tensors || !places(tensors) {
            return length("the order of the tensors", tensors, computed.order.len());
        }
        for (what, expected, got) in [
            ("the numbers of all tensors", declared.once.len(), computed.once.len()),
            ("the numbers of each tensor", tensors * declared.each.len(), computed.each.len()),
            ("the places of sums", declared.reads.len(), computed.reads.len()),
            ("the places of what is remembered", declared.shared.len(), computed.shared_places.len()),
            ("the places of what is remembered", declared.memory.len(), computed.memory_places.len()),
            ("what is remembered", if declared.memory.is_empty() { 0 } else { tensors }, memory.len()),
        ] {
            if expected != got {
                return length(what, expected, got);
            }
        }
        let (mut sums, mut found) = (0, 0);
        if !declared.reads.is_empty() {
            let needed = computed.first.saturating_add(tensors);
            let Some((at, _, width)) = kept.filter(|(_, of, _)| *of >= needed) else {
                return length("the sums of the pass before", needed, kept.map_or(0, |(_, of, _)| of));
            };
            if let Some(&place) = computed.reads.iter().find(|place| **place >= width) {
                return length("the sums of the pass before", place + 1, width);
            }
            (sums, found) = (at + (computed.first * width * size_of::<f64>()) as u64, width as u32);
        }
        let mut shared = 0;
        if !declared.shared.is_empty() {
            let storage = computed.shared.as_ref().map(SharedNumbers::storage);
            if let (Some(SharedNumbers::Read(_)), true) = (&computed.shared, kernel.between.is_global()) {
                let problem = format!("{}: it changes what is to be read alone", kernel.name);
                return Err(Error::Unavailable(problem));
            }
            let needed = computed.shared_places.iter().max().map_or(0, |place| place + 1);
            let len = storage.map_or(0, |storage| storage.len());
            if len < needed {
                return length("what is remembered", needed, len);
            }
            shared = storage.map_or(0, |storage| storage.address() as u64);
        }
        let of = core::ptr::from_ref(kernel).addr();
        if self.of != of {
            let powers = kernel.between.record().powers(declared).unwrap_or_default();
            let more = powers.iter().map(|power| power.more).max().unwrap_or(0);
            let table = |place| Powers { place, more, ..Powers::default() };
            self.powers = ptx::bases(kernel).into_iter().map(table).collect();
            self.of = of;
        }
        let NumberPlaces { reads, shared: shared_places, memory: memory_places } = &mut self.places;
        for (known, new) in [
            (reads, computed.reads),
            (shared_places, computed.shared_places),
            (memory_places, computed.memory_places),
        ] {
            known.clear();
            known.extend_from_slice(new);
        }
        self.powers.iter_mut().for_each(|powers| powers.extend(computed.once[powers.place], computed.most));
        bytes.resize(bytes.len().next_multiple_of(size_of::<u64>()), 0);
        let inputs = bytes.len() as u64;
        bytes.extend(shared.to_le_bytes());
        bytes.extend([0; size_of::<u64>()]);
        for powers in &self.powers {
            // Where they are is known once there is memory for them.
            bytes.extend([0; size_of::<u64>()]);
            bytes.extend((powers.values.len() as f64 - 1.0).to_le_bytes());
        }
        for number in computed.once.iter().chain(computed.each) {
            bytes.extend(number.to_le_bytes());
        }
        let order = bytes.len() as u64;
        for placed in computed.order {
            bytes.extend(placed.tensor.to_le_bytes());
            bytes.extend(placed.group.to_le_bytes());
            if !declared.memory.is_empty() {
                bytes.extend(memory[placed.tensor as usize].to_le_bytes());
            }
        }
        let groups = if declared.over == Over::Group { computed.groups as u32 } else { 1 };
        if let Some(placed) =
            computed.order.iter().find(|placed| placed.group >= groups.max(computed.groups as u32))
        {
            return length("the groups", placed.group as usize + 1, computed.groups);
        }
        if tensors > 0 {
            let tensors = tensors as u32;
            self.call = Some(Call { inputs, order, sums, tensors, groups, found });
        }
        Ok(())
    }

    /// Returns the bytes of what the kernel works on.
    fn room(&self, kernel: &Kernel) -> usize {
        let rows = self.call.map_or(0, |call| call.tensors as usize + call.groups as usize);
        size_of::<f64>() * (1 + rows * kernel.between.declared.totals.len())
    }

    /// Loads the kernel and reserves memory for a launch, if there is one: for the next one too, so that one can be
    /// captured.
    pub(crate) fn ready(
        &mut self,
        state: &mut State,
        kernel: &'static Kernel,
        compute: Compute,
        bytes: &mut [u8],
    ) -> DriverResult<Option<CudaFunction>> {
        let Some(call) = self.call else { return Ok(None) };
        self.work.reserve(&state.ctx, self.room(kernel))?;
        for (i, powers) in self.powers.iter_mut().enumerate() {
            let before = powers.memory.at(0);
            let at = powers.memory.reserve(&state.ctx, size_of::<f64>() * (powers.values.len() + 2))?;
            if before != Some(at) {
                powers.written = 0;
            }
            tell(bytes, call, i, at);
        }
        self.function(state, kernel, compute)
    }

    /// Returns the kernel, if there is something to launch.
    pub(crate) fn function(
        &self,
        state: &mut State,
        kernel: &'static Kernel,
        compute: Compute,
    ) -> DriverResult<Option<CudaFunction>> {
        match self.call {
            Some(_) => state.kernels.numbers(&state.ctx, kernel, compute, &self.places).map(Some),
            None => Ok(None),
        }
    }

    /// Has nothing to launch.
    pub(crate) fn clear(&mut self) {
        self.call = None;
    }

    /// Returns the same in a step that is captured, in which nothing is allocated. None where something is missing.
    pub(crate) fn ready_again(&mut self, kernel: &'static Kernel, bytes: &mut [u8]) -> Option<()> {
        let Some(call) = self.call else { return Some(()) };
        self.work.at(self.room(kernel))?;
        for (i, powers) in self.powers.iter_mut().enumerate() {
            let at = powers.memory.at(size_of::<f64>() * powers.values.len())?;
            tell(bytes, call, i, at);
        }
        Some(())
    }

    /// Returns the powers that the device has not got yet.
    pub(crate) fn uploads(&self) -> impl Iterator<Item = Upload> {
        self.powers.iter().filter(|_| self.launches()).filter_map(|powers| {
            let (from, at) = (powers.written, powers.memory.at(0)?);
            let bytes: Vec<u8> = powers.values[from..].iter().flat_map(|power| power.to_le_bytes()).collect();
            (!bytes.is_empty()).then_some((at + (size_of::<f64>() * from) as u64, bytes))
        })
    }

    /// Notes that they were uploaded.
    pub(crate) fn uploaded(&mut self) {
        if self.launches() {
            self.powers.iter_mut().for_each(|powers| powers.written = powers.values.len());
        }
    }

    /// Returns where the flag is that says whether the pass is left out.
    pub(crate) fn skip(&self) -> u64 {
        self.work.at(0).unwrap_or(0)
    }

    /// Returns whether there is something to launch.
    pub(crate) fn launches(&self) -> bool {
        self.call.is_some()
    }

    /// Returns the addresses that a launch is told.
    pub(crate) fn told(&self) -> [u64; 2] {
        [self.call.map_or(0, |call| call.sums), self.work.at(0).unwrap_or(0)]
    }

    /// Returns what a launch works on.
    pub(crate) fn memory(&self) -> Option<Arc<CudaSlice<u8>>> {
        self.work.owner()
    }

    /// Launches the kernel, if there is something to compute. The rows and what was laid behind them are at `rows`.
    pub(crate) fn launch(
        &self,
        state: &mut State,
        kernel: &'static Kernel,
        function: Option<&CudaFunction>,
        rows: u64,
    ) -> DriverResult<()> {
        let (Some(call), Some(function)) = (self.call, function) else { return Ok(()) };
        let Call { inputs, order, sums, tensors, groups, found } = call;
        let work = self.work.at(0).unwrap_or(0);
        let threads = WARPS as u32 * WARP;
        let blocks = if kernel.between.is_global() { 1 } else { tensors.div_ceil(threads) };
        let config =
            LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
        let stream = Arc::clone(&state.ctx.compute);
        let (inputs, order) = (rows + inputs, rows + order);
        let mut call = stream.launch_builder(function);
        call.arg(&rows).arg(&inputs).arg(&order).arg(&sums).arg(&work);
        call.arg(&tensors).arg(&groups).arg(&found);
        state.ctx.running(kernel.name);
        // SAFETY: the arguments are those of the kernel's interface. The rows and what is behind them were laid out
        // for it, the sums are those of as many tensors, and the scalars are borrowed mutably.
        unsafe { call.launch(config) }.map_err(Failure::at("launching a kernel"))?;
        Ok(())
    }
}

/// As [`can_compute`], where the rule is not the one that was laid last.
fn can_compute_known(of: usize, kernel: &Kernel) -> bool {
    of == core::ptr::from_ref(kernel).addr() || can_compute(kernel)
}

/// Writes where a table of powers is.
fn tell(bytes: &mut [u8], call: Call, table: usize, at: u64) {
    let start = call.inputs as usize + 16 * (1 + table);
    bytes[start..start + size_of::<u64>()].copy_from_slice(&at.to_le_bytes());
}

impl Powers {
    /// Computes those that are missing, for counts of at most `most` steps.
    fn extend(&mut self, base: f64, most: u64) {
        if self.base.to_bits() != base.to_bits() || self.values.is_empty() {
            (self.base, self.written) = (base, 0);
            self.values.clear();
            self.values.push(pow(base, 0));
        }
        let most = most.saturating_add(self.more);
        // All further ones are as the last.
        let ends = |last: f64| base == 1.0 || (last == 0.0 && (0.0..1.0).contains(&base));
        while (self.values.len() as u64) <= most && !self.values.last().is_some_and(|last| ends(*last)) {
            self.values.push(pow(base, self.values.len() as u64));
        }
    }
}
