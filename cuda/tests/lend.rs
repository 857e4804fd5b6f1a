//! Memory of a program or a framework on an emulated device, stepped where it is.

#![allow(unsafe_code)] // memory by its address

use fallline_core::{Format, LentMut};
use fallline_cpu::{Cpu, Native};
use fallline_cuda::Cuda;
use fallline_cuda::cudarc::driver::{CudaContext, CudaStream, DevicePtr, DevicePtrMut};
use fallline_optim::algorithms::AdamW;
use fallline_optim::{Binding, Driver, Linked, Optimizer, param};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const STEPS: usize = 3;

/// What the emulator is told: its checks, or streams that run only what something waits for.
const MODES: [&str; 3] = ["checked,seed=1", "checked,seed=2", "unchecked,lazy,seed=0"];

/// The emulator has one configuration: tests take turns.
fn mode(options: &str) -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let emulator = fallline_emulator::install().expect("the emulator");
    emulator.configure("devices=1");
    emulator.configure(options);
    turn
}

fn adamw() -> Box<Linked<AdamW, Native>> {
    Box::new(Linked::new(AdamW { lr: 0.1, ..AdamW::default() }).unwrap())
}

fn driver(cuda: &Arc<Cuda>) -> Driver {
    Driver::new(cuda.clone(), adamw())
}

fn stream() -> Arc<CudaStream> {
    CudaContext::new(0).unwrap().new_stream().unwrap()
}

/// Returns a weight and a gradient. No sines: what the compiler computes of them may differ from what a program does.
fn numbers(len: usize) -> (Vec<f32>, Vec<f32>) {
    let numbers = |step: usize| (0..len).map(|i| (i * step % 101) as f32 / 50.0 - 1.0).collect();
    (numbers(37), numbers(23))
}

/// Returns what the CPU makes of them.
fn expected(len: usize) -> Vec<f32> {
    let (mut weight, grad) = numbers(len);
    let mut optimizer = Driver::new(Cpu::with_threads(1).unwrap().shared(), adamw());
    (0..STEPS).for_each(|_| drop(optimizer.step(&mut [param("w", &mut weight, &grad)]).unwrap()));
    weight
}

#[test]
fn slices_are_stepped_where_they_are() {
    for options in MODES {
        let _turn = mode(options);
        let (cuda, stream) = (Arc::new(Cuda::new(0).unwrap()), stream());
        let (weight, grad) = numbers(1000);
        let mut optimizer = driver(&cuda);
        let mut weight = stream.clone_htod(&weight).unwrap();
        let grad = stream.clone_htod(&grad).unwrap();
        for _ in 0..STEPS {
            let mut lent = cuda.lend_mut(&mut weight, [10, 100]).unwrap();
            let lent_grad = cuda.lend(&grad, [10, 100]).unwrap();
            optimizer.step(&mut [param("w", &mut lent, &lent_grad)]).unwrap();
        }
        // The lender's stream waits for the steps.
        assert_eq!(stream.clone_dtoh(&weight).unwrap(), expected(1000), "{options}");
        assert_eq!(optimizer.params()[0].shape.dims(), [10, 100]);
    }
}

#[test]
fn views_leave_what_is_beside_them() {
    for options in MODES {
        let _turn = mode(options);
        let (cuda, stream) = (Arc::new(Cuda::new(0).unwrap()), stream());
        let (weight, grad) = numbers(64);
        let mut optimizer = driver(&cuda);
        let padded = |values: &[f32]| [&[7.0; 16][..], values, &[7.0; 16][..]].concat();
        let mut stored = stream.clone_htod(&padded(&weight)).unwrap();
        let grads = stream.clone_htod(&padded(&grad)).unwrap();
        for _ in 0..STEPS {
            let mut view = stored.slice_mut(16..80);
            let mut lent = cuda.lend_mut(&mut view, [64]).unwrap();
            let grad = grads.slice(16..80);
            let lent_grad = cuda.lend(&grad, [64]).unwrap();
            optimizer.step(&mut [param("w", &mut lent, &lent_grad)]).unwrap();
        }
        assert_eq!(stream.clone_dtoh(&stored).unwrap(), padded(&expected(64)), "{options}");
    }
}

