//! Linear algebra: matrix products.

use crate::private::Sealed;
use crate::{Error, Result, Storage};

/// Linear algebra of a device.
pub trait LinearAlgebra: Sealed {
    /// Multiplies matrices: `c = alpha op(a) op(b) + beta d`, where `op` transposes as each matrix says and d is what is
    /// to be added, or the old `c`. With `beta` 0 that is not read.
    ///
    /// Products of 16-bit factors add up in `f32`. On the CPU an element is the same bits on every instruction set and
    /// number of threads, but for the sign and payload of a NaN:
    ///
    /// - From +0 on, `s = fma(a, b, s)` along the product in ascending order, exact where there is no hardware for it.
    /// - The result is `alpha s`, or `alpha s + beta d` where `beta` is not 0. Each operation rounds, and so does the result's
    ///   format at last.
    /// - With m, n or k of 1, multiplications and additions round apart. A dot product whose matrix is contiguous along it has
    ///   64 sums, of every 64th product each, which are added up in order. Otherwise sums of 256 products in order are
    ///   added up in order.
    ///
    /// Where AVX-512 is chosen and the processor has AVX-512 BF16, other products of `bf16` are that unit's: two at a time,
    /// subnormal numbers as zero. Products of CUDA are cuBLAS's. Both are equal to the others within rounding only.
    ///
    /// # Errors
    /// When shapes do not fit, or the formats are not the same throughout.
    fn gemm(&self, product: Gemm<'_>) -> Result<()>;
}
/// A matrix in row-major order.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// What holds its elements.
    pub storage: &'a Storage,
    /// Where they start.
    pub start: usize,
    /// Rows as stored.
    pub rows: usize,
    /// Columns as stored.
    pub columns: usize,
    /// Whether its transpose is meant.
    pub transposed: bool,
}

impl<'a> Matrix<'a> {
    /// Returns the matrix at the start of a storage.
    pub fn new(storage: &'a Storage, rows: usize, columns: usize) -> Matrix<'a> {
        Matrix { storage, start: 0, rows, columns, transposed: false }
    }

    /// Returns the one that starts at element `start` instead.
    pub fn at(self, start: usize) -> Self {
        Matrix { start, ..self }
    }

    /// Returns its transpose.
    pub fn transpose(self) -> Self {
        Matrix { transposed: !self.transposed, ..self }
    }

    /// Returns the rows and columns of what is meant.
    pub fn dims(&self) -> (usize, usize) {
        if self.transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }
}

/// `c = alpha op(a) op(b) + beta d`.
#[derive(Debug)]
pub struct Gemm<'a> {
    /// The factor of the product.
    pub alpha: f64,
    /// The left factor, m × k.
    pub a: Matrix<'a>,
    /// The right factor, k × n.
    pub b: Matrix<'a>,
    /// The factor of what is added.
    pub beta: f64,
    /// What is added: d, m × n and not transposed. None adds the old result.
    pub c_in: Option<Matrix<'a>>,
    /// What holds the result, m × n, row-major.
    pub c: &'a mut Storage,
    /// Where the result starts.
    pub c_start: usize,
    /// Whether the result is known to be symmetric but for rounding, as that of a product with its transpose is. A
    /// backend may compute one half then and mirror it; d must be symmetric too.
    pub symmetric: bool,
}

impl<'a> Gemm<'a> {
    /// Makes the product `c = a b`, at the start of c.
    pub fn new(a: Matrix<'a>, b: Matrix<'a>, c: &'a mut Storage) -> Gemm<'a> {
        Gemm { alpha: 1.0, a, b, beta: 0.0, c_in: None, c, c_start: 0, symmetric: false }
    }

    /// Returns what is added, when it is not the old result.
    pub fn added_matrix(&self) -> Option<Matrix<'a>> {
        self.c_in.filter(|_| self.beta != 0.0)
    }

    /// Returns m, k and n of the product.
    ///
    /// # Errors
    /// [`Error::Length`] when the matrices do not fit together or one does not lie within its
    /// storage.
    pub fn dims(&self) -> Result<(usize, usize, usize)> {
        let ((m, k), (inner, n)) = (self.a.dims(), self.b.dims());
        let length = |what: &str, expected, got| {
            Err(Error::Length { operation: "gemm", what: what.into(), expected, got })
        };
        if k != inner {
            return length("the right factor's extent along the product", k, inner);
        }
        if self.symmetric && m != n {
            return length("the symmetric result's row", m, n);
        }
        if let Some(add) = &self.c_in
            && (add.dims() != (m, n) || add.transposed)
        {
            return length("what is added", m.saturating_mul(n), add.rows.saturating_mul(add.columns));
        }
        let within = |what: &str, start: usize, (rows, columns): (usize, usize), got: usize| {
            let end = rows.checked_mul(columns).and_then(|elements| start.checked_add(elements));
            let end = end.unwrap_or(usize::MAX);
            if end > got { length(what, end, got) } else { Ok((0, 0, 0)) }
        };
        within("the left factor", self.a.start, (m, k), self.a.storage.len())?;
        within("the right factor", self.b.start, (k, n), self.b.storage.len())?;
        if let Some(add) = &self.c_in {
            within("what is added", add.start, (m, n), add.storage.len())?;
        }
        within("the result", self.c_start, (m, n), self.c.len())?;
        Ok((m, k, n))
    }

    /// Checks that all is stored in one format.
    ///
    /// # Errors
    /// [`Error::Format`] naming what is not.
    pub fn formats(&self) -> Result<()> {
        let expected = self.c.format();
        let operands = [
            ("the left factor", Some(self.a)),
            ("the right factor", Some(self.b)),
            ("what is added", self.added_matrix()),
        ];
        for (what, matrix) in operands {
            match matrix.map(|matrix| matrix.storage.format()) {
                Some(got) if got != expected => {
                    let (operation, what, expected) = ("gemm", what.into(), expected.to_string());
                    return Err(Error::Format { operation, what, expected, got });
                }
                _ => {}
            }
        }
        Ok(())
    }
}
