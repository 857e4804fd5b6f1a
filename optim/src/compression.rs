//! 1-bit quantization with error feedback: what the 1-bit optimizers send between ranks instead of a momentum.
//!
//! ```text
//! xₜ ← xₜ + eₜ₋₁                            (error feedback: the residual)
//! s  = ‖xₜ‖ / √n
//! cₜ = s where xₜ ≥ 0, −s elsewhere         (0 counts as positive, and NaN)
//! eₜ = xₜ − cₜ
//! ```
//!
//! # The 1-bit optimizers
//! `OnebitAdam`, `OnebitLamb` and `ZeroOneAdam` (DeepSpeed 0.14.4) have phases, one for all parameters together:
//!
//! 1. The first step only counts: neither parameters nor moments move.
//! 2. Warm-up: the variance is adapted, to gradients that are averaged over the ranks.
//! 3. Compression: the variance is frozen. Gradients are each rank's own, and what becomes of them is compressed.
//!
//! A single rank has nobody to send to: DeepSpeed does not compress there, its `worker_error` and `server_error` stay
//! 0, and they are not kept here. The ranks' residuals are saved with a checkpoint, rank by rank, so that as many
//! ranks resume bit for bit. Others begin from 0. [`mask`](crate::mask) says what to do about elements without a
//! momentum.
//!
//! # Messages
//! A worker compresses its x and sends the signs and s. A server takes the mean of what the workers of
//! its part sent, and compresses that in the same way with a separate residual. Both are [`Compression::quantize_1bit`];
//! [`Compression::all_reduce`] carries signs and scales from rank to rank. With a single rank DeepSpeed does neither.
//!
//! n counts all elements of the buffer. DeepSpeed pads buffers with zeros up to whole bytes for every rank. They take
//! part, also here, when the buffer has them.

use crate::op::{Peers, Runner, Workspace};
pub use crate::params::residuals::Residuals;
use crate::params::residuals::padded;
use fallline_core::Builtins;
use fallline_core::backend::{Pass, TensorPass, View, Views};
use fallline_core::host::{Slice, SliceMut};
use fallline_core::math::sqrt;
use fallline_core::ranks::{Buffer, Communicator};
use fallline_core::{Backend, Compute, Format, Kernel, Link, Result, Storage};

/// The compression of buffers on a backend.
#[derive(Clone, Copy, Debug)]
pub struct Compression {
    rules: &'static Builtins,
}

impl Compression {
    /// Makes one with rules compiled by `K`.
    pub fn new<K: Link>() -> Compression {
        Compression { rules: K::builtins() }
    }

    /// Quantizes `x + error` to the signs of its elements times its root mean square, which is returned, and sets
    /// `error` to the residual.
    ///
    /// # Errors
    /// When the lengths differ or the backend fails.
    pub fn quantize_1bit(
        &self,
        backend: &dyn Backend,
        compute: Compute,
        x: &mut Storage,
        error: &mut Storage,
    ) -> Result<f64> {
        let n = x.len();
        if error.len() != n {
            let what = "the error of a compression".to_owned();
            return Err(fallline_core::Error::Length {
                operation: "compress",
                what,
                expected: n,
                got: error.len(),
            });
        }
        let mut sums = [0.0];
        let views = [Some(View::write(x)), Some(View::read(error))];
        run(backend, compute, self.rules.compensate(), n, views, &[], &mut sums)?;
        let scale = if n == 0 { 0.0 } else { sqrt(sums[0]) / sqrt(n as f64) };
        let views = [Some(View::write(x)), Some(View::write(error))];
        run(backend, compute, self.rules.sign(), n, views, &[scale], &mut [])?;
        Ok(scale)
    }
}

impl Compression {
    /// Multiplies `x` by its [mask](crate::mask), where it has one.
    ///
    /// # Errors
    /// When the backend fails.
    pub fn mask(
        &self,
        (backend, compute): (&dyn Backend, Compute),
        x: &mut Storage,
        mask: Option<&Storage>,
    ) -> Result<()> {
        let Some(mask) = mask else { return Ok(()) };
        let n = x.len();
        let views = [Some(View::write(x)), Some(View::read(mask))];
        run(backend, compute, self.rules.mask(), n, views, &[], &mut [])
    }

    /// All-reduces `x` to the mean of the ranks' x, and multiplies that by the tensor's mask, if it has one. It is
    /// compressed on the way to the rank that computes each part of the mean and on the way back, both with error
    /// feedback. All ranks get the same bits. With one rank nothing is compressed.
    ///
    /// # Errors
    /// When the backend fails or an exchange does.
    pub fn all_reduce(
        &self,
        on: Runner<'_>,
        peers: &mut Peers<'_>,
        workspace: &mut Workspace,
        x: &mut Storage,
    ) -> Result<()> {
        let on = (on.backend, on.compute);
        if let Some(ranks) = peers.ranks {
            self.all_reduce_over(ranks, on, peers.residuals, workspace, x)?;
        }
        self.mask(on, x, peers.mask)
    }

