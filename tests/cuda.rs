//! The emulated CUDA device against the CPU: the same bits, under its checks. Blocks and threads come in other
//! orders, and streams run only what something waits for.

#![allow(unsafe_code)] // cudarc's own allocations, in one test

mod common;

use common::{
    Buffer, CASES, MODIFIED, Random, Tensor, best, bits, cuda, format_names, on_gpu, outcome_of, recipe,
};
use fallline::core::backend::{Gemm, Matrix};
use fallline::optim::param;
use fallline::{Backend, Format, Isa, NonFinitePolicy, Optimizer, Tensor as EngineTensor};
use fallline_cuda::Cuda;
use fallline_cuda::cudarc::driver::result;
use half::{bf16, f16};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the emulator is told. Numbers are arbitrary but for being different.
const MODES: [&str; 5] =
    ["unchecked,eager,seed=0", "checked,seed=1", "checked,seed=2", "checked,seed=3", "unchecked,lazy,seed=0"];

/// Returns those of the emulator; a real GPU has only one.
fn modes() -> &'static [&'static str] {
    if on_gpu() { &MODES[..1] } else { &MODES }
}

/// The emulator has one configuration: tests that change it take turns.
fn mode(options: &str) -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if !on_gpu() {
        let emulator = fallline_emulator::install().expect("the emulator");
        emulator.configure("devices=1");
        emulator.configure(options);
    }
    turn
}

/// Lengths around a warp's step, a chunk and a segment of a sum.
const LENGTHS: [usize; 9] = [0, 1, 3, 255, 256, 257, 1025, 4096, 4097];

fn tensors(formats: (Format, Format), lengths: &[usize], seed: u64) -> Vec<Tensor> {
    let mut random = Random(seed);
    let tensor = |(i, &n): (usize, &usize)| {
        let grads = (0..3).map(|t| {
            let missing = t == 1 && i % 4 == 2;
            (!missing).then(|| Buffer::new(formats.1, &random.wilds(n)))
        });
        let grads = grads.collect();
        Tensor::new(format!("p{i}"), Buffer::new(formats.0, &random.wilds(n)), grads)
    };
    lengths.iter().enumerate().map(tensor).collect()
}

#[test]
fn every_rule_gives_the_bits_of_the_cpu() {
    use Format::{Bf16, F16, F32, F64};
    for &options in modes() {
        let _turn = mode(options);
        // The checks make it some ten times slower: fewer elements, and each case in one mix of formats.
        let (lengths, mixes): (&[usize], &[_]) = match options.contains("unchecked") {
            true => (&LENGTHS, &[(F32, F32), (F64, F64), (Bf16, Bf16), (F16, F32), (F32, Bf16)]),
            false => (&LENGTHS[..7], &[(F32, Bf16), (F64, F64)]),
        };
        for (i, text) in CASES.iter().chain(MODIFIED).enumerate() {
            for formats in mixes {
                let tensors = tensors(*formats, lengths, i as u64);
                let on = |backend| outcome_of(common::build_on(backend, text), &tensors);
                assert_eq!(on(cuda()), on(best()), "{text}, {formats:?}, {options}");
            }
        }
    }
}

/// Tensors whose blocks are plain, zero, next to zero, or hold what is not finite.
fn blocks(formats: (Format, Format), lengths: &[usize]) -> Vec<Tensor> {
    let mut random = Random(7);
    let mut tensors = Vec::new();
    for (kind, size) in [("plain", 1.0), ("zero", 0.0), ("tiny", 3e-39), ("wild", 1.0)] {
        for &n in lengths {
            let mut numbers = || match kind {
                "wild" => random.wilds(n),
                _ => random.units(n).into_iter().map(|x| x * size).collect(),
            };
            let value = Buffer::new(formats.0, &numbers());
            let grads = (0..3).map(|_| Some(Buffer::new(formats.1, &numbers()))).collect();
            tensors.push(Tensor::new(format!("{kind}{n}"), value, grads));
        }
    }
    tensors
}

/// Returns the codes and scales that a run leaves behind, in addition to its numbers.
fn stored_of(optimizer: &fallline::Driver) -> Vec<(String, Vec<u8>, Vec<u32>)> {
    let saved = optimizer.save().unwrap();
    let mut stored = Vec::new();
    for param in optimizer.params() {
        for state in &param.states {
            if let Some((_, codes)) = saved.codes(&param.name, state) {
                let scales = saved.scales(&param.name, state).unwrap();
                let scales = scales.into_iter().map(|x| x.to_bits()).collect();
                stored.push((format!("{}/{state}", param.name), codes.to_vec(), scales));
            }
        }
    }
    stored
}

