//! A little cuBLAS: matrix products on the stream of the handle.
#![allow(unsafe_code, non_snake_case)]

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::exec::gemm::{Format, Gemm, Matrix};
use crate::machine::stream::Op;
use crate::machine::{device, machine};

/// Codes of cuBLAS.
const NOT_INITIALIZED: i32 = 1;
const INVALID_VALUE: i32 = 7;
const EXECUTION_FAILED: i32 = 13;
const INTERNAL_ERROR: i32 = 14;
const NOT_SUPPORTED: i32 = 15;

#[derive(Clone, Copy, Default)]
struct Handle {
    device: u32,
    stream: usize,
    scalars_on_device: bool,
}

fn handles() -> MutexGuard<'static, HashMap<usize, Handle>> {
    static HANDLES: OnceLock<Mutex<HashMap<usize, Handle>>> = OnceLock::new();
    HANDLES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

type Outcome = Result<(), i32>;

fn entry(name: &'static str, body: impl FnOnce() -> Outcome) -> i32 {
    let run = || {
        // Bound first: the machine's lock must be free again when the body takes it.
        let counted = machine().count(name, true);
        counted.map_err(|_| EXECUTION_FAILED)?;
        body()
    };
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    done.map_or(INTERNAL_ERROR, |out| out.err().unwrap_or(0))
}

fn change(handle: usize, f: impl FnOnce(&mut Handle)) -> Outcome {
    handles().get_mut(&handle).map(f).ok_or(NOT_INITIALIZED)
}

/// Returns a scalar of the host.
fn scalar(at: *const c_void, wide: bool) -> Result<f64, i32> {
    if at.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: not null; the caller gives a scalar of the compute type on the host.
    Ok(unsafe {
        if wide { at.cast::<f64>().read_unaligned() } else { f64::from(at.cast::<f32>().read_unaligned()) }
    })
}

struct Call {
    handle: usize,
    trans: [c_int; 2],
    size: [c_int; 3],
    scalars: [*const c_void; 2],
    matrices: [(u64, Format, c_int); 3],
    double: bool,
}

fn product(call: &Call) -> Outcome {
    let handle = *handles().get(&call.handle).ok_or(NOT_INITIALIZED)?;
    if handle.scalars_on_device {
        return Err(NOT_SUPPORTED);
    }
    let flag = |t: c_int| match t {
        0 => Ok(false),
        1 | 2 => Ok(true),
        _ => Err(INVALID_VALUE),
    };
    let trans = [flag(call.trans[0])?, flag(call.trans[1])?];
    let size = call.size.map(|n| usize::try_from(n).map_err(|_| INVALID_VALUE));
    let [m, n, k] = [size[0]?, size[1]?, size[2]?];
    let rows = [if trans[0] { k } else { m }, if trans[1] { n } else { k }, m];
    let mut matrices = [Matrix::default(); 3];
    for (i, (at, format, leading)) in call.matrices.into_iter().enumerate() {
        let leading = usize::try_from(leading).map_err(|_| INVALID_VALUE)?;
        if leading < rows[i].max(1) {
            return Err(INVALID_VALUE);
        }
        matrices[i] = Matrix { at, format, leading };
    }
    let [alpha, beta] = call.scalars;
    let gemm = Gemm {
        trans,
        m,
        n,
        k,
        alpha: scalar(alpha, call.double)?,
        beta: scalar(beta, call.double)?,
        matrices,
        double: call.double,
    };
    if m == 0 || n == 0 {
        return Ok(());
    }
    let mut machine = machine();
    let stream = machine.stream(handle.stream, handle.device).map_err(|_| INVALID_VALUE)?;
    machine.push(stream, Op::Gemm(Arc::new(gemm))).map_err(|_| EXECUTION_FAILED)
}

macro_rules! exported {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) $body:block)*) => {
        $(
            #[unsafe(no_mangle)]
            #[allow(clippy::too_many_arguments)]
            pub unsafe extern "C" fn $name($($arg: $ty),*) -> i32 {
                entry(stringify!($name), || $body)
            }
        )*
    };
}

exported! {
    fn cublasCreate_v2(to: *mut usize) {
        if to.is_null() {
            return Err(INVALID_VALUE);
        }
        let handle = machine().handle();
        let device = device().map_err(|_| NOT_INITIALIZED)?;
        handles().insert(handle, Handle { device, ..Handle::default() });
        // SAFETY: not null, and the caller gives a place for a handle.
        unsafe { to.write(handle) };
        Ok(())
    }
    fn cublasDestroy_v2(handle: usize) { handles().remove(&handle).map(|_| ()).ok_or(NOT_INITIALIZED) }
    fn cublasSetStream_v2(handle: usize, stream: usize) { change(handle, |h| h.stream = stream) }
    fn cublasSetMathMode(handle: usize, _mode: c_int) { change(handle, |_| ()) }
    fn cublasSetWorkspace_v2(handle: usize, _at: u64, _bytes: usize) { change(handle, |_| ()) }
    fn cublasSetPointerMode_v2(handle: usize, mode: c_int) { change(handle, |h| h.scalars_on_device = mode == 1) }
    fn cublasGetVersion_v2(handle: usize, to: *mut c_int) {
        change(handle, |_| ())?;
        // SAFETY: the caller gives a place for the version, or nothing.
        unsafe { to.as_mut() }.map(|to| *to = 120_600).ok_or(INVALID_VALUE)
    }
    fn cublasSgemm_v2(handle: usize, ta: c_int, tb: c_int, m: c_int, n: c_int, k: c_int, alpha: *const c_void, a: u64, lda: c_int, b: u64, ldb: c_int, beta: *const c_void, c: u64, ldc: c_int) {
        let matrices = [(a, Format::F32, lda), (b, Format::F32, ldb), (c, Format::F32, ldc)];
        product(&Call { handle, trans: [ta, tb], size: [m, n, k], scalars: [alpha, beta], matrices, double: false })
    }
    fn cublasDgemm_v2(handle: usize, ta: c_int, tb: c_int, m: c_int, n: c_int, k: c_int, alpha: *const c_void, a: u64, lda: c_int, b: u64, ldb: c_int, beta: *const c_void, c: u64, ldc: c_int) {
        let matrices = [(a, Format::F64, lda), (b, Format::F64, ldb), (c, Format::F64, ldc)];
        product(&Call { handle, trans: [ta, tb], size: [m, n, k], scalars: [alpha, beta], matrices, double: true })
    }
    fn cublasGemmEx(handle: usize, ta: c_int, tb: c_int, m: c_int, n: c_int, k: c_int, alpha: *const c_void, a: u64, at: c_int, lda: c_int, b: u64, bt: c_int, ldb: c_int, beta: *const c_void, c: u64, ct: c_int, ldc: c_int, compute: c_int, _algorithm: c_int) {
        let format = |code| Format::of(code).ok_or(NOT_SUPPORTED);
        let formats = [format(at)?, format(bt)?, format(ct)?];
        let double = formats == [Format::F64; 3];
        // f32 and f64, plain and pedantic; what computes in fewer bits has other results.
        let fits = match compute {
            68 | 69 => !formats.contains(&Format::F64),
            70 | 71 => double,
            _ => false,
        };
        if !fits || formats[0] != formats[1] {
            return Err(NOT_SUPPORTED);
        }
        let matrices = [(a, formats[0], lda), (b, formats[1], ldb), (c, formats[2], ldc)];
        product(&Call { handle, trans: [ta, tb], size: [m, n, k], scalars: [alpha, beta], matrices, double })
    }
}
