//! Many small tensors, with threads that begin before the caller has walked over all.

use crate::exec::plan::CpuPlan;
use crate::{Cpu, Isa, Native};
use fallline_core::backend::{DeviceMemory, Pass, Plan, TensorPass, View};
use fallline_core::{Backend, Compute, Error, Format, Link, Result, Storage, rule};
use std::panic::{AssertUnwindSafe, catch_unwind};

rule! {
    /// Momentum at some step.
    pub MomentumRule(h: (), t) {}
    element(g: Grad) -> (p: Param, m: State) {
        m = L::splat(0.9) * m + g;
        p = p - L::splat(0.01) * m;
    }
}

const OPERANDS: usize = 3;

/// Lengths of small tensors with larger ones and empty ones among them.
fn lengths() -> Vec<usize> {
    let length = |i: usize| match i {
        100 | 401 => 70_000,
        i if i % 97 == 5 => 0,
        i => 600 + i % 300,
    };
    (0..700).map(length).collect()
}

/// Returns the parameter, state and gradient of each tensor, side by side.
fn operands(cpu: &Cpu) -> Vec<Storage> {
    let lengths = lengths();
    let requests: Vec<_> =
        (0..OPERANDS).flat_map(|_| lengths.iter().map(|&len| (Format::F32, len))).collect();
    let mut storages = cpu.allocate(&requests).unwrap();
    for (i, storage) in storages.iter_mut().enumerate() {
        let values: Vec<f32> = (0..storage.len()).map(|k| ((i * 31 + k) % 101) as f32 * 0.1 - 5.0).collect();
        cpu.write(storage, values.as_slice().into()).unwrap();
    }
    storages
}

/// Runs a pass over all, with what a tensor says of its length.
fn pass(
    cpu: &Cpu,
    plan: &mut Plan,
    storages: &mut [Storage],
    told: impl Fn(usize, usize) -> usize,
) -> Result<()> {
    let count = storages.len() / OPERANDS;
    let (params, rest) = storages.split_at_mut(count);
    let (states, grads) = rest.split_at_mut(count);
    let mut rest = params.iter_mut().zip(states).zip(grads).enumerate();
    cpu.run(Pass {
        kernel: Native::kernel::<MomentumRule>(),
        compute: Compute::F32,
        tensors: &mut |views| {
            let (i, ((param, state), grad)) = rest.next()?;
            let elements = told(i, param.len());
            let place = |name: &str| {
                let operands = Native::kernel::<MomentumRule>().operands;
                operands.iter().position(|operand| operand.name == name).unwrap()
            };
            views[place("p")] = Some(View::write(param));
            views[place("m")] = Some(View::write(state));
            views[place("g")] = Some(View::read(grad));
            Some(TensorPass { elements, constant_set: i % 50 / 49 })
        },
        constants: &[1.0, -0.5],
        tensor_scalars: &[],
        plan,
        sums: &mut [],
        fused: &[],
        checked: true,
    })
}

fn bits(cpu: &Cpu, storages: &[Storage]) -> Vec<u32> {
    let mut all = Vec::new();
    for storage in storages {
        let mut values = vec![0f32; storage.len()];
        cpu.read(storage, values.as_mut_slice().into()).unwrap();
        all.extend(values.iter().map(|x| x.to_bits()));
    }
    all
}

fn feeds(plan: &Plan) -> bool {
    plan.downcast_ref::<CpuPlan>().unwrap().feed.is_worth()
}

#[test]
fn the_bits_are_those_of_one_thread() {
    let run = |cpu: &Cpu, threads: usize| {
        let (mut storages, mut plan) = (operands(cpu), cpu.plan());
        for _ in 0..4 {
            pass(cpu, &mut plan, &mut storages, |_, len| len).unwrap();
            assert_eq!(feeds(&plan), threads > 1, "{threads} threads");
        }
        bits(cpu, &storages)
    };
    let expected = run(&Cpu::scalar(), 1);
    for threads in [1, 2, 3, 8] {
        let cpu = Cpu::with_isa(Isa::best(), threads).unwrap();
        assert!(run(&cpu, threads) == expected, "{threads} threads");
    }
}

#[test]
fn what_does_not_fit_after_all_says_that_something_was_written() {
    let cpu = Cpu::with_isa(Isa::best(), 2).unwrap();
    let (mut storages, mut plan) = (operands(&cpu), cpu.plan());
    let wrong = |i: usize, len: usize| if i == 650 { len + 1 } else { len };
    let before = bits(&cpu, &storages);
    let error = pass(&cpu, &mut plan, &mut storages, wrong).unwrap_err();
    assert!(matches!(error, Error::Length { .. }) && !error.may_have_written(), "{error}");
    assert!(bits(&cpu, &storages) == before, "nothing was known before");
    pass(&cpu, &mut plan, &mut storages, |_, len| len).unwrap();
    assert!(feeds(&plan));
    let error = pass(&cpu, &mut plan, &mut storages, wrong).unwrap_err();
    assert!(error.may_have_written() && error.to_string().contains("of tensor 650"), "{error}");
    let first = |i: usize, len: usize| if i == 3 { len + 1 } else { len };
    let error = pass(&cpu, &mut plan, &mut storages, first).unwrap_err();
    assert!(!error.may_have_written(), "nothing had begun: {error}");
    pass(&cpu, &mut plan, &mut storages, |_, len| len).unwrap();
}

#[test]
fn a_panic_of_the_caller_ends_the_pass() {
    let cpu = Cpu::with_isa(Isa::best(), 3).unwrap();
    let (mut storages, mut plan) = (operands(&cpu), cpu.plan());
    pass(&cpu, &mut plan, &mut storages, |_, len| len).unwrap();
    assert!(feeds(&plan));
    let panics = |i: usize, len: usize| if i == 600 { panic!("at 600") } else { len };
    let caught = catch_unwind(AssertUnwindSafe(|| pass(&cpu, &mut plan, &mut storages, panics)));
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"at 600"));
    pass(&cpu, &mut plan, &mut storages, |_, len| len).unwrap();
}
