//! Matrix products and reductions along an axis: where the feature `matrix` is on, and the error where it is not.

use crate::Cpu;
#[cfg(feature = "matrix")]
use crate::gemm::InRegisters;
#[cfg(feature = "matrix")]
use crate::{context::ExecContext, gemm, reduce};
#[cfg(not(feature = "matrix"))]
use fallline_core::Error;
#[cfg(feature = "matrix")]
use fallline_core::Format;
use fallline_core::Result;
use fallline_core::backend::{AxisReduction, Gemm, LinearAlgebra, MatrixReduction, Reductions};

#[cfg(feature = "matrix")]
impl Cpu {
    /// Multiplies numbers of a format in registers alone, `rounds` times in each of them on every thread: as fast as the
    /// unit that its matrix products use can. For benchmarks.
    ///
    /// # Errors
    /// [`Error::Format`](fallline_core::Error::Format) for one that has no products.
    pub fn multiply_in_registers(&self, format: Format, rounds: usize) -> Result<InRegisters> {
        gemm::in_registers(self.context(), format, rounds)
    }

    fn context(&self) -> ExecContext<'_> {
        ExecContext { device: self.device, isa: self.isa, pool: &self.pool, workspace: &self.workspace }
    }
}

#[cfg(feature = "matrix")]
impl LinearAlgebra for Cpu {
    fn gemm(&self, product: Gemm<'_>) -> Result<()> {
        gemm::gemm(self.context(), product)
    }
}

#[cfg(feature = "matrix")]
impl Reductions for Cpu {
    fn reduce_axis(&self, sums: AxisReduction<'_>) -> Result<()> {
        reduce::reduce_axis(self.context(), sums)
    }

    fn reduce_rows_and_columns(&self, sums: MatrixReduction<'_>) -> Result<()> {
        reduce::sum_both(self.context(), sums)
    }
}

#[cfg(not(feature = "matrix"))]
impl Cpu {
    fn without_matrix<T>(&self, operation: &'static str) -> Result<T> {
        Err(Error::Unsupported { operation, device: self.device })
    }
}

#[cfg(not(feature = "matrix"))]
impl LinearAlgebra for Cpu {
    fn gemm(&self, _: Gemm<'_>) -> Result<()> {
        self.without_matrix("a matrix product without the feature `matrix`")
    }
}

#[cfg(not(feature = "matrix"))]
impl Reductions for Cpu {
    fn reduce_axis(&self, _: AxisReduction<'_>) -> Result<()> {
        self.without_matrix("a reduction along an axis without the feature `matrix`")
    }

    fn reduce_rows_and_columns(&self, _: MatrixReduction<'_>) -> Result<()> {
        self.without_matrix("a reduction over rows and columns without the feature `matrix`")
    }
}
