//! cudarc works on the emulated device as on a real one.
#![cfg(target_os = "linux")]
#![allow(unsafe_code)]

mod common;

use common::{device, kernel, shape};
use cudarc::cublas::{CudaBlas, Gemm, GemmConfig, sys::cublasOperation_t};
use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;

/// `y[i] = a x[i] + y[i]` for `i < n`.
const SAXPY: &str = r"
.version 7.0
.target sm_70
.address_size 64
.visible .entry saxpy(.param .u64 x, .param .u64 y, .param .f32 a, .param .u32 n)
{
    .reg .pred %p; .reg .b32 %i, %n, %t; .reg .f32 %f<5>; .reg .b64 %x, %y;
    ld.param.u64 %x, [x];
    ld.param.u64 %y, [y];
    ld.param.f32 %f1, [a];
    ld.param.u32 %n, [n];
    mov.u32 %t, %tid.x;
    mov.u32 %i, %ctaid.x;
    mad.lo.u32 %i, %i, 128, %t; // 128 threads
    setp.ge.u32 %p, %i, %n;
    @%p bra $done;
    mad.wide.u32 %x, %i, 4, %x;
    mad.wide.u32 %y, %i, 4, %y;
    ld.global.nc.f32 %f2, [%x];
    ld.global.f32 %f3, [%y];
    fma.rn.f32 %f4, %f1, %f2, %f3;
    st.global.f32 [%y+0], %f4;
$done:
    ret;
}
";

