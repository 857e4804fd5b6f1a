//! The pass of an offloaded step: chunks travel in both directions while another is stepped.

use super::{LaunchGroup, PassLaunch, StepContext};
use crate::params::slots::Slot;
use crate::{Binding, Result};
use core::ops::Range;
use fallline_core::backend::{AsyncTransfer, Pass, TensorPass, View};
use fallline_core::transfer::AsyncCopy;
use fallline_core::{Backend, Compute, Format, Kernel, Storage};
use std::collections::VecDeque;
use std::sync::Arc;

/// Elements of a chunk: a megabyte in 16 bits, which takes far longer to copy than to begin to.
const CHUNK: usize = 1 << 19;
/// Chunks that are on their way in each direction while one is stepped.
const AHEAD: usize = 2;

/// What the passes of an offloaded step go through.
pub(crate) struct Transfers<'e> {
    pub(crate) device: &'e Arc<dyn Backend>,
    /// Memory of chunks, as far as it is free.
    pub(crate) free: &'e mut Vec<Storage>,
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

impl LaunchGroup {
    /// As [`step`](Run::step), of parameters on another device.
    pub(crate) fn step_offloaded(
        &mut self,
        context: StepContext<'_, '_, '_>,
        transfers: Transfers<'_>,
        begun: &mut bool,
    ) -> Result<()> {
        let compute = self.compute;
        let (slots, index) = self.parts[0].run_offloaded(context, compute, transfers, begun)?;
        slots.iter_mut().filter(|slot| slot.launch == Some(index)).for_each(|slot| slot.steps += 1);
        Ok(())
    }
}

impl PassLaunch {
    /// Runs a pass over parameters on another device, chunk by chunk.
    pub(crate) fn run_offloaded<'b>(
        &mut self,
        context: StepContext<'_, 'b, '_>,
        compute: Compute,
        transfers: Transfers<'_>,
        begun: &mut bool,
    ) -> Result<(&'b mut [Slot], u32)> {
        let StepContext { index, backend, bindings, slots, .. } = context;
        let Some(kernel) = self.stage.kernel() else {
            unreachable!("only single rules are offloaded");
        };
        let mut chunks = cut(bindings, slots, index, self.param.is_some());
        while self.plans.len() < chunks.len() {
            self.plans.push(backend.plan());
        }
        let Transfers { device, free } = transfers;
        let wanted = |chunk: &Chunk<'_>| (chunk.grad, chunk.param);
        let formats: Vec<(Format, Option<Format>)> = chunks.iter().map(wanted).collect();
        let copies = device.require("offload", device.transfers())?;
        copies.transfer(&mut |streams| {
            let (mut coming, mut going) = (VecDeque::new(), VecDeque::new());
            let mut asked = 0;
            for number in 0..formats.len() {
                while asked < formats.len() && asked < number + AHEAD {
                    let to = take(free, copies, formats[asked].0)?;
                    let from = core::mem::take(&mut chunks[asked].grads);
                    coming.push_back(streams.d2h(from, to)?);
                    asked += 1;
                }
                let Some(grad) = coming.pop_front() else { break };
                let grad = AsyncCopy::wait(grad)?;
                let mut param = None;
                if let Some(format) = formats[number].1 {
                    if going.len() >= AHEAD {
                        free.extend(
                            going.pop_front().map(|sent: Box<dyn AsyncCopy>| sent.wait()).transpose()?,
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
                    going.push_back(streams.h2d(param, to)?);
                }
            }
            for sent in going {
                free.push(sent.wait()?);
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
                        true => View::write(master).slice(start, len).with_cast_copy(copy),
                        false => View::read(master).slice(start, len),
                    });
                }
                for ((_, storage), operand) in slot.states.iter_mut().zip(&self.states) {
                    if let &Some(operand) = operand {
                        let stochastic = storage.rounds_stochastically();
                        let mut view = View::write(storage);
                        if stochastic {
                            let key = slot.bits.key(&slot.name, slot.steps + 1, 0, operand);
                            view = view.with_stochastic_rounding(key);
                        }
                        views[operand] = Some(view.slice(start, len));
                    }
                }
                Some(TensorPass { elements: len, constant_set: slot.constant_set as usize })
            },
            constants: &self.constants,
            tensor_scalars: &[],
            plan: &mut self.plans[number],
            sums: &mut [],
            fused: &[],
            checked: false,
        })
    }
}

/// Returns memory for a chunk.
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
fn cut<'s>(bindings: &'s mut [Binding<'_>], slots: &[Slot], index: u32, moves: bool) -> Vec<Chunk<'s>> {
    let mut chunks: Vec<Chunk<'s>> = Vec::new();
    for (place, (binding, slot)) in bindings.iter_mut().zip(slots).enumerate() {
        if slot.launch != Some(index) {
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
