//! AdamW's step by burn and by fallline, in turns, and the copies of tensors: `cargo run --release --example speed`.

#![allow(unsafe_code)] // an allocator is unsafe to implement

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::Device;
use fallline_burn::BurnOptimizer;
use fallline_cpu::{Cpu, Native};
use fallline_optim::algorithms::AdamW;
use fallline_optim::{Driver, Linked};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const ROUNDS: usize = 7;

/// The system's allocator, which counts what is as large as a tensor.
struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);
static LARGE: AtomicUsize = AtomicUsize::new(usize::MAX);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(usize::from(layout.size() >= LARGE.load(Ordering::Relaxed)), Ordering::Relaxed);
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

impl Layers {
    fn new(count: usize, width: usize, device: &Device) -> Layers {
        let config = LinearConfig::new(width, width).with_bias(false);
        Layers { all: (0..count).map(|_| config.init(device)).collect() }
    }

    fn gradients(&self) -> GradientsParams {
        let mut loss = self.all[0].weight.val().sum();
        for layer in &self.all[1..] {
            loss = loss + layer.weight.val().sum();
        }
        GradientsParams::from_grads(loss.backward(), self)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[expect(deprecated, reason = "it is still what many programs have")]
    let devices = [("ndarray", Device::ndarray()), ("flex", Device::flex())];
    for (backend, device) in devices {
        let device = device.autodiff();
        for (what, count, width) in [("10 of 1,000,000", 10, 1_000), ("1,000 of 1,024", 1_000, 32)] {
            let [mut theirs, mut ours] = [(); 2].map(|()| Layers::new(count, width, &device));
            let mut burn = AdamWConfig::new().init();
            let adamw = Linked::<AdamW, Native>::new(AdamW::default())?;
            let mut fallline = BurnOptimizer::new(Driver::new(Cpu::new()?.shared(), Box::new(adamw)));
            let (mut times, mut copies) = ([Vec::new(), Vec::new()], [0; 2]);
            LARGE.store(width * width * size_of::<f32>(), Ordering::Relaxed);
            for round in 0..ROUNDS + 2 {
                let gradients = [theirs.gradients(), ours.gradients()];
                let [of_theirs, of_ours] = gradients;
                let counted = COUNT.load(Ordering::Relaxed);
                let started = Instant::now();
                theirs = burn.step(1e-3, theirs, of_theirs);
                let between = Instant::now();
                let counted_between = COUNT.load(Ordering::Relaxed);
                let report;
                (ours, report) = fallline.step(ours, of_ours);
                report?;
                if round >= 2 {
                    times[0].push((between - started).as_secs_f64() * 1e3);
                    times[1].push(between.elapsed().as_secs_f64() * 1e3);
                    copies = [counted_between - counted, COUNT.load(Ordering::Relaxed) - counted_between];
                }
            }
            LARGE.store(usize::MAX, Ordering::Relaxed);
            times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
            let [burn, fallline] = times.map(|times| times[ROUNDS / 2]);
            println!(
                "{backend}, {what}: burn {burn:.2} ms ({} allocations of a tensor's size), fallline {fallline:.2} ms ({}), {:.1} \
                 times",
                copies[0],
                copies[1],
                burn / fallline
            );
        }
    }
    Ok(())
}
