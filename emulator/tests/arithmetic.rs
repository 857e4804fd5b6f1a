//! The interpreter's arithmetic against Rust's own, on special and random values.
#![cfg(target_os = "linux")]
#![allow(unsafe_code)]

mod common;

use common::{Device, device, kernel, shape};
use cudarc::driver::PushKernelArg;
use half::{bf16, f16};

/// Returns special values and random bits.
fn bits(n: usize, seed: u64) -> Vec<u32> {
    let special = [
        0f32,
        -0.0,
        1.0,
        -1.0,
        1.5,
        0.1,
        3.0,
        f32::MIN_POSITIVE,
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::EPSILON,
        1e-45,
        -1e-40,
        65504.0,
        65520.0,
        65519.9,
        1.003_906_3,
        1.011_718_8,
        1e-7,
        2147483648.0,
        -2147483649.0,
        0.5,
        -0.5,
        2.5,
        -3.5,
    ];
    let mut state = seed;
    let random = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as u32
    });
    // Every pair of special values meets where the other side is rotated by the seed.
    let mut out: Vec<u32> =
        special.iter().map(|x| x.to_bits()).cycle().skip(seed as usize % 28).take(28 * 28).collect();
    let random: Vec<u32> = random.take(n - out.len()).collect();
    out.extend(random);
    if seed == 2 {
        out[..28 * 28].sort_by_key(|x| *x);
    }
    out
}

const N: usize = 4096;

/// Runs `op` on three columns of words; the result is in `%r4`.
fn words(d: &Device, op: &str, [a, b, c]: [&[u32]; 3]) -> Vec<u32> {
    let body = format!(
        "mov.u32 %r5, %ctaid.x; mad.lo.u32 %r0, %r5, 256, %r0; mul.wide.u32 %d4, %r0, 4;\n\
         add.u64 %d0, %d0, %d4; add.u64 %d1, %d1, %d4; add.u64 %d2, %d2, %d4; add.u64 %d3, %d3, %d4;\n\
         ld.global.u32 %r1, [%d0]; ld.global.u32 %r2, [%d1]; ld.global.u32 %r3, [%d2];\n\
         mov.b32 %f1, %r1; mov.b32 %f2, %r2; mov.b32 %f3, %r3;\n{op}\nst.global.u32 [%d3], %r4;"
    );
    let function = d.load(&kernel(4, "", &body)).unwrap_or_else(|_| panic!("{:?}", d.emulator.last_fault()));
    let [a, b, c] = [a, b, c].map(|x| d.stream.clone_htod(x).unwrap());
    let mut out = d.stream.alloc_zeros::<u32>(N).unwrap();
    let shape = shape(N as u32 / 256, 256);
    // SAFETY: the arguments fit the parameters; what the kernel does with them the emulator checks.
    unsafe { d.stream.launch_builder(&function).arg(&a).arg(&b).arg(&c).arg(&mut out).launch(shape) }
        .unwrap();
    d.stream.clone_dtoh(&out).unwrap()
}

#[track_caller]
fn floats(d: &Device, op: &str, expected: impl Fn(f32, f32, f32) -> f32) {
    let (a, b, c) = (bits(N, 1), bits(N, 2), bits(N, 3));
    let got = words(d, &format!("{op} mov.b32 %r4, %f4;"), [&a, &b, &c]);
    for i in 0..N {
        let [x, y, z] = [a[i], b[i], c[i]].map(f32::from_bits);
        let (want, got) = (expected(x, y, z), f32::from_bits(got[i]));
        let same = want.to_bits() == got.to_bits() || (want.is_nan() && got.is_nan());
        assert!(same, "{op} of {x:e}, {y:e}, {z:e}: {got:e}, not {want:e}");
    }
}

#[track_caller]
fn integers(d: &Device, op: &str, expected: impl Fn(u32, u32, u32) -> u32) {
    let (a, b, c) = (bits(N, 1), bits(N, 2), bits(N, 3));
    let got = words(d, op, [&a, &b, &c]);
    for i in 0..N {
        let want = expected(a[i], b[i], c[i]);
        assert_eq!(got[i], want, "{op} of {:#x}, {:#x}, {:#x}", a[i], b[i], c[i]);
    }
}