#[test]
fn memory_by_its_address_is_stepped_where_it_is() {
    for options in MODES {
        let _turn = mode(options);
        let (cuda, stream) = (Arc::new(Cuda::new(0).unwrap()), stream());
        let (weight, grad) = numbers(256);
        let mut optimizer = driver(&cuda);
        let mut weight = stream.clone_htod(&weight).unwrap();
        let grad = stream.clone_htod(&grad).unwrap();
        let (at, grad_at) = (weight.device_ptr_mut(&stream).0, grad.device_ptr(&stream).0);
        for _ in 0..STEPS {
            // SAFETY: both are of this stream, and nobody uses them meanwhile.
            let lent = unsafe {
                (
                    cuda.lend_raw_mut((at, 256, Format::F32), &stream, [256]),
                    cuda.lend_raw((grad_at, 256, Format::F32), &stream, [256]),
                )
            };
            let (mut lent, lent_grad) = (lent.0.unwrap(), lent.1.unwrap());
            optimizer.step(&mut [param("w", &mut lent, &lent_grad)]).unwrap();
        }
        assert_eq!(stream.clone_dtoh(&weight).unwrap(), expected(256), "{options}");
    }
}

#[test]
fn a_device_on_a_frameworks_stream_needs_no_events() {
    for options in MODES {
        let _turn = mode(options);
        let stream = stream();
        // SAFETY: there is one stream. cudarc's own events would be counted.
        unsafe { stream.context().disable_event_tracking() };
        let cuda = Arc::new(Cuda::on_stream(stream.clone()).unwrap());
        let (weight, grad) = numbers(500);
        let mut optimizer = driver(&cuda);
        let mut weight = stream.clone_htod(&weight).unwrap();
        let grad = stream.clone_htod(&grad).unwrap();
        let emulator = fallline_emulator::install().unwrap();
        let mut step = || {
            let mut lent = cuda.lend_mut(&mut weight, [500]).unwrap();
            let lent_grad = cuda.lend(&grad, [500]).unwrap();
            optimizer.step(&mut [param("w", &mut lent, &lent_grad)]).unwrap();
        };
        step();
        let waits = emulator.calls("cuStreamWaitEvent");
        (1..STEPS).for_each(|_| step());
        assert_eq!(emulator.calls("cuStreamWaitEvent"), waits, "{options}");
        assert_eq!(stream.clone_dtoh(&weight).unwrap(), expected(500), "{options}");
    }
}

#[test]
fn what_cannot_be_lent_is_refused() {
    let _turn = mode(MODES[0]);
    let (cuda, stream) = (Arc::new(Cuda::new(0).unwrap()), stream());
    let mut weight = stream.clone_htod(&[0.0f32; 12]).unwrap();
    let at = weight.device_ptr_mut(&stream).0;
    let refused = |lent: fallline_core::Result<LentMut<'_>>| lent.unwrap_err().to_string();
    assert_eq!(
        refused(cuda.lend_mut(&mut weight, [5])),
        "tensor: memory for shape [5] has 12 elements, expected 5"
    );
    // SAFETY: nothing is lent.
    let raw = |at, format| refused(unsafe { cuda.lend_raw_mut((at, 3, format), &stream, [3]) });
    assert_eq!(
        raw(at + 2, Format::F32),
        format!("lend: 3 elements of f32 cannot be at address {:#x}", at + 2)
    );
    assert!(raw(at, Format::Fp8).contains("lend: memory is stored as fp8"));

    let mut lent = cuda.lend_mut(&mut weight, [12]).unwrap();
    let mut on_cpu = Driver::new(Cpu::with_threads(1).unwrap().shared(), adamw());
    let refused = on_cpu.step(&mut [param("w", &mut lent, &[1.0f32; 12])]).unwrap_err().to_string();
    assert!(refused.contains("\"w\"") && refused.contains("cuda:0"), "{refused}");
}

/// Adapters nest borrows: each binding is borrowed for a shorter time than those before it.
#[test]
fn bindings_are_covariant() {
    fn shorter<'long: 'short, 'short>(bindings: Vec<Binding<'long>>) -> Vec<Binding<'short>> {
        bindings
    }
    assert!(shorter(Vec::new()).is_empty());
}