#[test]
fn every_storage_gives_the_bits_of_the_cpu() {
    use Format::{Bf16, F16, F32, F64};
    let mut cases: Vec<(String, (Format, Format))> = Vec::new();
    for format in format_names().into_iter().filter(|name| !["f64", "f32"].contains(name)) {
        cases.push((format!("AdamW', lr=0.01, state_format='{format}'"), (F32, Bf16)));
        cases.push((format!("RMSprop', lr=0.01, momentum=0.9, state_format='{format}'"), (F64, F64)));
        cases.push((
            format!("Lion', lr=0.01, state_format='{format}', param_format='bf16_sr', seed=3"),
            (Bf16, Bf16),
        ));
    }
    for roundings in ["'bf16_sr'", "'bf16_rne'", "{'m': 'bf16_sr', 'v': 'bf16_rne'}"] {
        cases.push((format!("AdamW', lr=0.01, state_format={roundings}"), (F32, Bf16)));
    }
    cases.push(("LAMB', lr=0.01, state_format='bf16', seed=9".into(), (F64, F64)));
    let sr = "state_format='bf16', param_format='bf16_sr', seed=5";
    cases.push((format!("AdamW', lr=0.01, {sr}"), (Bf16, Bf16)));
    cases.push((format!("LAMB', lr=0.01, max_unorm=0.1, {sr}"), (Bf16, F32)));
    cases.push(("AdamW', lr=0.01, param_format='master'".into(), (Bf16, Bf16)));
    cases.push(("LAMB', lr=0.01, max_unorm=0.1, param_format='master'".into(), (F16, F16)));
    cases.push(("Adam', lr=0.01, amsgrad=True, param_format='master', state_format='q4'".into(), (F16, F32)));
    // Blocks of 128 and 256, and what is around their ends.
    let lengths = [0, 1, 2, 127, 128, 129, 255, 256, 257, 300, 1409, 4097];
    for &options in modes() {
        let _turn = mode(options);
        let lengths = if options.contains("unchecked") { &lengths[..] } else { &lengths[3..11] };
        for (text, formats) in &cases {
            let on = |backend: Arc<dyn Backend>| {
                let mut optimizer = common::recipe(&format!("dict(type='{text})")).optimizer(backend);
                let mut tensors = blocks(*formats, lengths);
                common::run(&mut optimizer, &mut tensors, 0..3);
                (common::outcome(&optimizer, &tensors), stored_of(&optimizer))
            };
            let (expected, got) = (on(best()), on(cuda()));
            assert!(
                expected.0 == got.0,
                "{text}, {formats:?}, {options}: {}",
                common::first_difference(&expected.0, &got.0)
            );
            for (expected, got) in expected.1.iter().zip(&got.1) {
                assert_eq!(expected, got, "{text}, {formats:?}, {options}");
            }
        }
    }
}

#[test]
fn paged_states_are_in_managed_memory_and_the_same_bits() {
    // Above and below the hundred thousand elements from which states are paged; three steps, of which each piece of
    // the states is asked for in its order.
    let tensors: Vec<Tensor> = [("large", 150_001), ("small", 99), ("more", 100_000)]
        .map(|(name, n)| Tensor::plain(name, n, 3, &mut Random(n as u64)))
        .into();
    for options in ["unchecked,eager,seed=0", "unchecked,lazy,seed=0"] {
        for name in ["PagedAdamW", "PagedLion8bit", "PagedAdEMAMix"] {
            let _turn = mode(options);
            let text = format!("dict(type='{name}', lr=0.01)");
            let on = |backend| outcome_of(recipe(&text).optimizer(backend), &tensors);
            let calls = |name: &str| match on_gpu() {
                true => 0,
                false => fallline_emulator::install().unwrap().calls(name),
            };
            let before = ["cuMemAllocManaged", "cuMemPrefetchAsync"].map(calls);
            assert_eq!(on(cuda()), on(best()), "{name}, {options}");
            let after = ["cuMemAllocManaged", "cuMemPrefetchAsync"].map(calls);
            if !on_gpu() {
                assert_eq!(after[0] - before[0], 1, "{name}: one arena");
                // For each step, state and paged parameter one at least.
                assert!(after[1] - before[1] >= 6, "{name}: {} prefetches", after[1] - before[1]);
            }
        }
    }
}