#[test]
fn f32_is_rounded_to_nearest() {
    let d = device("");
    floats(&d, "add.rn.f32 %f4, %f1, %f2;", |a, b, _| a + b);
    floats(&d, "sub.rn.f32 %f4, %f1, %f2;", |a, b, _| a - b);
    floats(&d, "mul.rn.f32 %f4, %f1, %f2;", |a, b, _| a * b);
    floats(&d, "div.rn.f32 %f4, %f1, %f2;", |a, b, _| a / b);
    floats(&d, "fma.rn.f32 %f4, %f1, %f2, %f3;", |a, b, c| a.mul_add(b, c));
    floats(&d, "sqrt.rn.f32 %f4, %f1;", |a, _, _| a.sqrt());
    floats(&d, "rcp.rn.f32 %f4, %f1;", |a, _, _| 1.0 / a);
    floats(&d, "neg.f32 %f4, %f1;", |a, _, _| -a);
    floats(&d, "abs.f32 %f4, %f1;", |a, _, _| a.abs());
}

#[test]
fn minimum_and_maximum_pass_over_nan_and_order_zeros() {
    let d = device("");
    let less = |a: f32, b: f32| a < b || (a == b && a.is_sign_negative());
    let min = move |a: f32, b: f32| if a.is_nan() || less(b, a) { b } else { a };
    let max = move |a: f32, b: f32| if a.is_nan() || less(a, b) { b } else { a };
    floats(&d, "min.f32 %f4, %f1, %f2;", |a, b, _| min(a, b));
    floats(&d, "max.f32 %f4, %f1, %f2;", |a, b, _| max(a, b));
    floats(&d, "min.NaN.f32 %f4, %f1, %f2;", |a, b, _| {
        if b.is_nan() {
            b
        } else if a.is_nan() {
            a
        } else {
            min(a, b)
        }
    });
}

#[test]
fn directed_rounding_brackets_the_exact_value() {
    let d = device("");
    // The exact product is in f64, so its neighbours say what each direction gives.
    let down = |x: f64| {
        let r = x as f32;
        if f64::from(r) > x { r.next_down() } else { r }
    };
    floats(&d, "mul.rm.f32 %f4, %f1, %f2;", |a, b, _| down(f64::from(a) * f64::from(b)));
    floats(&d, "mul.rp.f32 %f4, %f1, %f2;", |a, b, _| -down(-(f64::from(a) * f64::from(b))));
    floats(&d, "mul.rz.f32 %f4, %f1, %f2;", |a, b, _| {
        let x = f64::from(a) * f64::from(b);
        down(x.abs()).copysign(x as f32)
    });
    // Sums of numbers of like size are exact in f64 as well; others are left out by scaling.
    let scaled = |x: f32| f64::from(f32::from_bits(x.to_bits() & 0x807f_ffff | 0x3f80_0000));
    let op = "and.b32 %r1, %r1, 0x807fffff; or.b32 %r1, %r1, 0x3f800000; mov.b32 %f1, %r1;\n\
              and.b32 %r2, %r2, 0x807fffff; or.b32 %r2, %r2, 0x3f800000; mov.b32 %f2, %r2;\n";
    floats(&d, &format!("{op} add.rz.f32 %f4, %f1, %f2;"), |a, b, _| {
        let x = scaled(a) + scaled(b);
        down(x.abs()).copysign(x as f32)
    });
    floats(&d, &format!("{op} add.rp.f32 %f4, %f1, %f2;"), |a, b, _| {
        let x = scaled(a) + scaled(b);
        if x == 0.0 { 0.0 } else { -down(-x) }
    });
}

#[test]
fn denormals_are_flushed_and_results_saturated_where_asked() {
    let d = device("");
    let flush = |x: f32| if x.is_subnormal() { 0f32.copysign(x) } else { x };
    floats(&d, "add.rn.ftz.f32 %f4, %f1, %f2;", |a, b, _| flush(flush(a) + flush(b)));
    floats(&d, "mul.rn.sat.f32 %f4, %f1, %f2;", |a, b, _| {
        let x = a * b;
        if x.is_nan() || x <= 0.0 { 0.0 } else { x.min(1.0) }
    });
}

