//! Matrix products through cuBLAS.

use crate::context::{Failure, on_device};
use crate::kernels::LibraryKernel;
use crate::state::State;
use core::ffi::c_void;
use cudarc::cublas::result::CublasError;
use cudarc::cublas::sys::{cublasComputeType_t, cublasGemmAlgo_t, cublasOperation_t, cudaDataType_t};
use cudarc::cublas::{CudaBlas, result};
use cudarc::driver::{LaunchConfig, PushKernelArg};
use fallline_core::backend::{Gemm, Matrix};
use fallline_core::{Device, Error, Format, Result, Storage};
use std::sync::Arc;

/// Computes `c = alpha op(a) op(b) + beta d`, all row-major; symmetric results are computed in full, and one half
/// is mirrored.
///
/// cuBLAS is column-major, where a row-major matrix is its own transpose: `cᵀ = op(b)ᵀ op(a)ᵀ`. Products of `f32` are in
/// `f32` (no TF32); those of 16-bit formats add up in `f32`.
pub(crate) fn gemm(state: &mut State, product: Gemm<'_>) -> Result<()> {
    let (m, k, n) = product.dims()?;
    let added = product.added_matrix();
    let operands = [
        ("the left factor", product.a.storage),
        ("the right factor", product.b.storage),
        ("what is added", added.map_or(product.a.storage, |added| added.storage)),
        ("the result", &*product.c),
    ];
    for (what, storage) in operands {
        on_device(state.ctx.device, "gemm", what, storage)?;
    }
    product.formats()?;
    let Gemm { alpha, a, b, beta, c, c_start, symmetric, .. } = product;
    state.enter_to_run()?;
    if m == 0 || n == 0 {
        return Ok(());
    }
    let size = |extent: usize| {
        i32::try_from(extent).map_err(|_| {
            Error::Unavailable(format!("gemm: {extent} rows or columns are more than cuBLAS takes"))
        })
    };
    let format = c.format();
    let (data, compute) = match format {
        Format::F64 => (cudaDataType_t::CUDA_R_64F, cublasComputeType_t::CUBLAS_COMPUTE_64F),
        Format::F32 => (cudaDataType_t::CUDA_R_32F, cublasComputeType_t::CUBLAS_COMPUTE_32F_PEDANTIC),
        Format::Bf16 => (cudaDataType_t::CUDA_R_16BF, cublasComputeType_t::CUBLAS_COMPUTE_32F),
        Format::F16 => (cudaDataType_t::CUDA_R_16F, cublasComputeType_t::CUBLAS_COMPUTE_32F),
        other => {
            return Err(Error::Format {
                operation: "gemm",
                what: "the result".into(),
                expected: Format::ALL.map(Format::name).join(", "),
                got: other,
            });
        }
    };
    let operation = |matrix: &Matrix<'_>| match matrix.transposed {
        true => cublasOperation_t::CUBLAS_OP_T,
        false => cublasOperation_t::CUBLAS_OP_N,
    };
    let result_elements = m * n;
    // The leading dimension of an empty matrix must be 1 all the same.
    let (leading_a, leading_b) = (size(a.columns.max(1))?, size(b.columns.max(1))?);
    let (m, n, k) = (size(m)?, size(n)?, size(k)?);
    // Scalars are of the compute type.
    let (wide, narrow) = ([alpha, beta], [alpha as f32, beta as f32]);
    let scalar = |i: usize| match format {
        Format::F64 => core::ptr::from_ref(&wide[i]).cast::<c_void>(),
        _ => core::ptr::from_ref(&narrow[i]).cast(),
    };
    let address = |storage: &Storage, start: usize| storage.address() + start * storage.format().bytes();
    let pointer = |matrix: &Matrix<'_>| address(matrix.storage, matrix.start) as *const c_void;
    let transposed = [a.transposed, b.transposed, symmetric].map(u64::from);
    let dims = [m, n, k, leading_a, leading_b].map(|extent| extent as u64);
    let memory = [pointer(&a) as u64, pointer(&b) as u64, address(c, c_start) as u64];
    let told = memory.into_iter().chain(added.map(|added| pointer(&added) as u64)).chain(dims);
    let told = told.chain(transposed).chain(wide.map(f64::to_bits)).collect();
    if !state.launches("a matrix product", told, None)? {
        return Ok(());
    }
    let handle = *blas(state)?.handle();
    if let Some(added) = added {
        let (from, to) = (pointer(&added) as u64, address(c, c_start) as u64);
        let bytes = result_elements * c.format().bytes();
        // SAFETY: both have as many elements, checked above, and one is borrowed mutably; all work is in the stream's
        // order.
        let copied = unsafe {
            cudarc::driver::result::memcpy_dtod_async(to, from, bytes, state.ctx.compute.cu_stream())
        };
        copied.map_err(|cause| state.ctx.error(Failure::at("copying")(cause), true))?;
    }
    // SAFETY: the matrices have the given shapes, checked above. They are borrowed until the product is in the order
    // of the stream, in which they are also freed.
    let multiplied = unsafe {
        result::gemm_ex(
            handle,
            operation(&b),
            operation(&a),
            n,
            m,
            k,
            scalar(0),
            pointer(&b),
            data,
            leading_b,
            pointer(&a),
            data,
            leading_a,
            scalar(1),
            address(c, c_start) as *mut c_void,
            data,
            n,
            compute,
            cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    };
    multiplied.map_err(|cause| explain_blas(state.ctx.device, "multiplying", &cause))?;
    state.ctx.running("of a matrix product");
    match symmetric && m > 1 {
        // SAFETY: the result was checked to have as many elements; it is borrowed mutably.
        true => unsafe { symmetrize(state, format, address(c, c_start) as u64, m as u32) },
        false => Ok(()),
    }
}

