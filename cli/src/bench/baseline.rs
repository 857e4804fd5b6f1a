//! What a step on the CPU is compared with: the fastest way known to move its streams, in the same run.
//!
//! Which loop is the fastest depends on the machine, so all of them take part. After two rounds the fastest ones remain.

use super::{Passes, ROUNDS};
use crate::error::Result;
use fallline::core::{Operand, Role, fallible};
use fallline::cpu::stream::{StreamLoop, StreamOperand};
use fallline::{Backend, Cpu, Format, Tensor};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

/// Rounds in which all loops take part, the first of which does not count.
const PROBED: usize = 2;
/// Loops that remain.
const KEPT: usize = 2;

/// The pages of a parameter's and a gradient's memory. States always ask for huge ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Pages {
    /// Those of a `Vec`
    Ordinary,
    /// Those of a tensor, which asks for huge ones
    Huge,
}

impl Pages {
    /// Returns the name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Pages::Ordinary => "ordinary",
            Pages::Huge => "huge",
        }
    }
}

/// The bytes of a stream.
enum Bytes {
    Ordinary(Vec<u8>),
    Huge(Tensor),
}

impl Bytes {
    fn as_mut_slice(&mut self) -> &mut [u8] {
        match self {
            Bytes::Ordinary(bytes) => bytes,
            Bytes::Huge(numbers) => numbers.as_mut_slice::<f32>().map_or(&mut [], bytemuck::cast_slice_mut),
        }
    }
}

/// A mix of streams on one kind of pages, and the loops over it.
struct Streams {
    streams: Vec<(&'static str, Bytes)>,
    /// Each loop's times, in seconds.
    loops: Vec<(StreamLoop, Vec<f64>)>,
}

/// The passes of a step without arithmetic.
pub struct Baseline<'p> {
    passes: &'p Passes<'p>,
    elements: usize,
    /// On the same kinds of pages as the step's operands.
    same: Streams,
    /// All on huge pages, where that is something else.
    huge: Option<Streams>,
}

/// Returns the stream that an operand is. Passes share their operands' memory. A rule names parameter and gradient as it
/// likes.
fn stream_of(operand: &Operand) -> &'static str {
    match operand.role {
        Role::Param => "param",
        Role::Grad => "grad",
        _ => operand.name,
    }
}

impl Streams {
    fn new(
        passes: &Passes<'_>,
        (elements, dims): (usize, &[usize]),
        cpu: &Arc<Cpu>,
        pages: Pages,
    ) -> Result<Streams> {
        let mut streams: Vec<(&'static str, Bytes)> = Vec::new();
        for operand in passes.kernels.iter().flat_map(|kernel| kernel.operands) {
            if streams.iter().any(|(known, _)| *known == stream_of(operand)) {
                continue;
            }
            let bytes = (elements as f64 * passes.bytes_of(operand, dims)) as usize;
            let is_users = matches!(operand.role, Role::Param | Role::Grad);
            let bytes = match is_users && pages == Pages::Ordinary {
                true => Bytes::Ordinary(fallible::filled(1u8, bytes, "--elements")?),
                false => {
                    fallible::check(Some(bytes), "--elements")?;
                    let backend = Arc::clone(cpu) as Arc<dyn Backend>;
                    let numbers = Tensor::zeros(&backend, Format::F32, [bytes.div_ceil(size_of::<f32>())])?;
                    let mut bytes = Bytes::Huge(numbers);
                    bytes.as_mut_slice().fill(1);
                    bytes
                }
            };
            streams.push((stream_of(operand), bytes));
        }
        let loops = StreamLoop::ALL.map(|how| (how, Vec::with_capacity(ROUNDS + 1))).into();
        Ok(Streams { streams, loops })
    }

    /// Moves what a step moves, once by each loop.
    fn round(&mut self, passes: &Passes<'_>, elements: usize, cpu: &Cpu) {
        for (how, times) in &mut self.loops {
            let mut took = 0.0;
            let mut timed = |streams: &mut [StreamOperand<'_>]| {
                let start = Instant::now();
                black_box(cpu.stream_copy(elements, streams, black_box(0), *how));
                took += start.elapsed().as_secs_f64();
            };
            if passes.reads_grad
                && let Some((_, grad)) = self.streams.iter_mut().find(|(known, _)| *known == "grad")
            {
                timed(&mut [StreamOperand::Read(grad.as_mut_slice())]);
            }
            for kernel in &passes.kernels {
                let each = self.streams.iter_mut().filter_map(|(known, bytes)| {
                    let operand = kernel.operands.iter().find(|operand| stream_of(operand) == *known)?;
                    let bytes = bytes.as_mut_slice();
                    Some(if operand.written {
                        StreamOperand::Update(bytes)
                    } else {
                        StreamOperand::Read(bytes)
                    })
                });
                timed(&mut each.collect::<Vec<_>>());
            }
            times.push(took);
        }
        if self.loops.len() > KEPT && self.loops[0].1.len() == PROBED {
            self.loops.sort_by(|(_, one), (_, other)| one[PROBED - 1].total_cmp(&other[PROBED - 1]));
            self.loops.truncate(KEPT);
        }
    }

    /// Returns the nanoseconds an element of the fastest loop.
    fn fastest(&mut self, elements: usize) -> f64 {
        let each = self.loops.iter_mut().map(|(_, times)| super::per_element(times, elements).0);
        each.fold(f64::INFINITY, f64::min)
    }
}

impl<'p> Baseline<'p> {
    /// Allocates the streams of the passes over tensors of these dimensions, `elements` in all.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(
        passes: &'p Passes<'p>,
        elements: usize,
        dims: &[usize],
        cpu: &Arc<Cpu>,
        pages: Pages,
    ) -> Result<Baseline<'p>> {
        let of = |pages| Streams::new(passes, (elements, dims), cpu, pages);
        let huge = (pages == Pages::Ordinary).then(|| of(Pages::Huge)).transpose()?;
        Ok(Baseline { passes, elements, same: of(pages)?, huge })
    }

    /// Times a round.
    pub fn round(&mut self, cpu: &Cpu) {
        let Baseline { passes, elements, same, huge } = self;
        [Some(same), huge.as_mut()]
            .into_iter()
            .flatten()
            .for_each(|streams| streams.round(passes, *elements, cpu));
    }

    /// Returns the nanoseconds an element of the fastest loop on the step's kinds of pages, and on huge ones.
    pub fn ns_per_element(&mut self) -> (f64, f64) {
        let same = self.same.fastest(self.elements);
        (same, self.huge.as_mut().map_or(same, |huge| huge.fastest(self.elements)))
    }
}