#[test]
fn norms_have_the_bits_of_the_cpu() {
    for &options in modes() {
        let _turn = mode(options);
        let tensors = tensors((Format::F32, Format::F32), &[5, 4096, 9000, 0, 300], 5);
        let norm = |backend: Arc<dyn Backend>| {
            let mut tensors = tensors.clone();
            for tensor in &mut tensors {
                let n = tensor.value.values().len();
                tensor.grads = vec![Some(Buffer::new(Format::F32, &Random(n as u64).units(n)))];
            }
            let mut optimizer = recipe("AdamW").optimizer(backend).with_non_finite(NonFinitePolicy::Error);
            optimizer.step(&mut common::bind(&mut tensors, 0)).unwrap().grad_norm().unwrap()
        };
        assert_eq!(norm(cuda()).to_bits(), norm(best()).to_bits(), "{options}");
    }
}

#[test]
fn tensors_go_there_and_back() {
    for &options in modes() {
        let _turn = mode(options);
        let backend = cuda();
        let values = Random(3).wilds(3000);
        for stored in Format::ALL {
            let mut tensor = EngineTensor::zeros(&backend, stored, [30, 100]).unwrap();
            assert_eq!(tensor.to_vec::<f64>().unwrap(), vec![0.0; 3000]);
            backend.write(tensor.storage_mut(), (&values).into()).unwrap();
            assert_eq!(
                bits(&tensor.to_vec::<f64>().unwrap()),
                Buffer::new(stored, &values).bits(),
                "{stored}"
            );
            let mut copy = EngineTensor::zeros(&backend, stored, [3000]).unwrap();
            backend.copy(tensor.storage(), copy.storage_mut()).unwrap();
            assert_eq!(bits(&copy.to_vec::<f64>().unwrap()), bits(&tensor.to_vec::<f64>().unwrap()));
        }
        // More than the staging buffers hold.
        let long: Vec<f32> = (0..3 << 20).map(|i| i as f32).collect();
        let tensor = EngineTensor::from_slice(&backend, &long, [long.len()]).unwrap();
        assert_eq!(tensor.to_vec::<f32>().unwrap(), long, "{options}");
    }
}

#[test]
fn products_agree_with_the_cpu() {
    let _turn = mode(MODES[0]);
    // In bf16 results of up to 8 differ by half a step of their last place at most: 2⁻⁶.
    for (format, tolerance) in [(Format::F64, 1e-14), (Format::F32, 1e-5), (Format::Bf16, 0.0157)] {
        for (transpose_a, transpose_b) in [(false, false), (true, false), (false, true), (true, true)] {
            let (m, k, n) = (7, 11, 5);
            let product = |backend: Arc<dyn Backend>| {
                let tensor = |seed: u64, count: usize| {
                    let mut tensor = EngineTensor::zeros(&backend, format, [count]).unwrap();
                    backend.write(tensor.storage_mut(), (&Random(seed).units(count)).into()).unwrap();
                    tensor
                };
                // Inside larger storages, so that where a matrix starts counts.
                let (a, b, mut c) = (tensor(1, m * k + 3), tensor(2, k * n + 9), tensor(3, m * n + 2));
                let matrix = |tensor, rows, columns, transposed| match transposed {
                    true => Matrix::new(tensor, columns, rows).transpose(),
                    false => Matrix::new(tensor, rows, columns),
                };
                let (alpha, beta) = (0.5, -2.0);
                let a = matrix(a.storage(), m, k, transpose_a).at(3);
                let b = matrix(b.storage(), k, n, transpose_b).at(4);
                // What is added is the old result, or another matrix.
                let other = tensor(4, m * n + 5);
                let add = transpose_a.then(|| Matrix::new(other.storage(), m, n).at(2));
                let product = Gemm { alpha, beta, c_in: add, c_start: 1, ..Gemm::new(a, b, c.storage_mut()) };
                backend.linalg().gemm(product).unwrap();
                c.to_vec::<f64>().unwrap()
            };
            for (one, other) in product(cuda()).iter().zip(product(common::cpu(Isa::best(), 1))) {
                assert!((one - other).abs() <= tolerance, "{format} {transpose_a} {transpose_b}");
            }
        }
    }
}

