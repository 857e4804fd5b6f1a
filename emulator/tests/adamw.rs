//! A whole kernel: AdamW on four elements a thread, bit for bit what Rust computes; and how fast that goes.
#![cfg(target_os = "linux")]
#![allow(unsafe_code)]

mod common;

use common::{Device, device, shape};
use cudarc::driver::PushKernelArg;

const BETAS: [f32; 2] = [0.9, 0.999];
const REST: [f32; 2] = [0.1, 0.001];
const KEEP: f32 = 0.999;
const ALPHA: f32 = 0.01;
const ROOT: f32 = 2.0;
const EPS: f32 = 1e-8;

fn source() -> String {
    let x = |x: f32| format!("0f{:08X}", x.to_bits());
    let mut body = String::new();
    for k in 0..4 {
        let ([b1, b2], [r1, r2]) = (BETAS.map(x), REST.map(x));
        let (keep, alpha, root, eps) = (x(KEEP), x(ALPHA), x(ROOT), x(EPS));
        body += &format!(
            "mul.rn.f32 %a, %m{k}, {b1}; mul.rn.f32 %b, %g{k}, {r1}; add.rn.f32 %m{k}, %a, %b;
             mul.rn.f32 %a, %v{k}, {b2}; mul.rn.f32 %b, %g{k}, {r2}; mul.rn.f32 %b, %b, %g{k}; add.rn.f32 %v{k}, %a, %b;
             mul.rn.f32 %a, %p{k}, {keep}; mul.rn.f32 %b, %m{k}, {alpha}; sqrt.rn.f32 %c, %v{k};
             mul.rn.f32 %c, %c, {root}; add.rn.f32 %c, %c, {eps}; div.rn.f32 %b, %b, %c; sub.rn.f32 %p{k}, %a, %b;\n"
        );
    }
    let names = ["p", "m", "v", "g"];
    let access = |op: &str, n: &str| format!("{{%{n}0, %{n}1, %{n}2, %{n}3}}{op}");
    let loads: String = names
        .iter()
        .map(|n| {
            format!(
                "ld.param.u64 %d{n}, [{n}]; mad.wide.u32 %d{n}, %i, 16, %d{n}; ld.global.v4.f32 {}, [%d{n}];\n",
                access("", n)
            )
        })
        .collect();
    let stores: String =
        names[..3].iter().map(|n| format!("st.global.v4.f32 [%d{n}], {};\n", access("", n))).collect();
    format!(
        ".version 7.0\n.target sm_70\n.address_size 64\n.visible .entry k(.param .u64 p, .param .u64 m, .param .u64 v,
         .param .u64 g) .maxntid 256, 1, 1\n{{ .reg .f32 %p<4>, %m<4>, %v<4>, %g<4>, %a, %b, %c; .reg .b32 %i, %t;
         .reg .b64 %dp, %dm, %dv, %dg;\n mov.u32 %t, %tid.x; mov.u32 %i, %ctaid.x; mad.lo.u32 %i, %i, 256, %t;
         {loads}{body}{stores} ret; }}"
    )
}

/// Computes the same in Rust.
fn reference([p, m, v, g]: [f32; 4]) -> [f32; 3] {
    let m = m * BETAS[0] + g * REST[0];
    let v = v * BETAS[1] + g * REST[1] * g;
    [p * KEEP - m * ALPHA / (v.sqrt() * ROOT + EPS), m, v]
}

/// Runs some steps, and compares them with the reference.
fn steps(d: &Device, n: usize, steps: u32) {
    let f = d.load(&source()).unwrap_or_else(|_| panic!("{:?}", d.emulator.last_fault()));
    let column = |k: usize| (0..n).map(|i| ((i * 37 + k * 11) % 101) as f32 / 50.0).collect::<Vec<f32>>();
    let mut host = [column(0), column(1), column(2), column(3)];
    let [mut p, mut m, mut v, g] = [0, 1, 2, 3].map(|k| d.stream.clone_htod(&host[k]).unwrap());
    for _ in 0..steps {
        let blocks = shape((n / 1024) as u32, 256);
        // SAFETY: the arguments fit the parameters; what the kernel does with them the emulator checks.
        unsafe { d.stream.launch_builder(&f).arg(&mut p).arg(&mut m).arg(&mut v).arg(&g).launch(blocks) }
            .unwrap();
    }
    d.stream.synchronize().unwrap();
    let [hp, hm, hv, hg] = &mut host;
    for (((p, m), v), g) in hp.iter_mut().zip(hm).zip(hv).zip(hg) {
        for _ in 0..steps {
            [*p, *m, *v] = reference([*p, *m, *v, *g]);
        }
    }
    for (k, x) in [&p, &m, &v].into_iter().enumerate() {
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&d.stream.clone_dtoh(x).unwrap()), bits(&host[k]), "column {k}");
    }
}

#[test]
fn agrees_with_rust_bit_for_bit() {
    for options in ["", "checked,seed=7,lazy"] {
        steps(&device(options), 8192, 3);
    }
}
