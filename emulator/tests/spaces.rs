//! State spaces, variables, barriers with names, atomics.
#![cfg(target_os = "linux")]
#![allow(unsafe_code)]

mod common;

use common::{Device, device, kernel, shape};
use cudarc::driver::{LaunchConfig, PushKernelArg};

/// Runs a kernel on zeros and gives what it left.
#[track_caller]
fn left(d: &Device, source: &str, shape: LaunchConfig, n: usize) -> Vec<u32> {
    let mut x = d.stream.alloc_zeros::<u32>(n).unwrap();
    d.run(source, shape, &mut x).unwrap_or_else(|_| panic!("{:?}", d.emulator.last_fault()));
    d.stream.clone_dtoh(&x).unwrap()
}

const STORE: &str = "mad.wide.u32 %d1, %r0, 4, %d0; st.global.u32 [%d1], %r9;";

#[test]
fn variables_of_a_module_have_their_values() {
    let variables =
        ".const .align 4 .u32 table[4] = {10, 0x14, 30};\n.global .f32 scale = 0f40000000;\n.visible";
    let body = format!(
        "mov.u64 %d2, table; mad.wide.u32 %d3, %r0, 4, %d2; ld.const.u32 %r1, [%d3];\n\
         ld.global.f32 %f1, [scale]; cvt.rzi.u32.f32 %r2, %f1; mul.lo.u32 %r9, %r1, %r2; {STORE}"
    );
    let source = kernel(1, "", &body).replacen(".visible", variables, 1);
    for options in ["", "checked"] {
        assert_eq!(left(&device(options), &source, shape(1, 4), 4), [20, 40, 60, 0]);
    }
    let outside = source.replace("[scale]", "[scale+4]");
    let message = device("").fault(&outside, shape(1, 1), 1);
    assert!(message.contains("out of bounds"), "{message}");
}

#[test]
fn shared_memory_is_also_generic_and_dynamic() {
    let body = format!(
        "mov.u64 %d2, more; cvta.shared.u64 %d3, %d2; mad.wide.u32 %d3, %r0, 8, %d3;\n\
         mov.u32 %r1, %ntid.x; sub.u32 %r2, %r1, 1; sub.u32 %r2, %r2, %r0;\n\
         st.v2.u32 [%d3], {{%r0, %r1}}; bar.sync 0;\n\
         mov.u32 %r3, more; mad.lo.u32 %r3, %r2, 8, %r3; ld.shared.v2.u32 {{%r4, %r5}}, [%r3];\n\
         mad.lo.u32 %r9, %r5, 100, %r4; {STORE}"
    );
    let declared = ".extern .shared .align 16 .b8 more[];\n.visible";
    let source = kernel(1, ".shared .b8 fixed[5];", &body).replacen(".visible", declared, 1);
    let shape = LaunchConfig { grid_dim: (2, 1, 1), block_dim: (64, 1, 1), shared_mem_bytes: 512 };
    let d = device("");
    let expected: Vec<u32> = (0..64).map(|i| 6400 + 63 - i).collect();
    assert_eq!(left(&d, &source, shape, 64), expected);
    let small = LaunchConfig { shared_mem_bytes: 500, ..shape };
    let message = d.fault(&source, small, 64);
    assert!(message.contains("out of bounds of shared memory"), "{message}");
}

#[test]
fn a_block_adds_up_in_a_tree() {
    let body = "
        mov.u32 %r1, s; mad.lo.u32 %r2, %r0, 4, %r1; st.shared.u32 [%r2], %r0; mov.u32 %r3, 128;
        $loop: bar.sync 0; setp.ge.u32 %p1, %r0, %r3; @%p1 bra $skip;
        mad.lo.u32 %r4, %r3, 4, %r2; ld.shared.u32 %r5, [%r4]; ld.shared.u32 %r6, [%r2];
        add.u32 %r5, %r5, %r6; st.shared.u32 [%r2], %r5;
        $skip: shr.u32 %r3, %r3, 1; setp.ne.u32 %p2, %r3, 0; @%p2 bra.uni $loop;
        setp.ne.u32 %p3, %r0, 0; @%p3 bra $end; ld.shared.u32 %r7, [%r1]; atom.global.add.u32 %r8, [%d0], %r7;
        $end:";
    let source = kernel(1, ".shared .align 4 .b8 s[1024];", body);
    for options in ["", "checked", "checked,seed=1", "checked,seed=2", "seed=4"] {
        assert_eq!(left(&device(options), &source, shape(3, 256), 1), [3 * 255 * 128], "{options}");
    }
    // Without the barrier it is a race, whatever the order.
    let wrong = source.replace("bar.sync 0;", "");
    let message = device("checked").fault(&wrong, shape(1, 256), 1);
    assert!(message.contains("shared memory"), "{message}");
}

