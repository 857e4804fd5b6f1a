//! What rules of algorithms do not have: values that change places, choices of choices, sums of what is replaced.

use crate::{Cpu, Isa, Native};
use fallline_core::backend::{Backend, DeviceMemory, Pass, TensorPass, View};
use fallline_core::{Compute, Kernel, Link, rule};

pub struct Flags(f64, f64);

rule! {
    /// Two states change places, and a third takes one of them.
    pub Swap(h: Flags, t) {}
    element() -> (a: State, b: State, c: State) sum(before) {
        before = a;
        c = a;
        a = b;
        b = c;
    }
}

rule! {
    /// Choices of choices, of what is read, of what is written, and of what is the same everywhere.
    pub Choices(h: Flags, t) {
        let one = h.0;
        let other = h.1;
    }
    element(g: Grad) -> (p: Param, m: State, n: State) sum(total, count) {
        let half = L::lit(0.5) * one;
        let x = L::when(one, p, m);
        let y = L::when(other, x, L::when(one, half, g));
        m = y.max(g) - half;
        total = p + m;
        count = L::lit(1.0);
        p = L::when(other, p, x) + L::select(g.lt(y), half, m);
        n = half;
    }
}

fn passed(cpu: &Cpu, kernel: &'static Kernel, compute: Compute, elements: usize, flags: &Flags) -> String {
    let requests = vec![(compute.format(), elements); kernel.operands.len()];
    let mut storages = cpu.allocate(&requests).unwrap();
    for (k, storage) in storages.iter_mut().enumerate() {
        let values: Vec<f64> = (0..elements).map(|i| ((i * 37 + k * 11) % 101) as f64 / 7.0 - 6.0).collect();
        cpu.write(storage, values.as_slice().into()).unwrap();
    }
    let mut row = vec![1.0; 1 + kernel.scalars.len()];
    kernel.compute_scalars(flags, 1, &mut row[1..]);
    let mut sums = vec![0.0; kernel.sums.len()];
    let mut left = Some(&mut storages);
    let pass = Pass {
        kernel,
        compute,
        tensors: &mut |views| {
            for (view, storage) in views.iter_mut().zip(left.take()?) {
                *view = Some(View::write(storage));
            }
            Some(TensorPass { elements, row: 0 })
        },
        rows: &row,
        tensor_scalars: &[],
        plan: &mut cpu.plan(),
        sums: &mut sums,
        beside: &[],
        checked: false,
    };
    cpu.run(pass).unwrap();
    let read = |storage| {
        let mut values = vec![0.0f64; elements];
        cpu.read(storage, values.as_mut_slice().into()).unwrap();
        values
    };
    format!("{:?} {sums:?}", storages.iter().map(read).collect::<Vec<_>>())
}

#[test]
fn what_is_interpreted_is_what_is_compiled() {
    for kernel in [Native::kernel::<Swap>(), Native::kernel::<Choices>()] {
        let interpreted = kernel.derived("Interpreted".into(), kernel.record(), kernel);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            let cpu = Cpu::with_isa(isa, 1).unwrap();
            for compute in [Compute::F32, Compute::F64] {
                for flags in [Flags(0.0, 0.0), Flags(0.0, 1.0), Flags(1.0, 0.0), Flags(1.0, 1.0)] {
                    for elements in [0, 3, 256, 700] {
                        let expected = passed(&cpu, kernel, compute, elements, &flags);
                        let got = passed(&cpu, interpreted, compute, elements, &flags);
                        assert_eq!(got, expected, "{} on {isa} in {compute}, {elements}", kernel.name);
                    }
                }
            }
        }
    }
}

#[test]
fn temporaries_are_few() {
    let tape = super::Tape::new(&Native::kernel::<Choices>().record());
    // All that is new at once: the momentum is kept for the end, since the old one may be chosen until then.
    assert!(tape.temporaries <= 4, "{tape:?}");
}
