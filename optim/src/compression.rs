//! One bit an element: what the 1-bit optimizers send between ranks instead of a momentum.
//!
//! ```text
//! xₜ ← xₜ + eₜ₋₁                            (error feedback: what was left out before)
//! s  = ‖xₜ‖ / √n
//! cₜ = s where xₜ ≥ 0, −s elsewhere         (0 counts as positive, and NaN)
//! eₜ = xₜ − cₜ
//! ```
//!
//! A worker compresses its x and sends the signs and s. A server takes the mean of what the workers of its part sent,
//! and compresses that in the same way with an error of its own. Both are [`Compression::compress`]; carrying signs
//! from rank to rank is the communicator's work. With a single rank DeepSpeed does neither, and so no name of the registry
//! comes here until there are several.
//!
//! n counts all elements of the buffer: DeepSpeed fills buffers up to whole bytes for every rank with zeros, which take
//! part, and so do here, when the buffer has them.

use fallline_core::backend::{Pass, TensorPass, View, Views};
use fallline_core::math::sqrt;
use fallline_core::{Backend, Compute, Kernel, Link, Result, Storage, rule};

rule! {
    /// What was left out before is added, and the square of the whole summed up.
    pub CompensateRule(h: (), t) {}
    element(error: State) -> (x: State) sum(x2) {
        x = x + error;
        x2 = x * x;
    }
}

rule! {
    /// A sign and a scale instead of a number, and what that leaves out.
    pub SignRule(h: (), t) {}
    per_tensor(scale)
    element() -> (x: State, error: State) {
        let sign = L::select(x.lt(L::lit(0.0)), -scale, scale);
        error = x - sign;
        x = sign;
    }
}

/// The compression of buffers on a backend.
#[derive(Clone, Copy, Debug)]
pub struct Compression {
    compensate: &'static Kernel,
    sign: &'static Kernel,
}

impl Compression {
    /// With rules compiled by `K`.
    pub fn new<K: Link>() -> Compression {
        Compression { compensate: K::kernel::<CompensateRule>(), sign: K::kernel::<SignRule>() }
    }

    /// Replaces `x + error` by the signs of its elements times its root mean square, which is returned, and `error` by
    /// what that leaves out.
    ///
    /// # Errors
    /// When the lengths differ or the backend fails.
    pub fn compress(
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
        run(backend, compute, self.compensate, n, views, &[], &mut sums)?;
        let scale = if n == 0 { 0.0 } else { sqrt(sums[0]) / sqrt(n as f64) };
        let views = [Some(View::write(x)), Some(View::write(error))];
        run(backend, compute, self.sign, n, views, &[scale], &mut [])?;
        Ok(scale)
    }
}

/// One pass over one buffer.
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
            Some(TensorPass { elements, row: 0 })
        },
        rows: &[1.0],
        tensor_scalars: own,
        plan: &mut backend.plan(),
        sums,
    })
}
