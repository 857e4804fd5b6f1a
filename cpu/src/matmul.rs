//! Matrix products on `matrixmultiply`, spread over the backend's own threads.

use crate::pool::Pool;
use fallline_core::backend::MatMul;
use fallline_core::host::{Slice, SliceMut};
use fallline_core::{Device, Error, Result, Storage};

const OPERATION: &str = "matmul";

/// Rows of a strip: a multiple of every micro-kernel's tile, so that strips do not change how a row's
/// sums are cut.
const STRIP: usize = 64;

/// `c = alpha op(a) op(b) + beta c`.
pub(crate) fn matmul(device: Device, pool: &Pool, product: MatMul<'_>) -> Result<()> {
    let (m, k, n) = product.extents()?;
    let read = |what: &str, storage: &'_ Storage| -> Result<()> {
        match storage.memory().host() {
            Some(_) => Ok(()),
            None => Err(Error::Unreachable { operation: OPERATION, what: what.into(), device }),
        }
    };
    read("the left factor", product.a.storage)?;
    read("the right factor", product.b.storage)?;
    read("the result", product.c)?;

    // Row and column strides of what is meant.
    let strides = |transposed: bool, columns: usize| if transposed { (1, columns) } else { (columns, 1) };
    let (a_row, a_column) = strides(product.a.transposed, product.a.columns);
    let (b_row, b_column) = strides(product.b.transposed, product.b.columns);
    let got = product.c.format();
    let (Some(a), Some(b), Some(c)) = (
        product.a.storage.memory().host(),
        product.b.storage.memory().host(),
        product.c.memory_mut().host_mut(),
    ) else {
        unreachable!("checked above");
    };
    if m == 0 || n == 0 {
        return Ok(());
    }
    let strips = m.div_ceil(STRIP);
    macro_rules! gemm {
        ($gemm:path, $t:ty, $a:expr, $b:expr, $c:expr) => {{
            let (a, b, c): (&[$t], &[$t], &mut [$t]) =
                (&$a[product.a.start..], &$b[product.b.start..], &mut $c[product.c_start..]);
            let c = Target(c.as_mut_ptr());
            pool.for_each(0..strips, |strip| {
                let first = strip * STRIP;
                let rows = STRIP.min(m - first);
                let start = if k == 0 { 0 } else { first * a_row };
                let c = &c;
                // SAFETY: the strides describe an m × k, a k × n and an m × n matrix within slices of those
                // lengths, and strips of rows of `c` do not overlap.
                unsafe {
                    $gemm(
                        rows,
                        k,
                        n,
                        product.alpha as $t,
                        a.as_ptr().add(start),
                        a_row as isize,
                        a_column as isize,
                        b.as_ptr(),
                        b_row as isize,
                        b_column as isize,
                        product.beta as $t,
                        c.0.add(first * n),
                        n as isize,
                        1,
                    )
                }
            });
            Ok(())
        }};
    }
    match (a, b, c) {
        (Slice::F32(a), Slice::F32(b), SliceMut::F32(c)) => gemm!(matrixmultiply::sgemm, f32, a, b, c),
        (Slice::F64(a), Slice::F64(b), SliceMut::F64(c)) => gemm!(matrixmultiply::dgemm, f64, a, b, c),
        (a, b, _) => {
            let formats = format!("factors in {} and {} with a result in {got}", a.format(), b.format());
            Err(Error::Format {
                operation: OPERATION,
                what: formats,
                expected: "f32 or f64 throughout".into(),
                got,
            })
        }
    }
}

/// The result's address, shared by the threads that write different rows of it.
struct Target<T>(*mut T);

// SAFETY: every strip of rows is written by one call.
unsafe impl<T> Sync for Target<T> {}
