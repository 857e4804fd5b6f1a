//! Offload: parameters and gradients on a device, states and parameters in full precision on the host. Chunks travel in
//! both directions while another is stepped.

use super::run::{Part, Run, Work};
use super::{Driver, Group};
use crate::program::Stage;
use crate::slots::Slot;
use crate::{AnyAlgorithm, Binding, Error, GradRef, ParamFormat, ParamRef, Result};
use core::ops::Range;
use fallline_core::backend::{AsyncTransfer, Pass, TensorPass, View};
use fallline_core::transfer::Copying;
use fallline_core::{Backend, Compute, Format, Kernel, Storage};
use std::collections::VecDeque;
use std::sync::Arc;

/// Elements of a chunk: a megabyte in 16 bits, which takes far longer to copy than to begin to.
const CHUNK: usize = 1 << 19;
/// Chunks that are on their way in each direction while one is stepped.
const AHEAD: usize = 2;

/// Where the parameters of an optimizer are that works on the host.
pub(super) struct Away {
    device: Arc<dyn Backend>,
    /// Whether they are there, once it is known.
    pub(super) known: bool,
    /// Memory that chunks go through, as far as it is free.
    free: Vec<Storage>,
}

/// Why an algorithm cannot be offloaded, if it cannot: only what is element-wise can be stepped in pieces.
///
/// # Errors
/// The reason.
pub fn can_offload(algorithm: &dyn AnyAlgorithm) -> Result<(), String> {
    let name = algorithm.name();
    let apart = |problem: &str| Err(format!("{name} cannot be offloaded: {problem}"));
    if algorithm.modifiers().lookahead.is_some() {
        return apart("Lookahead brings parameters and slow weights together in a pass of its own");
    }
    for program in algorithm.programs() {
        let mut stages = program.iter();
        let alone = match (stages.next(), stages.next()) {
            (Some(Stage::Pass(kernel)), None) => kernel.sums.is_empty() && kernel.tensor_scalars.is_empty(),
            _ => false,
        };
        if !alone {
            return apart("it looks at whole tensors, not at one element after the other");
        }
    }
    Ok(())
}

/// A part of a parameter: which of the bindings, and which of its elements.
struct Piece {
    place: usize,
    elements: Range<usize>,
}

/// Pieces that are stored alike and travel together.
struct Chunk<'s> {
    grads: Vec<View<'s>>,
    params: Vec<View<'s>>,
    pieces: Vec<Piece>,
    grad: Format,
    param: Option<Format>,
    elements: usize,
}

impl Driver {
    /// Keeps states on `host` and computes there, for parameters and gradients that are tensors on the driver's own
    /// device until now. Beside them stand the parameters as they are computed (in `f32`, the state `master` where the
    /// tensors have 16 bits). Gradients are copied down and parameters up in chunks, while others are stepped; what goes
    /// on around a step (norms, clipping, accumulation, averages) stays on the device. The results are those of
    /// [`ParamFormat::Master`] to the bit.
    ///
    /// Where the first step binds memory of the host there is nothing to copy, and everything happens there. What is
    /// written to the tensors between steps is lost.
    ///
    /// # Errors
    /// [`Error::Groups`] for an algorithm that [cannot be offloaded](crate::can_offload), or when the optimizer has
    /// stepped already.
    pub fn offload(&mut self, host: Arc<dyn Backend>) -> Result<()> {
        for group in &self.groups {
            offloads(group)?;
        }
        if self.slots.len() > 0 {
            let problem = "it has stepped already: its states are where they are".into();
            return Err(Error::Groups { algorithm: self.groups[0].algorithm.name(), problem });
        }
        if host.device() != self.backend.device() {
            let device = core::mem::replace(&mut self.backend, host);
            self.away = Some(Away { device, known: false, free: Vec::new() });
        }
        Ok(())
    }

    /// Where gradients and parameters are.
    pub(super) fn near(&self) -> &Arc<dyn Backend> {
        match &self.away {
            Some(away) if away.known => &away.device,
            _ => &self.backend,
        }
    }

    /// Whether parameters are on another device than states.
    pub(super) fn is_away(&self) -> bool {
        self.away.as_ref().is_some_and(|away| away.known)
    }

