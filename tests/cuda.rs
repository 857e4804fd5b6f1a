//! The emulated CUDA device against the CPU: the same bits, under its checks, with other orders of blocks and threads,
//! and with streams that run only what something waits for.

#![allow(unsafe_code)] // cudarc's own allocations, in one test

mod common;

use common::{Buffer, CASES, Random, Tensor, best, bits, cuda, outcome_of, recipe};
use fallline::core::backend::{MatMul, Matrix};
use fallline::{Backend, Format, Isa, NonFinite, Optimizer, Tensor as EngineTensor};
use fallline_cuda::Cuda;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the emulator is told. Numbers are arbitrary but for being different.
const MODES: [&str; 5] =
    ["unchecked,eager,seed=0", "checked,seed=1", "checked,seed=2", "checked,seed=3", "unchecked,lazy,seed=0"];

/// The emulator has one configuration: tests that change it take turns.
fn mode(options: &str) -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    fallline_emulator::install().expect("the emulator").configure(options);
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
    for options in MODES {
        let _turn = mode(options);
        // The checks make it some ten times slower: fewer elements, and each case in one mix of formats.
        let (lengths, mixes): (&[usize], &[_]) = match options.contains("unchecked") {
            true => (&LENGTHS, &[(F32, F32), (F64, F64), (Bf16, Bf16), (F16, F32), (F32, Bf16)]),
            false => (&LENGTHS[..7], &[(F32, Bf16), (F64, F64)]),
        };
        for (i, text) in CASES.iter().enumerate() {
            for formats in mixes {
                let tensors = tensors(*formats, lengths, i as u64);
                let on = |backend| outcome_of(common::build_on(backend, text), &tensors);
                assert_eq!(on(cuda()), on(best()), "{text}, {formats:?}, {options}");
            }
        }
    }
}

#[test]
fn norms_have_the_bits_of_the_cpu() {
    for options in MODES {
        let _turn = mode(options);
        let tensors = tensors((Format::F32, Format::F32), &[5, 4096, 9000, 0, 300], 5);
        let norm = |backend: Arc<dyn Backend>| {
            let mut tensors = tensors.clone();
            for tensor in &mut tensors {
                let n = tensor.value.values().len();
                tensor.grads = vec![Some(Buffer::new(Format::F32, &Random(n as u64).units(n)))];
            }
            let mut optimizer = recipe("AdamW").optimizer(backend).with_non_finite(NonFinite::Error);
            optimizer.step(&mut common::bind(&mut tensors, 0)).unwrap().grad_norm.unwrap()
        };
        assert_eq!(norm(cuda()).to_bits(), norm(best()).to_bits(), "{options}");
    }
}

#[test]
fn tensors_go_there_and_back() {
    for options in MODES {
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
                let product = MatMul { alpha, beta, add, c_start: 1, ..MatMul::new(a, b, c.storage_mut()) };
                backend.matmul(product).unwrap();
                c.to_vec::<f64>().unwrap()
            };
            for (one, other) in product(cuda()).iter().zip(product(common::cpu(Isa::best(), 1))) {
                assert!((one - other).abs() <= tolerance, "{format} {transpose_a} {transpose_b}");
            }
        }
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

#[test]
fn a_step_waits_for_nothing_on_the_device() {
    let _turn = mode(MODES[0]);
    let emulator = fallline_emulator::install().unwrap();
    let backend = cuda();
    let mut weight = EngineTensor::from_slice(&backend, &vec![1.0f32; 5000], [5000]).unwrap();
    let grad = EngineTensor::from_slice(&backend, &vec![1.0f32; 5000], [5000]).unwrap();
    let mut optimizer = recipe("AdamW").optimizer(Arc::clone(&backend));
    let mut step = || {
        optimizer.step(&mut [fallline::optim::param("w", &mut weight, &grad)]).unwrap();
    };
    step();
    emulator.reset();
    step();
    let calls = |name| emulator.calls(name);
    assert_eq!(calls("cuLaunchKernel"), 1, "one launch for all tensors");
    for name in [
        "cuStreamSynchronize",
        "cuCtxSynchronize",
        "cuMemcpyDtoHAsync_v2",
        "cuMemAllocAsync",
        "cuMemAlloc_v2",
    ] {
        assert_eq!(calls(name), 0, "{name}");
    }
}

#[test]
fn what_is_not_there_is_named() {
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
}
