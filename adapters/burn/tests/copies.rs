//! A step copies no tensor, and after the first its lists have their memory: nothing as large as a tensor is allocated. This is a
//! separate binary: it replaces the allocator.

#![allow(unsafe_code)] // an allocator is unsafe to implement

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::GradientsParams;
use burn::tensor::Device;
use fallline_burn::BurnOptimizer;
use fallline_cpu::{Cpu, Native};
use fallline_optim::algorithms::AdamW;
use fallline_optim::{Driver, Linked};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A list of so many parameters is larger than one of them, in bytes.
const LAYERS: usize = 300;
const WIDTH: usize = 32;

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let is_large = layout.size() >= WIDTH * WIDTH * size_of::<f32>();
        COUNT.fetch_add(usize::from(is_large), Ordering::Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Module, Debug)]
struct Layers {
    all: Vec<Linear>,
}

#[test]
fn a_step_allocates_nothing_as_large_as_a_tensor() {
    #[expect(deprecated, reason = "it is still what many programs have")]
    let ndarray = Device::ndarray();
    for device in [ndarray.autodiff(), Device::flex().autodiff()] {
        let config = LinearConfig::new(WIDTH, WIDTH).with_bias(false);
        let mut layers = Layers { all: (0..LAYERS).map(|_| config.init(&device)).collect() };
        let adamw = Linked::<AdamW, Native>::new(AdamW::default()).unwrap();
        let mut optimizer =
            BurnOptimizer::new(Driver::new(Cpu::with_threads(1).unwrap().shared(), Box::new(adamw)));
        let mut counts = Vec::new();
        for _ in 0..3 {
            let mut loss = layers.all[0].weight.val().sum();
            for layer in &layers.all[1..] {
                loss = loss + layer.weight.val().sum();
            }
            let gradients = GradientsParams::from_grads(loss.backward(), &layers);
            let before = COUNT.load(Ordering::SeqCst);
            let report;
            (layers, report) = optimizer.step(layers, gradients);
            assert_eq!(report.unwrap().updated, LAYERS);
            counts.push(COUNT.load(Ordering::SeqCst) - before);
        }
        assert!(counts[0] > 0, "lists and states are counted: {counts:?}");
        assert_eq!(counts[2], 0, "{device:?}: {counts:?}");
    }
}