#[test]
fn conversions_round_once() {
    let d = device("");
    integers(&d, "cvt.rn.f16.f32 %h1, %f1; cvt.u32.u16 %r4, %h1;", |a, _, _| {
        let x = f32::from_bits(a);
        u32::from(if x.is_nan() { 0x7fff } else { f16::from_f32(x).to_bits() })
    });
    integers(&d, "cvt.rn.bf16.f32 %h1, %f1; cvt.u32.u16 %r4, %h1;", |a, _, _| {
        let x = f32::from_bits(a);
        u32::from(if x.is_nan() { 0x7fff } else { bf16::from_f32(x).to_bits() })
    });
    integers(&d, "cvt.rz.bf16.f32 %h1, %f1; cvt.u32.u16 %r4, %h1;", |a, _, _| {
        if f32::from_bits(a).is_nan() { 0x7fff } else { a >> 16 }
    });
    integers(&d, "cvt.rn.bf16x2.f32 %r4, %f1, %f2;", |a, b, _| {
        let one = |x: u32| {
            let x = f32::from_bits(x);
            u32::from(if x.is_nan() { 0x7fff } else { bf16::from_f32(x).to_bits() })
        };
        one(a) << 16 | one(b)
    });
    floats(&d, "cvt.u16.u32 %h1, %r1; cvt.f32.f16 %f4, %h1;", |a, _, _| {
        f16::from_bits(a.to_bits() as u16).to_f32()
    });
    floats(&d, "cvt.f64.f32 %g1, %f1; cvt.rn.f32.f64 %f4, %g1;", |a, _, _| a);
    floats(&d, "cvt.rni.f32.f32 %f4, %f1;", |a, _, _| a.round_ties_even());
    floats(&d, "cvt.rn.f32.s32 %f4, %r1;", |a, _, _| a.to_bits() as i32 as f32);
    floats(&d, "cvt.rn.f32.u32 %f4, %r1;", |a, _, _| a.to_bits() as f32);
    integers(&d, "cvt.rzi.s32.f32 %r4, %f1;", |a, _, _| f32::from_bits(a) as i32 as u32);
    integers(&d, "cvt.rni.u32.f32 %r4, %f1;", |a, _, _| f32::from_bits(a).round_ties_even() as u32);
    integers(&d, "cvt.s32.s8 %r4, %r1;", |a, _, _| a as i8 as u32);
    integers(&d, "cvt.sat.s8.s32 %r4, %r1;", |a, _, _| (a as i32).clamp(-128, 127) as u32);
}

#[test]
fn integers_wrap() {
    let d = device("");
    integers(&d, "mad.lo.u32 %r4, %r1, %r2, %r3;", |a, b, c| a.wrapping_mul(b).wrapping_add(c));
    integers(&d, "mul.hi.u32 %r4, %r1, %r2;", |a, b, _| ((u64::from(a) * u64::from(b)) >> 32) as u32);
    integers(&d, "mul.hi.s32 %r4, %r1, %r2;", |a, b, _| {
        ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32
    });
    integers(&d, "mul.wide.s32 %d5, %r1, %r2; shr.s64 %d5, %d5, 7; cvt.u32.u64 %r4, %d5;", |a, b, _| {
        ((i64::from(a as i32) * i64::from(b as i32)) >> 7) as u32
    });
    integers(&d, "div.s32 %r4, %r1, %r2;", |a, b, _| {
        if b == 0 { u32::MAX } else { (a as i32).wrapping_div(b as i32) as u32 }
    });
    integers(&d, "rem.u32 %r4, %r1, %r2;", |a, b, _| a.checked_rem(b).unwrap_or(a));
    integers(&d, "shl.b32 %r4, %r1, %r2;", |a, b, _| if b < 32 { a << b } else { 0 });
    integers(&d, "and.b32 %r2, %r2, 63; shr.s32 %r4, %r1, %r2;", |a, b, _| {
        (a as i32 >> (b & 63).min(31)) as u32
    });
    integers(&d, "popc.b32 %r4, %r1;", |a, _, _| a.count_ones());
    integers(&d, "clz.b32 %r4, %r1;", |a, _, _| a.leading_zeros());
    integers(&d, "brev.b32 %r4, %r1;", |a, _, _| a.reverse_bits());
    integers(&d, "bfe.u32 %r4, %r1, 23, 8;", |a, _, _| a >> 23 & 255);
    integers(&d, "bfe.s32 %r4, %r1, 4, 8;", |a, _, _| (a >> 4) as i8 as u32);
    integers(&d, "bfi.b32 %r4, %r1, %r2, 8, 12;", |a, b, _| b & !0xfff00 | a << 8 & 0xfff00);
    integers(&d, "prmt.b32 %r4, %r1, %r2, 0x7610;", |a, b, _| a & 0xffff | b & 0xffff_0000);
    integers(&d, "shf.l.wrap.b32 %r4, %r1, %r1, 13;", |a, _, _| a.rotate_left(13));
    integers(&d, "lop3.b32 %r4, %r1, %r2, %r3, 0x96;", |a, b, c| a ^ b ^ c);
    integers(&d, "mov.b32 {%h1, %h2}, %r1; mov.b32 %r4, {%h2, %h1};", |a, _, _| a.rotate_left(16));
}

