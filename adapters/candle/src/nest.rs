//! candle lends a variable's memory to one in-place operation at a time, while a step wants all of them at once. So the
//! operations are nested: each one lends its memory to the next, and the innermost one steps.

#[cfg(feature = "cuda")]
mod cuda;

use crate::{Error, Result};
use candle_core::{CpuStorage, InplaceOp1, Layout, Storage, StorageRef, Tensor, Var};
use fallline_core::host::{Slice, SliceMut};
use fallline_optim::{Binding, Driver, GradRef, ParamRef, StepReport, param};
use std::cell::RefCell;

/// A gradient that is held for a step.
pub(crate) type Guard<'a> = Option<(StorageRef<'a>, &'a Layout)>;

/// Bytes of the stack that must be left for an operation and for the step itself.
const RED_ZONE: usize = 256 << 10;
/// Bytes of the stack that a nested operation takes, at most.
const FRAME: usize = if cfg!(debug_assertions) { 16 << 10 } else { 4 << 10 };

/// Where variables are.
pub(crate) enum Target {
    Host,
    #[cfg(feature = "cuda")]
    Cuda(std::sync::Arc<fallline_cuda::Cuda>),
}

impl Target {
    /// Returns whether tensors of a device are there.
    pub(crate) fn reaches(&self, device: &candle_core::Device) -> bool {
        match self {
            Target::Host => device.is_cpu(),
            #[cfg(feature = "cuda")]
            Target::Cuda(cuda) => device
                .as_cuda_device()
                .is_ok_and(|device| device.cuda_stream().cu_stream() == cuda.stream().cu_stream()),
        }
    }
}

/// Lists whose memory stays from step to step, while what they borrow does not.
#[derive(Default)]
pub(crate) struct Buffers {
    pub(crate) gradients: Vec<Option<Tensor>>,
    guards: Vec<Guard<'static>>,
    bindings: Vec<Binding<'static>>,
}

impl Buffers {
    pub(crate) fn guards<'a>(&mut self) -> Vec<Guard<'a>> {
        core::mem::take(&mut self.guards)
    }

    pub(crate) fn bindings<'a>(&mut self) -> Vec<Binding<'a>> {
        core::mem::take(&mut self.bindings)
    }

    pub(crate) fn keep(&mut self, guards: Vec<Guard<'_>>, bindings: Vec<Binding<'static>>) {
        self.guards = recycled(guards);
        self.bindings = bindings;
    }
}

/// Returns an empty list in the memory of another one, whose elements differ in their lifetime only.
fn recycled<A, B>(mut list: Vec<A>) -> Vec<B> {
    list.clear();
    list.into_iter().filter_map(|_| None).collect()
}

/// What a step needs of the variables.
pub(crate) struct Lent<'a> {
    pub(crate) variables: &'a [(String, Var)],
    pub(crate) gradients: &'a [Guard<'a>],
    #[cfg(feature = "cuda")]
    pub(crate) target: &'a Target,
    /// Whether bindings have shapes: the driver keeps them after the first step, and they take memory.
    pub(crate) with_shapes: bool,
}

/// What a step did, and the list of its bindings to use again.
type Stepped = Result<(StepReport, Vec<Binding<'static>>)>;

impl Lent<'_> {
    /// Steps all variables at once. `bindings` is an empty list.
    pub(crate) fn step(&self, driver: &mut Driver, bindings: Vec<Binding<'static>>) -> Stepped {
        nest(self, 0, driver, bindings)
    }

    fn bind<'b>(&'b self, i: usize, memory: impl Into<ParamRef<'b>>, gradient: GradRef<'b>) -> Binding<'b> {
        let (name, variable) = &self.variables[i];
        let binding = param(name, memory, gradient);
        if self.with_shapes { binding.shaped(variable.dims()) } else { binding }
    }
}

