//! Every call of the CUDA driver fails once: an error comes back, and nothing panics or leaks. Parameters are as
//! they were, or the optimizer says that it must be reloaded. This is a separate process, since the emulator is one
//! for all.

mod common;

use common::{Random, recipe};
use fallline::optim::{Error, param};
use fallline::{Backend, Driver, Format, NonFinitePolicy, Tensor};
use fallline_cuda::Cuda;
use fallline_emulator::Emulator;
use std::sync::{Arc, Mutex, PoisonError};

/// CUDA's numbers of the errors that are planted.
const OUT_OF_MEMORY: u32 = 2;
const ILLEGAL_ADDRESS: u32 = 700;
const UNKNOWN: u32 = 999;

const LENGTHS: [usize; 3] = [5, 300, 4100];

/// Tests take turns: calls are counted for the whole process.
fn alone<R>(test: impl FnOnce(&'static Emulator) -> R) -> R {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let emulator = fallline_emulator::install().expect("the emulator");
    emulator.configure("checked,seed=0,devices=1");
    emulator.reset();
    test(emulator)
}

/// An optimizer with parameters, half of them on the device.
struct Trainer {
    optimizer: Driver,
    /// The same, which propagates what is not finite.
    plain: Driver,
    names: Vec<String>,
    host: Vec<f32>,
    device: Vec<Tensor>,
    grads: Vec<Vec<f32>>,
}

impl Trainer {
    fn new(text: &str) -> Trainer {
        let backend: Arc<dyn Backend> = Cuda::new(0).unwrap().shared();
        let mut random = Random(9);
        let mut draw = |n: &usize| random.units(*n).into_iter().map(|x| x as f32).collect::<Vec<f32>>();
        let host = draw(&LENGTHS[0]);
        let tensor = |n| Tensor::from_slice(&backend, &draw(n), [*n]).unwrap();
        let device = LENGTHS[1..].iter().map(tensor).collect();
        let grads = LENGTHS.iter().map(|&n| (0..n).map(|i| 0.1 + (i % 9) as f32).collect()).collect();
        let plain = recipe(text).optimizer(Arc::clone(&backend));
        let optimizer = recipe(text).optimizer(backend).with_non_finite(NonFinitePolicy::Skip);
        Trainer { optimizer, plain, names: ["a", "b", "c"].map(str::to_owned).to_vec(), host, device, grads }
    }

    fn step(&mut self) -> Result<(), Error> {
        let mut bindings = vec![param(&self.names[0], &mut self.host, &self.grads[0])];
        for (i, tensor) in self.device.iter_mut().enumerate() {
            bindings.push(param(&self.names[i + 1], tensor, &self.grads[i + 1]));
        }
        self.optimizer.step(&mut bindings).map(drop)
    }

    /// Runs a step of the parameters on the device, without a look at their gradients.
    fn step_on_device(&mut self) -> Result<(), Error> {
        let grads: Vec<Tensor> = (self.device.iter().zip(&self.grads[1..]))
            .map(|(tensor, grad)| Tensor::from_slice(tensor.backend(), grad, [grad.len()]))
            .collect::<Result<_, _>>()
            .map_err(Error::Backend)?;
        let bindings = self.names[1..].iter().zip(&mut self.device).zip(&grads);
        let mut bindings: Vec<_> = bindings.map(|((name, tensor), grad)| param(name, tensor, grad)).collect();
        self.plain.step(&mut bindings).map(drop)
    }

    fn values(&self) -> Vec<Vec<u32>> {
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect();
        let tensors = self.device.iter().map(|tensor| bits(&tensor.to_vec::<f32>().unwrap()));
        [bits(&self.host)].into_iter().chain(tensors).collect()
    }

    /// Runs a step, tried again while the driver hands in errors of calls that had no way to tell them.
    fn step_at_last(&mut self) -> Result<(), Error> {
        let mut stepped = self.step();
        for _ in 0..3 {
            if matches!(stepped, Err(Error::Backend(_))) {
                stepped = self.step();
            }
        }
        stepped
    }
}

/// Returns the parameters after each of some steps without faults.
fn undisturbed(text: &str, steps: usize) -> Vec<Vec<Vec<u32>>> {
    let mut trainer = Trainer::new(text);
    let mut after = vec![trainer.values()];
    for _ in 0..steps {
        trainer.step().unwrap();
        after.push(trainer.values());
    }
    after
}

/// Plants `failure(n)` for n = 1, 2, … in step `at`, until the step has fewer calls than that.
fn every_call_fails_once(text: &str, at: usize, failure: impl Fn(u64) -> String) -> (u64, u64) {
    alone(|emulator| {
        let reference = undisturbed(text, at + 2);
        let (mut failed, mut poisoned) = (0, 0);
        for n in 1.. {
            let before = emulator.allocations();
            let mut trainer = Trainer::new(text);
            (0..at).for_each(|_| trainer.step().unwrap());
            emulator.reset();
            emulator.configure(&failure(n));
            let stepped = trainer.step();
            let calls = emulator.all_calls();
            emulator.reset();
            if let Err(error) = &stepped {
                failed += 1;
                assert!(!error.to_string().contains('\n'), "one line: {error}");
            }
            match trainer.step_at_last() {
                Ok(()) => {
                    let steps = at + 1 + usize::from(stepped.is_ok());
                    assert_eq!(trainer.values(), reference[steps], "{text}: call {n}: {stepped:?}");
                }
                Err(Error::Poisoned { .. }) => poisoned += 1,
                Err(error) => panic!("{text}: after call {n} failed with {stepped:?}: {error}"),
            }
            drop(trainer);
            assert_eq!(emulator.allocations(), before, "{text}: call {n}: something leaks");
            if stepped.is_ok() && calls < n {
                break;
            }
        }
        (failed, poisoned)
    })
}

#[test]
fn any_call_may_fail() {
    for text in ["AdamW", "Adafactor"] {
        for at in [0, 1] {
            let (failed, poisoned) = every_call_fails_once(text, at, |n| format!("fail=any:{n}:{UNKNOWN}"));
            assert!(failed > 5, "{text}: {failed} steps failed");
            assert!(poisoned < failed, "{text}: {poisoned} of {failed} had written something");
        }
    }
}

#[test]
fn any_allocation_may_fail() {
    let (failed, poisoned) = every_call_fails_once("AdamW", 0, |n| format!("fail-alloc={n}"));
    assert!(failed >= 3, "{failed} steps failed");
    assert_eq!(poisoned, 0, "memory is there before the first write");
}

#[test]
fn too_little_memory_says_how_much_was_asked_for() {
    alone(|emulator| {
        let backend = Cuda::new(0).unwrap().shared();
        emulator.configure(&format!("fail=alloc:1:{OUT_OF_MEMORY}"));
        let error = backend.allocate(&[(Format::F32, 1000)]).unwrap_err().to_string();
        emulator.reset();
        assert_eq!(error, "cuda:0: no memory for 4000 bytes");
    });
}

#[test]
fn a_fault_of_a_kernel_is_told_once_with_its_name() {
    alone(|emulator| {
        let mut trainer = Trainer::new("Lion");
        trainer.step().unwrap();
        emulator.configure(&format!("fail=cuLaunchKernel:2:{ILLEGAL_ADDRESS}"));
        let error = trainer.step().unwrap_err().to_string();
        emulator.reset();
        assert!(error.contains("kernel") && error.contains("ILLEGAL_ADDRESS"), "{error}");
        let again = trainer.optimizer.backend().synchronise().unwrap_err().to_string();
        assert!(again.starts_with("cuda:0: refuses further work: kernel"), "{again}");
    });
}

#[test]
fn a_fault_that_shows_later_is_told_with_the_names_of_the_kernels_that_may_have_run() {
    for (text, kernels) in
        [("AdamW", "kernel AdamWRule failed"), ("LAMB", "kernel LambMomentsRule or LambRule failed")]
    {
        alone(|emulator| {
            let mut trainer = Trainer::new(text);
            let backend = Arc::clone(trainer.optimizer.backend());
            trainer.step_on_device().unwrap();
            emulator.configure(&format!("fail=cuEventSynchronize:1:{ILLEGAL_ADDRESS}"));
            let error = trainer.device[0].to_vec::<f32>().unwrap_err().to_string();
            emulator.reset();
            assert!(error.contains(kernels), "{error}");
            // Once: from now on it refuses, and says why.
            let again = backend.synchronise().unwrap_err().to_string();
            assert!(again.contains("refuses further work") && again.contains(kernels), "{again}");
            let last = trainer.step_on_device().unwrap_err().to_string();
            assert!(last.contains("refuses further work"), "{last}");
        });
    }
}