/// Returns whether the library is there, as [`driver`](crate::context::driver) asks for the driver's.
fn blas_is_present() -> bool {
    #[allow(dead_code, reason = "cudarc's own shadows it where it loads the library")]
    unsafe fn is_culib_present() -> bool {
        true
    }
    {
        #[allow(unused_imports, reason = "as above")]
        use cudarc::cublas::sys::*;
        // SAFETY: only looks for the library.
        unsafe { is_culib_present() }
    }
}

/// Returns cuBLAS, opened when it is first needed.
fn blas(state: &mut State) -> Result<&CudaBlas> {
    if state.blas.is_none() {
        // It allocates memory.
        state.enter("the first matrix product")?;
        let device = state.ctx.device;
        // cudarc panics where it is missing, so this comes first.
        if !blas_is_present() {
            let problem =
                format!("{device}: matrix products need cuBLAS (searched: libcublas.so, libcublas.so.12)");
            return Err(Error::Unavailable(problem));
        }
        let opened = CudaBlas::new(Arc::clone(&state.ctx.compute));
        state.blas = Some(opened.map_err(|cause| explain_blas(device, "opening cuBLAS", &cause))?);
    }
    match &state.blas {
        Some(blas) => Ok(blas),
        None => unreachable!("it was opened just now"),
    }
}

/// Returns what cuBLAS says.
fn explain_blas(device: Device, what: &str, cause: &CublasError) -> Error {
    Error::Failed { device, problem: format!("{what}: {:?}", cause.0), written: false }
}

/// Copies the lower half of a square matrix of a format to the upper one.
///
/// # Safety
/// There are `size · size` elements at the address, in the device's memory. Until the kernel has run, they are used
/// in the order of the compute stream alone.
unsafe fn symmetrize(state: &mut State, format: Format, address: u64, size: u32) -> Result<()> {
    let kernel = LibraryKernel::Symmetrize(format.bytes());
    let tiles = size.div_ceil(32);
    let launched = state.kernels.library(&state.ctx, kernel).and_then(|function| {
        state.ctx.running(kernel.name());
        let config =
            LaunchConfig { grid_dim: (tiles * tiles, 1, 1), block_dim: (256, 1, 1), shared_mem_bytes: 0 };
        let stream = Arc::clone(&state.ctx.compute);
        let mut call = stream.launch_builder(&function);
        call.arg(&address).arg(&size);
        // SAFETY: the arguments are those of the kernel's interface; of the memory, the caller's contract.
        unsafe { call.launch(config) }.map_err(Failure::at("launching a kernel")).map(|_| ())
    });
    launched.map_err(|failure| state.ctx.error(failure, true))
}