    /// Does the same with the residuals so far; where they are of another length they begin anew.
    ///
    /// # Errors
    /// As [`all_reduce`](Compression::all_reduce).
    pub fn all_reduce_over(
        &self,
        ranks: &dyn Communicator,
        (backend, compute): (&dyn Backend, Compute),
        errors: &mut Option<Box<Residuals>>,
        workspace: &mut Workspace,
        x: &mut Storage,
    ) -> Result<()> {
        let (world, n) = (ranks.world_size(), x.len());
        if n == 0 {
            return Ok(());
        }
        if errors.as_ref().is_none_or(|errors| errors.worker.len() != padded(n, world)) {
            *errors = Some(Box::new(Residuals::new(backend, compute, n, world)?));
        }
        let Some(errors) = errors.as_mut() else { return Ok(()) };
        let format = compute.format();
        let (padded, chunk) = (errors.worker.len(), errors.server.len());
        let mut own = workspace.acquire(backend, compute.format(), padded)?;
        let mut mean = workspace.acquire(backend, compute.format(), chunk)?;
        let (mut host, mut part) = (Buffer::default(), Buffer::default());

        // As a worker: signs of each rank's part, and one scale.
        host.resize(format, n);
        backend.read(x, host.slice_mut())?;
        host.resize(format, padded);
        (n..padded).for_each(|i| host.slice_mut().set(i, 0.0));
        backend.write(&mut own, host.slice())?;
        let scale = self.quantize_1bit(backend, compute, &mut own, &mut errors.worker)?;
        backend.read(&own, host.slice_mut())?;
        let message = chunk / 8 + format.bytes();
        let (mut sent, mut received) = (vec![0; message * world], vec![0; message * world]);
        for (rank, message) in sent.chunks_exact_mut(message).enumerate() {
            pack(host.slice(), rank * chunk, scale, format, message);
        }
        ranks.all_to_all(&sent, &mut received)?;

        // As the server of this rank's part: the mean, compressed again.
        part.resize(format, chunk);
        let scales: Vec<f64> = received.chunks_exact(message).map(|m| scale_of(m, format)).collect();
        match part.slice_mut() {
            SliceMut::F64(part) => add_up(part, &received, message, &scales, 1.0 / world as f64),
            SliceMut::F32(part) => {
                let scales: Vec<f32> = scales.iter().map(|&scale| scale as f32).collect();
                add_up(part, &received, message, &scales, 1.0 / world as f32);
            }
            _ => unreachable!("rules compute in f32 or f64"),
        }
        backend.write(&mut mean, part.slice())?;
        let scale = self.quantize_1bit(backend, compute, &mut mean, &mut errors.server)?;
        backend.read(&mean, part.slice_mut())?;
        pack(part.slice(), 0, scale, format, &mut sent[..message]);
        ranks.all_gather(&sent[..message], &mut received)?;

        host.resize(format, n);
        let mut values = host.slice_mut();
        for (rank, message) in received.chunks_exact(message).enumerate() {
            let scale = scale_of(message, format);
            let start = (rank * chunk).min(n);
            for i in start..((rank + 1) * chunk).min(n) {
                values.set(i, if bit(message, i - start) { scale } else { -scale });
            }
        }
        backend.write(x, host.slice())?;
        workspace.release([own, mean]);
        Ok(())
    }
}

/// Signs as bits, the first in the highest, and the scale behind them in the computed type.
fn pack(values: Slice<'_>, start: usize, scale: f64, format: Format, message: &mut [u8]) {
    let (bits, tail) = message.split_at_mut(message.len() - format.bytes());
    match values {
        Slice::F64(values) => pack_bits(values, start, bits, |x| x.is_sign_positive()),
        Slice::F32(values) => pack_bits(values, start, bits, |x| x.is_sign_positive()),
        _ => unreachable!("rules compute in f32 or f64"),
    }
    match format {
        Format::F64 => tail.copy_from_slice(&scale.to_le_bytes()),
        _ => tail.copy_from_slice(&(scale as f32).to_le_bytes()),
    }
}

fn pack_bits<T: Copy>(values: &[T], start: usize, bits: &mut [u8], positive: impl Fn(T) -> bool) {
    for (byte, values) in bits.iter_mut().zip(values[start..].chunks_exact(8)) {
        *byte = values.iter().fold(0, |byte, &x| byte << 1 | u8::from(positive(x)));
    }
}

fn bit(message: &[u8], i: usize) -> bool {
    message[i / 8] >> (7 - i % 8) & 1 == 1
}

fn scale_of(message: &[u8], format: Format) -> f64 {
    let tail = &message[message.len() - format.bytes()..];
    match format {
        Format::F64 => f64::from_le_bytes(tail.try_into().unwrap_or_default()),
        _ => f64::from(f32::from_le_bytes(tail.try_into().unwrap_or_default())),
    }
}

/// Adds up all workers' signs times their scales times `share`, in the order of the ranks.
fn add_up<T>(part: &mut [T], received: &[u8], message: usize, scales: &[T], share: T)
where
    T: Copy + Default + core::ops::Neg<Output = T> + core::ops::Mul<Output = T> + core::ops::AddAssign,
{
    part.fill(T::default());
    for (message, &scale) in received.chunks_exact(message).zip(scales) {
        let scale = scale * share;
        for (i, sum) in part.iter_mut().enumerate() {
            *sum += if bit(message, i) { scale } else { -scale };
        }
    }
}

/// Runs one pass over one buffer.
fn run<'a>(
    backend: &dyn Backend,
    compute: Compute,
    kernel: &'static Kernel,
    elements: usize,
    views: [Option<View<'a>>; 2],
    own: &[f64],
    sums: &mut [f64],
) -> Result<()> {
    let mut left = Some(views);
    backend.run(Pass {
        kernel,
        compute,
        tensors: &mut |places: &mut Views<'a>| {
            for (place, view) in places.iter_mut().zip(left.take()?) {
                *place = view;
            }
            Some(TensorPass { elements, constant_set: 0 })
        },
        constants: &[1.0],
        tensor_scalars: own,
        plan: &mut backend.plan(),
        sums,
        fused: &[],
        checked: false,
    })
}