#[test]
fn products_of_16_bits_add_up_in_single_precision() {
    let _turn = mode(MODES[0]);
    let backend = cuda();
    // In bf16 a sum of ones stops at 256, and this factor is 1; in f16 one of 2,049 ones stops at 2,048.
    let product = |format: Format, k: usize, alpha: f64| {
        let mut ones = EngineTensor::zeros(&backend, format, [2 * k]).unwrap();
        ones.write(&vec![1.0f64; 2 * k]).unwrap();
        let mut c = EngineTensor::zeros(&backend, format, [4]).unwrap();
        let (a, b) = (Matrix::new(ones.storage(), 2, k), Matrix::new(ones.storage(), k, 2));
        backend.linalg().gemm(Gemm { alpha, ..Gemm::new(a, b, c.storage_mut()) }).unwrap();
        c.to_vec::<f64>().unwrap()
    };
    let expected = bf16::from_f32(600.0 * 1.0036).to_f64();
    assert_ne!(expected, 600.0);
    assert_eq!(product(Format::Bf16, 600, 1.0036), [expected; 4]);
    assert_eq!(product(Format::F16, 4100, 1.0), [f16::from_f32(4100.0).to_f64(); 4]);
    // TF32 has 10 bits behind the point: it would lose the last of these.
    let x = 1.0 + 2f32.powi(-20);
    let one = EngineTensor::from_slice(&backend, &[x], [1]).unwrap();
    let mut c = EngineTensor::zeros(&backend, Format::F32, [1]).unwrap();
    let (a, unit) = (one.storage(), EngineTensor::from_slice(&backend, &[1.0f32], [1]).unwrap());
    let (a, b) = (Matrix::new(a, 1, 1), Matrix::new(unit.storage(), 1, 1));
    backend.linalg().gemm(Gemm::new(a, b, c.storage_mut())).unwrap();
    assert_eq!(c.to_vec::<f32>().unwrap(), [x]);
}

#[test]
fn arrays_become_tensors_and_back() {
    let _turn = mode(MODES[0]);
    let array = ndarray::Array2::from_shape_fn((3, 5), |(r, c)| (10 * r + c) as f32);
    for backend in [cuda(), common::cpu(Isa::best(), 1)] {
        for array in [array.view(), array.t()] {
            let mut tensor = EngineTensor::from_array(&backend, &array).unwrap();
            assert_eq!(tensor.shape().dims(), array.shape());
            assert_eq!(tensor.to_array::<f32>().unwrap(), array.into_dyn());
            // Only the host's memory has views, and only of its own type.
            assert_eq!(tensor.view::<f32>().is_some(), backend.is_host_accessible());
            assert!(tensor.view::<f64>().is_none());
            if let Some(mut view) = tensor.view_mut::<f32>() {
                view[[1, 2]] = -1.0;
                assert_eq!(tensor.to_array::<f32>().unwrap()[[1, 2]], -1.0);
            }
        }
        let scalar = ndarray::arr0(2.5f64);
        assert_eq!(
            EngineTensor::from_array(&backend, &scalar).unwrap().to_array::<f64>().unwrap(),
            scalar.into_dyn()
        );
    }
}

#[test]
fn memory_of_the_users_own_is_adopted() {
    let _turn = mode("checked,seed=4");
    let cuda = Arc::new(Cuda::new(0).unwrap());
    let context = fallline_cuda::cudarc::driver::CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let values: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let slice = stream.clone_htod(&values).unwrap();
    let mut weight = cuda.adopt(slice, [10, 100]).unwrap();
    let backend: Arc<dyn Backend> = cuda.clone();
    let grad = EngineTensor::from_slice(&backend, &vec![1.0f32; 1000], [10, 100]).unwrap();
    let mut optimizer = recipe("dict(type='SGD', lr=0.5)").optimizer(backend);
    optimizer.step(&mut [fallline::optim::param("w", &mut weight, &grad)]).unwrap();
    let expected: Vec<f32> = values.iter().map(|x| x - 0.5).collect();
    assert_eq!(weight.to_vec::<f32>().unwrap(), expected);

    let slice = stream.clone_htod(&values).unwrap();
    let error = cuda.adopt(slice, [7, 7]).unwrap_err().to_string();
    assert_eq!(error, "tensor: memory for shape [7, 7] has 1000 elements, expected 49");
}