    /// Finds out where the parameters of the first step are.
    pub(super) fn locate(&mut self, bindings: &[Binding<'_>]) -> Result<()> {
        let Some(away) = self.away.as_mut().filter(|away| !away.known) else { return Ok(()) };
        let mut bound = bindings.iter().filter(|binding| !binding.grad.is_none());
        let Some(first) = bound.next() else { return Ok(()) };
        if first.param.device().is_none_or(|device| device == self.backend.device()) {
            self.away = None;
            return Ok(());
        }
        away.known = true;
        let device = Arc::clone(&away.device);
        self.wrapped.move_to(&device)?;
        self.move_means(&device)
    }

    /// What a step needs of its tensors where they are on another device than the states.
    pub(super) fn check_away(&self, binding: &Binding<'_>, slot: &Slot) -> Result<()> {
        let name = || binding.name.to_owned();
        let on_device = binding.param.device().is_some()
            && match &binding.grad {
                GradRef::Tensor(tensor) => tensor.storage().device().is_some(),
                GradRef::Window(window) => window.sum.storage().device().is_some(),
                _ => false,
            };
        if matches!(binding.grad, GradRef::Rows(_)) {
            let reason = "an offloaded optimizer does not take row-sparse gradients";
            return Err(Error::GradKind { param: name(), reason: reason.into() });
        }
        if !on_device && !binding.grad.is_none() {
            let (expected, got) = (self.near().device(), self.backend.device());
            return Err(Error::OtherDevice { param: name(), expected, got });
        }
        offloads(&self.groups[slot.group])
    }

    /// Copies a parameter from where it is to memory of the own backend.
    pub(super) fn bring(&self, binding: &mut Binding<'_>, to: &mut Storage) -> Result<()> {
        let ParamRef::Tensor(tensor) = &binding.param else {
            unreachable!("what is not a tensor is on the host");
        };
        let values = to.memory_mut().host_mut();
        match values {
            Some(values) => Ok(self.near().read(tensor.storage(), values)?),
            None => {
                let mut values = vec![0.0f32; tensor.storage().len()];
                self.near().read(tensor.storage(), values.as_mut_slice().into())?;
                Ok(self.backend.write(to, values.as_slice().into())?)
            }
        }
    }
}

/// Whether a group's parameters can be stepped in pieces.
fn offloads(group: &Group) -> Result<()> {
    let algorithm = group.algorithm.name();
    if let Err(problem) = can_offload(&*group.algorithm) {
        return Err(Error::Groups { algorithm, problem });
    }
    if matches!(group.params, ParamFormat::Stochastic { .. }) {
        let problem = "it cannot be offloaded with rounding by chance: parameters are kept in full precision";
        return Err(Error::Groups { algorithm, problem: problem.into() });
    }
    Ok(())
}

impl Run {
    /// As [`step`](Run::step), of parameters on another device.
    pub(super) fn step_away(
        &mut self,
        work: Work<'_, '_, '_>,
        away: &mut Away,
        begun: &mut bool,
    ) -> Result<()> {
        let compute = self.compute;
        let (slots, index) = self.parts[0].run_away(work, compute, away, begun)?;
        slots.iter_mut().filter(|slot| slot.run == Some(index)).for_each(|slot| slot.steps += 1);
        Ok(())
    }
}

impl Part {
    /// A pass over parameters on another device, chunk by chunk.
    pub(super) fn run_away<'b>(
        &mut self,
        work: Work<'_, 'b, '_>,
        compute: Compute,
        away: &mut Away,
        begun: &mut bool,
    ) -> Result<(&'b mut [Slot], usize)> {
        let Work { index, backend, bindings, slots, .. } = work;
        let Some(kernel) = self.stage.kernel() else {
            unreachable!("only single rules are offloaded");
        };
        let mut chunks = cut(bindings, slots, index, self.param.is_some());
        while self.plans.len() < chunks.len() {
            self.plans.push(backend.plan());
        }
        let Away { device, free, .. } = away;
        let wanted = |chunk: &Chunk<'_>| (chunk.grad, chunk.param);
        let formats: Vec<(Format, Option<Format>)> = chunks.iter().map(wanted).collect();
        let copies = device.require("offload", device.transfers())?;
        copies.transfer(&mut |transfers| {
            let (mut coming, mut going) = (VecDeque::new(), VecDeque::new());
            let mut asked = 0;
            for number in 0..formats.len() {
                while asked < formats.len() && asked < number + AHEAD {
                    let to = take(free, copies, formats[asked].0)?;
                    let from = core::mem::take(&mut chunks[asked].grads);
                    coming.push_back(transfers.fetch(from, to)?);
                    asked += 1;
                }
                let Some(grad) = coming.pop_front() else { break };
                let grad = Copying::finish(grad)?;
                let mut param = None;
                if let Some(format) = formats[number].1 {
                    if going.len() >= AHEAD {
                        free.extend(
                            going.pop_front().map(|sent: Box<dyn Copying>| sent.finish()).transpose()?,
                        );
                    }
                    param = Some(take(free, copies, format)?);
                }
                let chunk = &chunks[number];
                let memory = (&grad, param.as_mut());
                let ran = self.run_chunk((kernel, compute), backend, number, chunk, memory, slots);
                *begun |= ran.as_ref().map_or_else(fallline_core::Error::may_have_written, |()| true);
                ran?;
                free.push(grad);
                if let Some(param) = param {
                    let to = core::mem::take(&mut chunks[number].params);
                    going.push_back(transfers.send(param, to)?);
                }
            }
            for sent in going {
                free.push(sent.finish()?);
            }
            Ok(())
        })?;
        Ok((slots, index))
    }

