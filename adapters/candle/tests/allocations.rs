//! A step allocates nothing after the first, but for what candle does: its in-place operations list a tensor's axes to check
//! them. This is a separate binary: it replaces the allocator.

#![allow(unsafe_code)] // an allocator is unsafe to implement

use candle_core::{DType, Device, Tensor, Var};
use fallline_candle::CandleOptimizer;
use fallline_cpu::{Cpu, Native};
use fallline_optim::algorithms::AdamW;
use fallline_optim::{Driver, Linked};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

const VARIABLES: usize = 50;
const STEPS: usize = 5;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
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

#[test]
fn steps_after_the_first_allocate_nothing_of_ours() {
    let variables = candle_nn::VarMap::new();
    for i in 0..VARIABLES {
        let variable = Var::zeros((3, i + 1), DType::F32, &Device::Cpu).unwrap();
        variables.data().lock().unwrap().insert(format!("layers.{i}.weight"), variable);
    }
    let mut grads = Tensor::ones(1, DType::F32, &Device::Cpu).unwrap().backward().unwrap();
    for variable in variables.all_vars() {
        grads.insert(&variable, variable.ones_like().unwrap());
    }
    let adamw = Linked::<AdamW, Native>::new(AdamW::default()).unwrap();
    let driver = Driver::new(Cpu::with_threads(2).unwrap().shared(), Box::new(adamw));
    let mut optimizer = CandleOptimizer::new(&variables, driver).unwrap();
    // The second step is the first one without shapes.
    (0..2).for_each(|_| drop(optimizer.step(&grads).unwrap()));
    COUNT.store(0, Ordering::SeqCst);
    LARGEST.store(0, Ordering::SeqCst);
    (0..STEPS).for_each(|_| drop(optimizer.step(&grads).unwrap()));
    let axes = 4 * size_of::<(usize, usize)>();
    assert_eq!((COUNT.load(Ordering::SeqCst), LARGEST.load(Ordering::SeqCst)), (VARIABLES * STEPS, axes));
}