#[test]
fn two_streams_with_events_give_the_sum() {
    for options in ["", "lazy", "checked,lazy,seed=5"] {
        let d = device(options);
        let other = d.context.new_stream().unwrap();
        let module = d.context.load_module(Ptx::from_src(SAXPY)).unwrap();
        let saxpy = module.load_function("saxpy").unwrap();
        let (n, a) = (1000u32, 2f32);
        let x = d.stream.clone_htod(&vec![3f32; 1000]).unwrap();
        let mut y = d.stream.alloc_zeros::<f32>(1000).unwrap();
        let shape = LaunchConfig { grid_dim: (8, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the arguments fit the parameters; what the kernel does with them the emulator checks.
        let launch = |stream: &std::sync::Arc<cudarc::driver::CudaStream>, y: &mut _| unsafe {
            stream.launch_builder(&saxpy).arg(&x).arg(y).arg(&a).arg(&n).launch(shape).unwrap();
        };
        launch(&d.stream, &mut y);
        let event = d.stream.record_event(None).unwrap();
        other.wait(&event).unwrap();
        launch(&other, &mut y);
        assert_eq!(other.clone_dtoh(&y).unwrap(), vec![12f32; 1000]);
        assert!(d.emulator.calls("cuLaunchKernel") == 2);
        drop((x, y));
        d.context.synchronize().unwrap();
        assert_eq!(d.emulator.allocations(), 0);
    }
}

#[test]
fn a_graph_is_replayed() {
    let d = device("lazy");
    let stream = d.context.new_stream().unwrap();
    let source = kernel(1, "", "ld.global.u32 %r1, [%d0]; add.u32 %r1, %r1, 1; st.global.u32 [%d0], %r1;");
    let function = d.load(&source).unwrap();
    let mut x = stream.alloc_zeros::<u32>(1).unwrap();
    stream.synchronize().unwrap();
    // SAFETY: the test orders its streams itself.
    unsafe { d.context.disable_event_tracking() };
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    // SAFETY: the arguments fit the parameters; what the kernel does with them the emulator checks.
    unsafe { stream.launch_builder(&function).arg(&mut x).launch(shape(1, 1)).unwrap() };
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().unwrap();
    assert_eq!(stream.clone_dtoh(&x).unwrap(), [0]);
    for _ in 0..3 {
        graph.launch().unwrap();
    }
    assert_eq!(stream.clone_dtoh(&x).unwrap(), [3]);
}

#[test]
fn sgemm_is_column_major() {
    let d = device("lazy");
    let blas = CudaBlas::new(d.stream.clone()).unwrap();
    // A = [1 2 3; 4 5 6], B = [1 0; 0 1; 1 1], in columns.
    let a = d.stream.clone_htod(&[1f32, 4., 2., 5., 3., 6.]).unwrap();
    let b = d.stream.clone_htod(&[1f32, 0., 1., 0., 1., 1.]).unwrap();
    let mut c = d.stream.clone_htod(&[1f32; 4]).unwrap();
    let n = cublasOperation_t::CUBLAS_OP_N;
    let config =
        GemmConfig { transa: n, transb: n, m: 2, n: 2, k: 3, alpha: 2.0, lda: 2, ldb: 3, beta: 10.0, ldc: 2 };
    // SAFETY: the matrices have the sizes that are said.
    unsafe { blas.gemm(config, &a, &b, &mut c).unwrap() };
    assert_eq!(d.stream.clone_dtoh(&c).unwrap(), [18., 30., 20., 32.]);
    // A transposed on the left: A^T of 3x2 by A of 2x3, in bf16.
    let h = |x: &[f32]| x.iter().map(|x| half::bf16::from_f32(*x)).collect::<Vec<_>>();
    let a = d.stream.clone_htod(&h(&[1., 4., 2., 5., 3., 6.])).unwrap();
    let mut c = d.stream.alloc_zeros::<half::bf16>(9).unwrap();
    let t = cublasOperation_t::CUBLAS_OP_T;
    let one = half::bf16::ONE;
    let zero = half::bf16::ZERO;
    let config =
        GemmConfig { transa: t, transb: n, m: 3, n: 3, k: 2, alpha: one, lda: 2, ldb: 2, beta: zero, ldc: 3 };
    // SAFETY: the matrices have the sizes that are said.
    unsafe { blas.gemm(config, &a, &a.clone(), &mut c).unwrap() };
    assert_eq!(d.stream.clone_dtoh(&c).unwrap(), h(&[17., 22., 27., 22., 29., 36., 27., 36., 45.]));
}

#[test]
fn the_device_says_what_it_is() {
    let d = device("devices=2");
    assert_eq!(CudaContext::device_count().unwrap(), 2);
    assert_eq!(d.context.compute_capability().unwrap(), (9, 0));
    assert!(d.context.name().unwrap().contains("emulated"));
    assert!(CudaContext::new(2).is_err());
    let second = CudaContext::new(1).unwrap();
    let x = second.default_stream().clone_htod(&[7u8; 3]).unwrap();
    assert_eq!(second.default_stream().clone_dtoh(&x).unwrap(), [7; 3]);
    let (free, total) = d.context.mem_get_info().unwrap();
    assert_eq!((free, total), (1_000_000_000, 1_000_000_000));
}

#[test]
fn page_locked_and_managed_memory_are_the_hosts_too() {
    let d = device("lazy");
    // SAFETY: every byte is a valid value, and it is written before it is read, or the test is of that.
    let mut pinned = unsafe { d.context.alloc_pinned::<u32>(4) }.unwrap();
    pinned.as_mut_slice().unwrap().copy_from_slice(&[1, 2, 3, 4]);
    let x = d.stream.clone_htod(&pinned).unwrap();
    assert_eq!(d.stream.clone_dtoh(&x).unwrap(), [1, 2, 3, 4]);
    // SAFETY: every byte is a valid value, and it is written before it is read, or the test is of that.
    let mut managed = unsafe { d.context.alloc_unified::<u32>(4, true) }.unwrap();
    managed.as_mut_slice().unwrap().fill(9);
    let source = kernel(1, "", "ld.global.u32 %r1, [%d0]; add.u32 %r1, %r1, 1; st.global.u32 [%d0], %r1;");
    let function = d.load(&source).unwrap();
    // SAFETY: the arguments fit the parameters; what the kernel does with them the emulator checks.
    unsafe { d.stream.launch_builder(&function).arg(&mut managed).launch(shape(1, 1)).unwrap() };
    d.stream.synchronize().unwrap();
    assert_eq!(managed.as_slice().unwrap(), [10, 9, 9, 9]);
}
