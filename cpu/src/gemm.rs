//! Matrix products: an own AVX-512 kernel where the machine has it, `matrixmultiply` elsewhere, spread over the
//! backend's own threads.
//!
//! How a product is cut into parts depends on its extents alone, so threads never change a bit of it.

mod args;
mod fallback;
mod gemv;
#[cfg(target_arch = "x86_64")]
mod macrokernel;
#[cfg(target_arch = "x86_64")]
mod microkernel;
#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(target_arch = "x86_64")]
mod transpose;

use crate::Isa;
use crate::pool::Pool;
use crate::workspace::Buffers;
use args::{Problem, Stored};
use fallline_core::backend::MatMul;
use fallline_core::{Device, Element, Error, Format, Result, Storage};
use half::{bf16, f16};

/// Where a product, or what else needs buffers, is computed.
#[derive(Clone, Copy)]
pub(crate) struct Place<'p> {
    pub(crate) device: Device,
    pub(crate) isa: Isa,
    pub(crate) pool: &'p Pool,
    pub(crate) buffers: &'p Buffers,
}

impl Place<'_> {
    /// Calls `work` for every number below `count`, on the pool's threads where `operations` are worth waking them.
    fn for_each(&self, count: usize, operations: usize, work: impl Fn(usize) + Sync + Send) {
        if operations < WORTH_THREADS {
            return (0..count).for_each(work);
        }
        self.pool.for_each(0..count, work);
    }
}

/// Multiplications from which on other threads are woken: some 20 µs of one thread.
const WORTH_THREADS: usize = 1 << 20;

/// `c = alpha op(a) op(b) + beta d`.
pub(crate) fn matmul(place: Place<'_>, mut product: MatMul<'_>) -> Result<()> {
    let (m, _, n) = product.extents()?;
    reachable(place.device, "the left factor", product.a.storage)?;
    reachable(place.device, "the right factor", product.b.storage)?;
    if let Some(added) = product.added() {
        reachable(place.device, "what is added", added.storage)?;
    }
    reachable(place.device, "the result", product.c)?;
    product.formats()?;
    if m == 0 || n == 0 {
        return Ok(());
    }
    match product.c.format() {
        Format::F64 => run::<f64>(place, &mut product),
        Format::F32 => run::<f32>(place, &mut product),
        Format::Bf16 => run::<bf16>(place, &mut product),
        Format::F16 => run::<f16>(place, &mut product),
        #[allow(unreachable_patterns)]
        got => Err(Error::Format {
            operation: "matmul",
            what: "the result".into(),
            expected: "f64, f32, bf16 or f16".into(),
            got,
        }),
    }
}

fn reachable(device: Device, what: &str, storage: &Storage) -> Result<()> {
    match storage.memory().host() {
        Some(_) => Ok(()),
        None => Err(Error::Unreachable { operation: "matmul", what: what.into(), device }),
    }
}

/// A product by the way that suits it.
fn run<F: Factor>(place: Place<'_>, product: &mut MatMul<'_>) -> Result<()> {
    let problem = Problem::<F>::of(product)?;
    if gemv::fits(&problem) {
        return gemv::product(place, &problem);
    }
    #[cfg(target_arch = "x86_64")]
    if place.isa == Isa::Avx512 {
        return F::blocked(place, &problem);
    }
    fallback::product(place, &problem);
    Ok(())
}

/// A factor's element, with the kernel that multiplies it.
trait Factor: Element + Stored<Sum: fallback::Gemm> {
    /// The product on AVX-512, which the machine has.
    #[cfg(target_arch = "x86_64")]
    fn blocked(place: Place<'_>, problem: &Problem<Self>) -> Result<()>;
}

macro_rules! factors {
    ($($t:ty => $blocked:expr;)*) => { $(
        impl Factor for $t {
            #[cfg(target_arch = "x86_64")]
            fn blocked(place: Place<'_>, problem: &Problem<Self>) -> Result<()> {
                let chosen: fn(Place<'_>, &Problem<Self>) -> Result<()> = $blocked;
                chosen(place, problem)
            }
        }
    )* };
}
factors! {
    f32 => macrokernel::product::<microkernel::Singles<f32>>;
    f64 => macrokernel::product::<microkernel::Doubles>;
    f16 => macrokernel::product::<microkernel::Singles<f16>>;
    bf16 => match is_x86_feature_detected!("avx512bf16") {
        true => macrokernel::product::<microkernel::Pairs>,
        false => macrokernel::product::<microkernel::Singles<bf16>>,
    };
}
