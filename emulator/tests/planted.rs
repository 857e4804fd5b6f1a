//! Every kind of bug, planted and found; and kernels without one, which are clean.
#![cfg(target_os = "linux")]
#![allow(unsafe_code)]

mod common;

use common::{device, kernel, shape};
use cudarc::driver::{CudaContext, PushKernelArg};

#[track_caller]
fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

/// `%d1` is the address of element `%r0` of the buffer.
const ELEMENT: &str = "mad.wide.u32 %d1, %r0, 4, %d0;";

#[test]
fn out_of_bounds_in_global_memory() {
    for options in ["", "checked"] {
        let source = kernel(1, "", &format!("{ELEMENT} st.global.u32 [%d1+4], %r0;"));
        let message = device(options).fault(&source, shape(1, 32), 32);
        says(
            &message,
            &[
                "kernel k",
                "block [0, 0, 0], thread [31, 0, 0]",
                "out of bounds",
                "st.global.u32 [%d1+4], %r0",
            ],
        );
    }
}

#[test]
fn out_of_bounds_in_shared_memory() {
    let body = "mov.u32 %r1, s; st.shared.u32 [%r1+128], %r0;";
    let message = device("").fault(&kernel(1, ".shared .align 4 .b8 s[128];", body), shape(1, 1), 1);
    says(&message, &["out of bounds of shared memory, which has 128", "at 128"]);
}

#[test]
fn a_misaligned_vector() {
    let source = kernel(1, "", "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%d0+4];");
    says(&device("").fault(&source, shape(1, 1), 8), &["misaligned access of 16 bytes"]);
}

#[test]
fn an_uninitialised_read() {
    let d = device("checked");
    let source = kernel(1, "", &format!("{ELEMENT} ld.global.u32 %r1, [%d1]; st.global.u32 [%d1], %r1;"));
    // SAFETY: every byte is a valid value, and it is written before it is read, or the test is of that.
    let mut x = unsafe { d.stream.alloc::<u32>(32) }.unwrap();
    d.run(&source, shape(1, 32), &mut x).unwrap_err();
    says(&d.emulator.last_fault().unwrap(), &["uninitialised global memory"]);
    drop((x, d));
    let source = kernel(1, ".shared .align 4 .b8 s[128];", "ld.shared.u32 %r1, [s];");
    says(&device("checked").fault(&source, shape(1, 1), 1), &["uninitialised shared memory"]);
}

/// Writes one's own slot of shared memory and reads the next one's; between them what is given.
fn neighbours(between: &str) -> String {
    let body = format!(
        "mov.u32 %r1, s; mad.lo.u32 %r2, %r0, 4, %r1; st.shared.u32 [%r2], %r0; {between}\n\
         add.u32 %r3, %r0, 1; and.b32 %r3, %r3, 63; mad.lo.u32 %r3, %r3, 4, %r1; ld.shared.u32 %r4, [%r3];\n\
         {ELEMENT} st.global.u32 [%d1], %r4;"
    );
    kernel(1, ".shared .align 4 .b8 s[256];", &body)
}

#[test]
fn a_race_in_shared_memory() {
    for seed in 1..4 {
        let message = device(&format!("checked,seed={seed}")).fault(&neighbours(""), shape(1, 64), 64);
        // In another order the reader comes first, to a slot that nobody has written.
        assert!(
            message.contains("race in shared memory") || message.contains("uninitialised shared"),
            "{message}"
        );
        let d = device(&format!("checked,seed={seed}"));
        let mut x = d.stream.alloc_zeros::<u32>(64).unwrap();
        d.run(&neighbours("bar.sync 0;"), shape(1, 64), &mut x).unwrap();
        let expected: Vec<u32> = (0..64).map(|i| (i + 1) % 64).collect();
        assert_eq!(d.stream.clone_dtoh(&x).unwrap(), expected);
    }
    says(&device("checked").fault(&neighbours("bar.warp.sync -1;"), shape(1, 64), 64), &["shared"]);
}