#[test]
fn comparisons_know_nan() {
    let d = device("");
    let as_word = "selp.u32 %r4, 1, 0, %p1;";
    type Truth = fn(f32, f32) -> bool;
    let table: [(&str, Truth); 8] = [
        ("lt", |a, b| a < b),
        ("ge", |a, b| a >= b),
        ("ne", |a, b| a != b && !a.is_nan() && !b.is_nan()),
        ("neu", |a, b| a != b),
        ("ltu", |a, b| a < b || a.is_nan() || b.is_nan()),
        ("geu", |a, b| a >= b || a.is_nan() || b.is_nan()),
        ("num", |a, b| !a.is_nan() && !b.is_nan()),
        ("nan", |a, b| a.is_nan() || b.is_nan()),
    ];
    for (name, truth) in table {
        integers(&d, &format!("setp.{name}.f32 %p1, %f1, %f2; {as_word}"), |a, b, _| {
            u32::from(truth(f32::from_bits(a), f32::from_bits(b)))
        });
    }
    integers(
        &d,
        &format!("setp.eq.u32 %p2, %r3, %r3; setp.lt.and.s32 %p1|%p3, %r1, %r2, !%p2; {as_word}"),
        |_, _, _| 0,
    );
    integers(&d, &format!("setp.hi.u32 %p1, %r1, %r2; {as_word}"), |a, b, _| u32::from(a > b));
}

#[test]
fn warps_exchange() {
    let d = device("seed=9");
    let lane = "and.b32 %r6, %r0, 31;";
    let (a, other) = (bits(N, 1), bits(N, 2));
    let at = |i: usize, l: usize| a[i / 32 * 32 + l];
    let run = |op: &str| words(&d, op, [&a, &other, &other]);
    let got = run("shfl.sync.bfly.b32 %r4, %r1, 5, 31, -1;");
    assert!((0..N).all(|i| got[i] == at(i, (i % 32) ^ 5)));
    let got = run("shfl.sync.up.b32 %r4|%p1, %r1, 3, 0, -1; @!%p1 mov.u32 %r4, 7;");
    assert!((0..N).all(|i| got[i] == if i % 32 < 3 { 7 } else { at(i, i % 32 - 3) }));
    let got = run("shfl.sync.down.b32 %r4|%p1, %r1, 3, 31, -1; @!%p1 mov.u32 %r4, 7;");
    assert!((0..N).all(|i| got[i] == if i % 32 > 28 { 7 } else { at(i, i % 32 + 3) }));
    let got = run(&format!("{lane} xor.b32 %r6, %r6, 17; shfl.sync.idx.b32 %r4, %r1, %r6, 31, -1;"));
    assert!((0..N).all(|i| got[i] == at(i, (i % 32) ^ 17)));
    let got = run("redux.sync.max.u32 %r4, %r1, -1;");
    assert!((0..N).all(|i| got[i] == (0..32).map(|l| at(i, l)).max().unwrap()));
    let got = run("setp.gt.s32 %p1, %r1, 0; vote.sync.ballot.b32 %r4, %p1, -1;");
    let ballot = |i| (0..32).fold(0, |m, l| m | u32::from(at(i, l) as i32 > 0) << l);
    assert!((0..N).all(|i| got[i] == ballot(i)));
    // Threads that part meet again, in whatever order they run.
    let got = run(&format!(
        "{lane} setp.lt.u32 %p1, %r6, 11; @%p1 bra $low; add.u32 %r1, %r1, 1; bra $join; $low: add.u32 %r1, %r1, 2;\n\
         $join: shfl.sync.bfly.b32 %r4, %r1, 16, 31, -1;"
    ));
    let moved = |l: usize| if l < 11 { 2 } else { 1 };
    assert!((0..N).all(|i| got[i] == at(i, (i % 32) ^ 16).wrapping_add(moved((i % 32) ^ 16))));
}