/// Borrows the variables from `i` on, in addition to those that are bound, and steps.
fn nest<'a>(lent: &'a Lent<'a>, i: usize, driver: &mut Driver, bound: Vec<Binding<'a>>) -> Stepped {
    let Some((name, variable)) = lent.variables.get(i) else {
        let mut bound = bound;
        let report = driver.step(&mut bound)?;
        return Ok((report, recycled(bound)));
    };
    let mut stepped = None;
    let result = &mut stepped;
    let operation = Operation(RefCell::new(Some(|memory: Memory<'_>| {
        with_binding(lent, i, memory, |binding| {
            // Bindings are covariant: the ones so far are borrowed for a shorter time from here on.
            let mut bound: Vec<Binding<'_>> = bound;
            bound.push(binding);
            let stack = RED_ZONE + FRAME * (lent.variables.len() - i);
            *result = Some(stacker::maybe_grow(RED_ZONE, stack, || nest(lent, i + 1, driver, bound)));
        })
    })));
    variable.inplace_op1(&operation)?;
    stepped.unwrap_or_else(|| {
        Err(Error::Variable { name: name.clone(), problem: "was not lent by candle".into() })
    })
}

/// Makes a binding of a variable's memory and its gradient's for as long as `with` takes.
fn with_binding(
    lent: &Lent<'_>,
    i: usize,
    memory: Memory<'_>,
    with: impl FnOnce(Binding<'_>),
) -> candle_core::Result<()> {
    let gradient = lent.gradients[i].as_ref().map(|(storage, layout)| (&**storage, *layout));
    match memory {
        Memory::Host(storage, layout) => {
            let gradient = match gradient {
                None => GradRef::None,
                Some((Storage::Cpu(storage), layout)) => host_gradient(storage, layout)?.into(),
                Some(_) => return Err(candle_core::Error::msg("a gradient on another device")),
            };
            with(lent.bind(i, host_parameter(storage, layout)?, gradient));
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Memory::Cuda(storage, layout) => cuda::with_binding(lent, i, (storage, layout), gradient, with),
    }
}

/// Memory that candle lends to an operation.
enum Memory<'m> {
    Host(&'m mut CpuStorage, &'m Layout),
    #[cfg(feature = "cuda")]
    Cuda(&'m mut candle_core::CudaStorage, &'m Layout),
}

/// An in-place operation that hands the memory on, once.
struct Operation<F>(RefCell<Option<F>>);

impl<F: FnOnce(Memory<'_>) -> candle_core::Result<()>> Operation<F> {
    fn run(&self, memory: Memory<'_>) -> candle_core::Result<()> {
        match self.0.borrow_mut().take() {
            Some(work) => work(memory),
            None => Err(candle_core::Error::msg("an operation that is run twice")),
        }
    }
}

impl<F: FnOnce(Memory<'_>) -> candle_core::Result<()>> InplaceOp1 for Operation<F> {
    fn name(&self) -> &'static str {
        "fallline"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        self.run(Memory::Host(storage, layout))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut candle_core::CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        self.run(Memory::Cuda(storage, layout))
    }
}

fn host_parameter<'m>(storage: &'m mut CpuStorage, layout: &Layout) -> candle_core::Result<SliceMut<'m>> {
    let elements = range(layout)?;
    Ok(match storage {
        CpuStorage::F64(values) => (&mut values[elements]).into(),
        CpuStorage::F32(values) => (&mut values[elements]).into(),
        CpuStorage::BF16(values) => (&mut values[elements]).into(),
        CpuStorage::F16(values) => (&mut values[elements]).into(),
        _ => return Err(candle_core::Error::msg("a variable of integers")),
    })
}

fn host_gradient<'m>(storage: &'m CpuStorage, layout: &Layout) -> candle_core::Result<Slice<'m>> {
    let elements = range(layout)?;
    Ok(match storage {
        CpuStorage::F64(values) => (&values[elements]).into(),
        CpuStorage::F32(values) => (&values[elements]).into(),
        CpuStorage::BF16(values) => (&values[elements]).into(),
        CpuStorage::F16(values) => (&values[elements]).into(),
        _ => return Err(candle_core::Error::msg("a gradient of integers")),
    })
}

/// Returns where the elements of a contiguous tensor are in its memory.
fn range(layout: &Layout) -> candle_core::Result<core::ops::Range<usize>> {
    let offsets =
        layout.contiguous_offsets().ok_or_else(|| candle_core::Error::msg("a tensor that is not contiguous"));
    offsets.map(|(start, end)| start..end)
}