#[test]
fn a_race_in_global_memory() {
    let source = kernel(1, "", "st.global.u32 [%d0], %r0;");
    says(
        &device("checked").fault(&source, shape(1, 2), 1),
        &["race in global memory", "written by thread 0 of block 0"],
    );
    says(&device("checked").fault(&source, shape(2, 1), 1), &["race in global memory", "block 0"]);
    let d = device("checked,seed=3");
    let mut x = d.stream.alloc_zeros::<u32>(1).unwrap();
    d.run(&kernel(1, "", "red.global.add.u32 [%d0], %r0;"), shape(3, 64), &mut x).unwrap();
    assert_eq!(d.stream.clone_dtoh(&x).unwrap(), [3 * 63 * 64 / 2]);
}

#[test]
fn a_divergent_barrier() {
    let body = "setp.lt.u32 %p1, %r0, 16; @%p1 bra $skip; bar.sync 0; bra $end; $skip: bar.sync 0; $end:";
    says(
        &device("checked").fault(&kernel(1, "", body), shape(1, 32), 1),
        &["divergent barrier", "another one"],
    );
    let body = "setp.lt.u32 %p1, %r0, 16; @%p1 ret; bar.sync 0;";
    says(
        &device("checked").fault(&kernel(1, "", body), shape(1, 32), 1),
        &["divergent barrier: 16 threads have exited"],
    );
    let body = "setp.lt.u32 %p1, %r0, 16; @%p1 bra $skip; bar.sync 0; $skip: bar.sync 1;";
    says(&device("").fault(&kernel(1, "", body), shape(1, 32), 1), &["divergent synchronisation"]);
    let body = "setp.lt.u32 %p1, %r0, 16; @%p1 bra.uni $skip; $skip:";
    says(&device("").fault(&kernel(1, "", body), shape(1, 32), 1), &["bra.uni"]);
}

#[test]
fn a_bad_mask_of_a_shuffle() {
    let body = "setp.lt.u32 %p1, %r0, 16; @%p1 shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;";
    says(
        &device("").fault(&kernel(1, "", body), shape(1, 32), 1),
        &["divergent synchronisation", "shfl.sync"],
    );
    let body = "shfl.sync.bfly.b32 %r1, %r0, 1, 31, 1;";
    says(&device("").fault(&kernel(1, "", body), shape(1, 32), 1), &["does not name its own thread"]);
    let body = "shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;";
    says(&device("").fault(&kernel(1, "", body), shape(1, 16), 1), &["names lane 16"]);
}

#[test]
fn a_missing_wait_between_streams() {
    for (wait, expected) in [(true, 2f32), (false, 1f32)] {
        let d = device("lazy");
        // SAFETY: the test orders its streams itself.
        unsafe { d.context.disable_event_tracking() };
        let (a, b) = (d.context.new_stream().unwrap(), d.context.new_stream().unwrap());
        let mut x = a.clone_htod(&[1f32; 8]).unwrap();
        let mut y = b.alloc_zeros::<f32>(8).unwrap();
        a.synchronize().unwrap();
        a.memcpy_htod(&[2f32; 8], &mut x).unwrap();
        let event = a.record_event(None).unwrap();
        if wait {
            b.wait(&event).unwrap();
        }
        b.memcpy_dtod(&x, &mut y).unwrap();
        assert_eq!(b.clone_dtoh(&y).unwrap(), [expected; 8]);
        a.synchronize().unwrap();
    }
}

#[test]
fn a_leak() {
    let d = device("checked");
    let slice = d.stream.alloc_zeros::<u8>(100).unwrap();
    assert_eq!(d.emulator.allocations(), 1);
    let pointer = slice.leak();
    assert_eq!(d.emulator.allocations(), 1);
    // SAFETY: the allocation was leaked a moment ago.
    unsafe { cudarc::driver::result::free_sync(pointer) }.unwrap();
    // SAFETY: every byte is a valid value, and it is written before it is read, or the test is of that.
    let _: u64 = unsafe { cudarc::driver::result::malloc_sync(100) }.unwrap();
    says(&d.finish().unwrap(), &["leak: 100 bytes"]);
}