    fn run_chunk(
        &mut self,
        (kernel, compute): (&'static Kernel, Compute),
        backend: &dyn Backend,
        number: usize,
        chunk: &Chunk<'_>,
        (grad, param): (&Storage, Option<&mut Storage>),
        slots: &mut [Slot],
    ) -> fallline_core::Result<()> {
        let mut grad = View::read(grad);
        let mut param = param.map(View::write);
        let mut pieces = chunk.pieces.iter();
        let mut rest = slots.iter_mut().enumerate();
        backend.run(Pass {
            kernel,
            compute,
            tensors: &mut |views| {
                let Piece { place, elements } = pieces.next()?;
                let (_, slot) = rest.find(|(i, _)| i == place)?;
                let (start, len) = (elements.start, elements.len());
                if let Some(operand) = self.grad {
                    views[operand] = Some(grad.take(0, len));
                }
                if let (Some(operand), Some(param), Some(master)) = (self.param, &mut param, &mut slot.master)
                {
                    let copy = param.take(0, len);
                    views[operand] = Some(match kernel.operands[operand].written {
                        true => View::write(master).part(start, len).with_copy(copy),
                        false => View::read(master).part(start, len),
                    });
                }
                for ((_, storage), operand) in slot.states.iter_mut().zip(&self.states) {
                    if let &Some(operand) = operand {
                        views[operand] = Some(View::write(storage).part(start, len));
                    }
                }
                Some(TensorPass { elements: len, row: slot.row })
            },
            rows: &self.rows,
            tensor_scalars: &[],
            plan: &mut self.plans[number],
            sums: &mut [],
            beside: &[],
        })
    }
}

/// Memory for a chunk.
fn take(
    free: &mut Vec<Storage>,
    copies: &dyn AsyncTransfer,
    format: Format,
) -> fallline_core::Result<Storage> {
    match free.iter().position(|storage| storage.format() == format) {
        Some(place) => Ok(free.swap_remove(place)),
        None => copies.allocate_pinned(format, CHUNK),
    }
}

/// Cuts a run's parameters into chunks.
fn cut<'s>(bindings: &'s mut [Binding<'_>], slots: &[Slot], index: usize, moves: bool) -> Vec<Chunk<'s>> {
    let mut chunks: Vec<Chunk<'s>> = Vec::new();
    for (place, (binding, slot)) in bindings.iter_mut().zip(slots).enumerate() {
        if slot.run != Some(index) {
            continue;
        }
        let (Some(mut param), Some(mut grad)) = binding.views() else { continue };
        let (formats, all) = ((grad.format(), moves.then(|| param.format())), grad.len());
        let mut start = 0;
        while start < all {
            let open =
                chunks.last().filter(|chunk| (chunk.grad, chunk.param) == formats && chunk.elements < CHUNK);
            if open.is_none() {
                let (grads, params, pieces) = Default::default();
                chunks.push(Chunk { grads, params, pieces, grad: formats.0, param: formats.1, elements: 0 });
            }
            let Some(chunk) = chunks.last_mut() else { break };
            let mut len = (CHUNK - chunk.elements).min(all - start);
            if len < all - start {
                // Blocks of states and steps of sums stay whole.
                len = len / BLOCK * BLOCK;
            }
            if len == 0 {
                chunk.elements = CHUNK;
                continue;
            }
            chunk.grads.push(grad.take(0, len));
            if moves {
                chunk.params.push(param.take(0, len));
            }
            chunk.pieces.push(Piece { place, elements: start..start + len });
            chunk.elements += len;
            start += len;
        }
    }
    chunks
}

/// A multiple of all blocks that states are stored in.
const BLOCK: usize = 4096;