/// Everything by which the host can wait for the device, or stop it.
const WAITS: [&str; 9] = [
    "cuStreamSynchronize",
    "cuCtxSynchronize",
    "cuEventSynchronize",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoH_v2",
    "cuMemAllocAsync",
    "cuMemAlloc_v2",
    "cuMemAllocHost_v2",
    "cuMemHostAlloc",
];

#[test]
fn a_step_waits_for_nothing_on_the_device() {
    if on_gpu() {
        return; // It counts calls of the emulated driver.
    }
    let _turn = mode(MODES[0]);
    let emulator = fallline_emulator::install().unwrap();
    let backend = cuda();
    let mut weight = EngineTensor::from_slice(&backend, &vec![1.0f32; 5000], [5000]).unwrap();
    let grad = EngineTensor::from_slice(&backend, &vec![1.0f32; 5000], [5000]).unwrap();
    let mut optimizer = recipe("AdamW").optimizer(Arc::clone(&backend));
    let mut step = || {
        optimizer.step(&mut [param("w", &mut weight, &grad)]).unwrap();
    };
    step();
    emulator.reset();
    (0..100).for_each(|_| step());
    assert_eq!(emulator.calls("cuLaunchKernel"), 100, "one launch for all tensors");
    for name in WAITS {
        assert_eq!(emulator.calls(name), 0, "{name}");
    }
    // A report of the gradients' norm needs to wait for it.
    let mut optimizer = recipe("AdamW").optimizer(backend).with_non_finite(NonFinitePolicy::Error);
    optimizer.step(&mut [param("w", &mut weight, &grad)]).unwrap();
    emulator.reset();
    optimizer.step(&mut [param("w", &mut weight, &grad)]).unwrap();
    assert_eq!(emulator.calls("cuEventSynchronize"), 1);
}

/// A parameter of a thousand elements, with a gradient that is copied from an input within the captured step.
#[test]
fn a_captured_step_is_replayed_with_its_own_scalars() {
    for &options in modes() {
        let _turn = mode(options);
        for text in ["AdamW", "dict(type='SGD', lr=0.1, momentum=0.9)", "Lion", "NAdam"] {
            let inputs: Vec<Vec<f32>> =
                (0..6).map(|t| Random(t).units(1000).into_iter().map(|x| x as f32).collect()).collect();
            let start = vec![0.5f32; 1000];
            let lr = |t: usize| fallline::optim::hyper::Value::Float(0.01 / (1.0 + t as f64));

            let mut expected = start.clone();
            let mut optimizer = recipe(text).optimizer(common::cpu(Isa::best(), 1));
            for (t, input) in inputs.iter().enumerate() {
                optimizer.set(0, &[("lr", lr(t))]).unwrap();
                optimizer.step(&mut [param("w", &mut expected, input)]).unwrap();
            }

            let cuda = Arc::new(Cuda::new(0).unwrap());
            let backend: Arc<dyn Backend> = cuda.clone();
            let mut weight = EngineTensor::from_slice(&backend, &start, [1000]).unwrap();
            let mut input = EngineTensor::from_slice(&backend, &inputs[0], [1000]).unwrap();
            let grad = EngineTensor::from_slice(&backend, &inputs[0], [1000]).unwrap();
            let mut optimizer = recipe(text).optimizer(Arc::clone(&backend));
            let mut step = |t| {
                optimizer.set(0, &[("lr", lr(t))]).unwrap();
                optimizer.step(&mut [param("w", &mut weight, &grad)])
            };
            step(0).unwrap();
            input.write(&inputs[1]).unwrap();
            let (from, to) = (input.storage().address() as u64, grad.storage().address() as u64);
            let captured = cuda.capture(|stream| {
                // SAFETY: both tensors have this many bytes, and outlive the graph.
                unsafe { result::memcpy_dtod_async(to, from, 4000, stream.cu_stream()) }.unwrap();
                step(1)
            });
            let (mut captured, report) = captured.unwrap();
            assert_eq!(report.updated, 1);
            for (t, values) in inputs.iter().enumerate().skip(2) {
                input.write(values).unwrap();
                captured.replay(|| step(t)).unwrap();
            }
            let found = weight.to_vec::<f32>().unwrap();
            assert_eq!(
                found.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
                expected.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
                "{text}, {options}"
            );
        }
    }
}