#[test]
fn a_use_after_free() {
    let d = device("");
    let source = kernel(2, "", "st.global.u64 [%d0], %d1; ld.global.u32 %r1, [%d1];");
    let function = d.load(&source).unwrap();
    let mut x = d.stream.alloc_zeros::<u64>(1).unwrap();
    let gone = {
        let y = d.stream.alloc_zeros::<u32>(1).unwrap();
        cudarc::driver::DevicePtr::device_ptr(&y, &d.stream).0
    };
    // SAFETY: the arguments fit the parameters; what the kernel does with them the emulator checks.
    unsafe { d.stream.launch_builder(&function).arg(&mut x).arg(&gone).launch(shape(1, 1)) }.unwrap_err();
    says(&d.emulator.last_fault().unwrap(), &["use after free", "ld.global.u32 %r1, [%d1]"]);
    // As on a device, all that follows fails too, until the context is gone.
    assert!(d.context.synchronize().is_err());
    drop((x, function, d));
    let d = device("");
    d.context.synchronize().unwrap();
}

#[test]
fn a_kernel_that_does_not_end() {
    let message = device("steps=10000").fault(&kernel(1, "", "$again: bra $again;"), shape(1, 1), 1);
    says(&message, &["too long"]);
}

#[test]
fn what_is_unknown_is_refused() {
    let refused = [
        ("add.rn.relu.f32 %f1, %f1, %f1;", ".relu is not known for add"),
        ("add.f32 %f1, %f1, %g1;", "%g1 is f64, the instruction wants f32"),
        ("add.u32 %f1, %r1, %r1;", "%f1 is f32"),
        ("add.u32 %r1, %r1, %x1;", "%x1 is not declared"),
        ("add.u32 %r1, %r1, 1.0;", "1.0 is not an operand"),
        ("add.f32 %f1, %f1, 1;", "1 is not an operand"),
        ("div.f32 %f1, %f1, %f1;", "needs a rounding"),
        ("ld.global.u32 %r1, [%r2];", "address"),
        ("ld.global.v3.u32 {%r1, %r2, %r3}, [%d0];", "number of registers"),
        ("add.rz.f64 %g1, %g1, %g1;", "directed rounding of f64"),
        ("bra $nowhere;", "no such label as $nowhere"),
        ("shfl.bfly.b32 %r1, %r0, 1, 31;", "needs .sync"),
        ("cvt.f32.f64 %f1, %g1;", "needs a rounding"),
        ("cvt.rn.f64.f32 %g1, %f1;", "is exact"),
    ];
    let d = device("");
    for (body, reason) in refused {
        assert!(d.load(&kernel(1, "", body)).is_err(), "{body}");
        says(&d.emulator.last_fault().unwrap(), &[reason, body.trim_end_matches(';')]);
    }
    drop(d);
    let message = device("").fault(&kernel(1, "", "frobnicate.u32 %r1, %r0;"), shape(1, 1), 1);
    says(&message, &["does not have this instruction", "frobnicate.u32 %r1, %r0"]);
    // Only where checks are on: the assembler may contract it.
    assert!(device("").load(&kernel(1, "", "add.f32 %f1, %f1, %f1;")).is_ok());
    assert!(device("checked").load(&kernel(1, "", "add.f32 %f1, %f1, %f1;")).is_err());
    let old = kernel(1, "", "").replace("sm_90", "sm_100");
    assert!(device("").load(&old).is_err());
}

#[test]
fn calls_fail_when_asked() {
    let d = device("fail=cuMemsetD8Async:2,fail-alloc=3,memory=1000000");
    let one = d.stream.alloc_zeros::<u8>(10).unwrap();
    assert!(d.stream.alloc_zeros::<u8>(10).is_err(), "the second call of cuMemsetD8Async");
    assert_eq!(d.emulator.failed().as_deref(), Some("cuMemsetD8Async"));
    assert!(d.context.check_err().is_ok());
    let error = d.stream.alloc_zeros::<u8>(10).unwrap_err();
    assert_eq!(error.0, cudarc::driver::sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    let two = d.stream.alloc_zeros::<u8>(10).unwrap();
    assert!(d.stream.alloc_zeros::<u8>(2_000_000).is_err(), "more than there is");
    drop((one, two));
    assert_eq!(d.emulator.allocations(), 0);
    d.emulator.configure("fail=any");
    assert!(CudaContext::new(0).is_err());
    assert!(CudaContext::new(0).is_ok());
    assert!(d.emulator.all_calls() > 10);
}