#[test]
fn barriers_have_names_and_numbers() {
    // Two warps pass a value through barrier 1; the other two never come to it.
    let body = format!(
        "mov.u32 %r9, 5; setp.ge.u32 %p1, %r0, 64; @%p1 bra $end; setp.eq.u32 %p2, %r0, 3;\n\
         @%p2 st.shared.u32 [s], 77; bar.sync 1, 64; ld.shared.u32 %r9, [s];\n$end: {STORE}"
    );
    let source = kernel(1, ".shared .align 4 .b8 s[4];", &body);
    for options in ["checked", "checked,seed=3"] {
        let got = left(&device(options), &source, shape(1, 128), 128);
        assert_eq!(got, [[77; 64], [5; 64]].concat());
    }
}

#[test]
fn local_memory_belongs_to_a_thread() {
    let body = format!(
        "mov.u64 %d2, own; st.local.u32 [%d2+4], %r0; mov.u32 %r1, 1; st.local.u32 [own], %r1;\n\
         ld.local.v2.u32 {{%r2, %r3}}, [own]; add.u32 %r9, %r2, %r3; {STORE}"
    );
    let source = kernel(1, ".local .align 8 .b8 own[8];", &body);
    assert_eq!(left(&device("checked"), &source, shape(1, 40), 40), (1..41).collect::<Vec<u32>>());
    let wrong = source.replace("[%d2+4]", "[%d2+8]");
    assert!(device("").fault(&wrong, shape(1, 1), 1).contains("local memory"));
}

#[test]
fn bytes_and_halves_are_extended() {
    let body = "mov.u32 %r1, 0x80ff7f01; st.global.u32 [%d0+128], %r1; ld.global.s8 %r2, [%d0+131];\n\
         ld.global.u8 %r3, [%d0+130]; ld.global.s16 %r4, [%d0+130]; ld.global.u16 %h1, [%d0+128];\n\
         cvt.u32.u16 %r5, %h1; st.global.u8 [%d0+132], %r1; ld.global.u32 %r6, [%d0+132];\n\
         add.u32 %r9, %r2, %r3; st.global.u32 [%d0], %r9; st.global.u32 [%d0+4], %r4;\n\
         st.global.v2.u32 [%d0+8], {%r5, %r6};";
    let got = left(&device("checked"), &kernel(1, "", body), shape(1, 1), 40);
    assert_eq!(got[..4], [(-128i32 + 255) as u32, 0xffff_80ff, 0x7f01, 1]);
}

#[test]
fn atomics_take_turns() {
    let body = "atom.global.cas.b32 %r1, [%d0+4], 0, %r0; atom.global.max.u32 %r1, [%d0+8], %r0;\n\
         red.global.add.f32 [%d0+12], 0f3F800000; atom.global.inc.u32 %r1, [%d0+16], 9;\n\
         atom.global.exch.b32 %r9, [%d0+20], 6; red.relaxed.gpu.global.or.b32 [%d0+24], %r0;";
    for options in ["", "checked,seed=8"] {
        let got = left(&device(options), &kernel(1, "", body), shape(2, 64), 7);
        assert_eq!(got[2..], [63, 128f32.to_bits(), 128 % 10, 6, 63], "{options}");
    }
}

#[test]
fn devices_keep_to_their_own_memory() {
    let d = device("devices=2");
    let second = cudarc::driver::CudaContext::new(1).unwrap().default_stream();
    let x = second.alloc_zeros::<u32>(1).unwrap();
    let there = cudarc::driver::DevicePtr::device_ptr(&x, &second).0;
    let f = d.load(&kernel(1, "", "st.global.u32 [%d0], %r0;")).unwrap();
    d.context.bind_to_thread().unwrap();
    // SAFETY: the pointer is one of the other device, which is what the test is of.
    unsafe { d.stream.launch_builder(&f).arg(&there).launch(shape(1, 1)) }.unwrap_err();
    let message = d.emulator.last_fault().unwrap();
    assert!(message.contains("device 0 has no access to memory of device 1"), "{message}");
}