#[test]
fn what_cannot_be_captured_is_refused() {
    let _turn = mode(MODES[0]);
    let cuda = Arc::new(Cuda::new(0).unwrap());
    let backend: Arc<dyn Backend> = cuda.clone();
    let ones = |n: usize| EngineTensor::from_slice(&backend, &vec![1.0f32; n], [n]).unwrap();
    let (mut weight, mut other, grad, mut host) = (ones(8), ones(8), ones(8), vec![1.0f32; 8]);
    let mut refused = |text: &str, steps: usize, on_host: bool| {
        let mut optimizer = recipe(text).optimizer(Arc::clone(&backend));
        let mut step = || match on_host {
            true => optimizer.step(&mut [param("w", &mut host, &grad)]),
            false => optimizer.step(&mut [param("w", &mut weight, &grad)]),
        };
        (0..steps).for_each(|_| _ = step().unwrap());
        cuda.capture(|_| step()).unwrap_err().to_string()
    };
    assert_eq!(refused("AdamW", 0, false), "cuda:0: an allocation cannot be part of a captured step");
    assert_eq!(refused("AdamW", 1, true), "cuda:0: a copy cannot be part of a captured step");
    // A policy for NaN looks at the gradients first.
    let mut checked = recipe("AdamW").optimizer(Arc::clone(&backend)).with_non_finite(NonFinitePolicy::Error);
    checked.step(&mut [param("w", &mut weight, &grad)]).unwrap();
    let sums = cuda.capture(|_| checked.step(&mut [param("w", &mut weight, &grad)])).unwrap_err().to_string();
    assert!(sums.ends_with("its sums come back to the host, so that its step cannot be captured"), "{sums}");

    // The device goes on as if nothing had been; a replay takes what was captured and nothing else.
    let mut optimizer = recipe("SGD").optimizer(Arc::clone(&backend));
    optimizer.step(&mut [param("w", &mut weight, &grad)]).unwrap();
    let captured = cuda.capture(|_| optimizer.step(&mut [param("w", &mut weight, &grad)]));
    let (mut captured, _) = captured.unwrap();
    let before = weight.to_vec::<f32>().unwrap();
    let error = captured.replay(|| optimizer.step(&mut [param("w", &mut other, &grad)])).unwrap_err();
    assert_eq!(error.to_string(), "SgdRule: this is not the pass that was captured: capture the step again");
    let error = captured.replay(|| Ok::<_, fallline::core::Error>(())).unwrap_err().to_string();
    assert_eq!(error, "cuda:0: 0 passes were replayed, and 1 were captured");
    assert_eq!(weight.to_vec::<f32>().unwrap(), before, "nothing was launched");
    // A step in between changes the tables; a replay brings its own back.
    optimizer.step(&mut [param("w", &mut other, &grad)]).unwrap();
    captured.replay(|| optimizer.step(&mut [param("w", &mut weight, &grad)])).unwrap();
    let expected: Vec<f32> = before.iter().map(|x| x - 1e-3).collect();
    assert_eq!(weight.to_vec::<f32>().unwrap(), expected);
    // A panic leaves the stream usable too.
    let panics = || cuda.capture(|_| -> fallline::core::Result<()> { panic!("of the work") }).map(drop);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
    backend.synchronise().unwrap();
}

#[test]
fn what_is_not_there_is_named() {
    if on_gpu() {
        return; // It needs two devices, and no more.
    }
    let _turn = mode("devices=2");
    let error = Cuda::new(5).unwrap_err().to_string();
    assert_eq!(error, "there is no cuda:5: the driver finds 2 CUDA devices, cuda:0 to cuda:1");
    let (one, other) = (Cuda::new(0).unwrap().shared(), Cuda::new(1).unwrap().shared());
    let mut weight = EngineTensor::zeros(&one, Format::F32, [4]).unwrap();
    let grad = EngineTensor::zeros(&other, Format::F32, [4]).unwrap();
    let mut optimizer = recipe("AdamW").optimizer(one);
    let error =
        optimizer.step(&mut [fallline::optim::param("w", &mut weight, &grad)]).unwrap_err().to_string();
    assert_eq!(error, "parameter \"w\": a tensor on cuda:1 was given to an optimizer on cuda:0");

    let backend = Arc::clone(weight.backend());
    let error = backend.copy(grad.storage(), weight.storage_mut()).unwrap_err().to_string();
    assert_eq!(error, "copy: the source on cuda:1 is not in memory that cuda:0 can reach");
}
