//! A product as addresses and strides, once its operands are checked.

use fallline_core::backend::{Gemm, Matrix};
use fallline_core::{Element, Error, Result, codec};
use half::{bf16, f16};

/// An element as it is stored, and the number that it is added up as.
pub(super) trait Widen: Copy + Default + PartialEq + Send + Sync + 'static {
    /// What products of it add up in.
    type Sum: Accumulator;
    /// Returns the number, exactly.
    fn widen(self) -> Self::Sum;
    /// Returns the nearest element.
    fn narrow(sum: Self::Sum) -> Self;
}

/// What products of `F` add up in.
pub(super) type Sum<F> = <F as Widen>::Sum;

/// A number of the sums.
pub(super) trait Accumulator:
    Copy
    + Default
    + PartialEq
    + Send
    + Sync
    + core::ops::Add<Output = Self>
    + core::ops::Mul<Output = Self>
    + 'static
{
    /// Returns the number nearest to `x`.
    fn from_f64(x: f64) -> Self;
}

macro_rules! stored {
    ($($t:ty as $sum:ty, $x:ident => $widen:expr, $narrow:expr;)*) => { $(
        impl Widen for $t {
            type Sum = $sum;
            #[inline(always)]
            fn widen(self) -> $sum {
                let $x = self;
                $widen
            }
            #[inline(always)]
            fn narrow($x: $sum) -> $t {
                $narrow
            }
        }
    )* };
}
stored! {
    f64 as f64, x => x, x;
    f32 as f32, x => x, x;
    bf16 as f32, x => codec::f32_from_bf16(x.to_bits()), bf16::from_bits(codec::bf16_from_f32(x));
    f16 as f32, x => codec::f32_from_f16(x.to_bits()), f16::from_bits(codec::f16_from_f32(x));
}

impl Accumulator for f64 {
    fn from_f64(x: f64) -> f64 {
        x
    }
}

impl Accumulator for f32 {
    fn from_f64(x: f64) -> f32 {
        x as f32
    }
}

/// One factor: lanes (rows of the left one, columns of the right one) along the product.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct GemmOperand<F> {
    /// Its first element.
    pub(super) base: *const F,
    /// How many lanes there are.
    pub(super) lanes: usize,
    /// Elements from one lane to the next.
    pub(super) lane_stride: usize,
    /// Elements from one step along the product to the next. One of the strides is 1.
    pub(super) step_stride: usize,
}

/// `c = alpha op(a) op(b) + beta d`, where c and d are row-major m × n.
pub(super) struct GemmArgs<F: Widen> {
    pub(super) m: usize,
    pub(super) k: usize,
    pub(super) n: usize,
    pub(super) alpha: Sum<F>,
    pub(super) beta: Sum<F>,
    pub(super) left: GemmOperand<F>,
    pub(super) right: GemmOperand<F>,
    /// What is added: may be `c` itself.
    pub(super) added: *const F,
    pub(super) c: *mut F,
    /// Only c's elements on and below the diagonal need to be computed.
    pub(super) symmetric: bool,
}

// SAFETY: addresses of operands that are borrowed for as long as the product is worked on. Threads write different
// elements of c, and none that another reads.
unsafe impl<F: Widen> Sync for GemmArgs<F> {}

impl<F: Widen + Element> GemmArgs<F> {
    /// Returns the product's addresses. Dimensions and formats were checked, and the host reaches all of it.
    pub(super) fn of(product: &mut Gemm<'_>) -> Result<Self> {
        let (m, k, n) = product.dims()?;
        let strides = |matrix: &Matrix<'_>| match matrix.transposed {
            true => (1, matrix.columns),
            false => (matrix.columns, 1),
        };
        let ((a_row, a_column), (b_row, b_column)) = (strides(&product.a), strides(&product.b));
        let left =
            GemmOperand { base: base(&product.a)?, lanes: m, lane_stride: a_row, step_stride: a_column };
        let right =
            GemmOperand { base: base(&product.b)?, lanes: n, lane_stride: b_column, step_stride: b_row };
        let added = product.added_matrix().map(|added| base::<F>(&added)).transpose()?;
        let start = product.c_start;
        let c = product.c.memory_mut().host_mut().and_then(|c| c.into_slice::<F>()).ok_or_else(lost)?;
        let c = c[start..].as_mut_ptr();
        Ok(GemmArgs {
            m,
            k,
            n,
            alpha: Accumulator::from_f64(product.alpha),
            beta: Accumulator::from_f64(product.beta),
            left,
            right,
            added: added.unwrap_or(c),
            c,
            symmetric: product.symmetric,
        })
    }
}

impl<F: Widen> GemmArgs<F> {
    /// Multiplications in all.
    pub(super) fn operations(&self) -> usize {
        self.m.saturating_mul(self.n).saturating_mul(self.k.max(1))
    }
}

fn base<T: Element>(matrix: &Matrix<'_>) -> Result<*const T> {
    let slice = matrix.storage.memory().host().and_then(|slice| slice.as_slice::<T>()).ok_or_else(lost)?;
    Ok(slice[matrix.start..].as_ptr())
}

/// Returns the error for memory that was there when it was checked.
fn lost() -> Error {
    Error::Unavailable("gemm: an operand's memory is of another format than it says".into())
}
