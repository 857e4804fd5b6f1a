//! A step allocates nothing after the first, and the gradient pipeline next to nothing. This is a separate binary:
//! it replaces the allocator.

#![allow(unsafe_code)] // an allocator is unsafe to implement

mod common;

use common::{CASES, MODIFIED, Random, Tensor, bind, cpu, recipe};
use fallline::optim::average::Average;
use fallline::optim::param;
use fallline::{Isa, NonFinitePolicy};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The system's allocator, which notes sizes while it is told to, whichever thread asks.
struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicUsize = AtomicUsize::new(0);
static SIZES: [AtomicUsize; 64] = [const { AtomicUsize::new(0) }; 64];

fn note(size: usize) {
    if COUNTS.load(Ordering::Relaxed) {
        let place = COUNT.fetch_add(1, Ordering::Relaxed);
        if let Some(slot) = SIZES.get(place) {
            slot.store(size, Ordering::Relaxed);
        }
    }
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's contract.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: the caller's contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Returns the sizes of what was allocated meanwhile (the first 64 of them), and how many there were.
fn allocations(work: impl FnOnce()) -> (usize, Vec<usize>) {
    COUNT.store(0, Ordering::SeqCst);
    COUNTS.store(true, Ordering::SeqCst);
    work();
    COUNTS.store(false, Ordering::SeqCst);
    let count = COUNT.load(Ordering::SeqCst);
    (count, SIZES.iter().take(count).map(|size| size.load(Ordering::SeqCst)).collect())
}

/// Returns what steps after the first allocate, with bindings made before.
fn of_steps(
    text: &str,
    policy: NonFinitePolicy,
    threads: usize,
    lengths: &[usize],
    steps: usize,
) -> (usize, Vec<usize>) {
    let mut random = Random(1);
    let mut tensors: Vec<Tensor> = lengths
        .iter()
        .enumerate()
        .map(|(i, &length)| Tensor::plain(&format!("tensor{i}"), length, 1, &mut random))
        .collect();
    let mut optimizer = recipe(text).optimizer(cpu(Isa::best(), threads)).with_non_finite(policy);
    let mut bindings = bind(&mut tensors, 0);
    optimizer.step(&mut bindings).unwrap();
    // What the harness's own thread does meanwhile is counted too, but does not come again; what a step allocates does.
    let mut found = || {
        allocations(|| {
            for _ in 0..steps {
                optimizer.step(&mut bindings).unwrap();
            }
        })
    };
    [found(), found(), found()].into_iter().min_by_key(|(count, _)| *count).unwrap_or_default()
}

/// Returns whether an algorithm has a stage that is not element by element even for vectors, as OnebitLamb has.
/// What it runs there asks for its own tables.
fn works_on_wholes(text: &str) -> bool {
    let recipe = recipe(text);
    let algorithm = recipe.algorithm();
    algorithm
        .program_of("", &fallline::Shape::from([5]))
        .unwrap()
        .iter()
        .any(|stage| stage.kernel().is_none())
}

/// One test, so that no other thread of the harness is at work while it counts.
#[test]
fn steps_after_the_first_allocate_nothing() {
    let mut wrong = Vec::new();
    assert_eq!(
        allocations(|| drop(std::hint::black_box(vec![1u8; 10]))),
        (1, vec![10]),
        "the counter counts"
    );
    for text in CASES.iter().chain(MODIFIED).filter(|text| !works_on_wholes(text)) {
        for policy in [NonFinitePolicy::Propagate, NonFinitePolicy::Skip] {
            let found = of_steps(text, policy, 1, &[1000, 0, 37, 20_000], 10);
            if found != (0, Vec::new()) {
                wrong.push(format!("{text}, {policy:?}, 1 thread, 10 steps: {found:?}"));
            }
        }
    }
    // Handing a pass to other threads takes no memory either.
    for text in common::ONE_EACH.iter().filter(|text| !works_on_wholes(text)) {
        let found = of_steps(text, NonFinitePolicy::Propagate, 2, &[100_000, 200_000], 20);
        if found != (0, Vec::new()) {
            wrong.push(format!("{text}, 2 threads, 20 steps: {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    pieces_allocate_nothing();
    around_a_step_memory_is_small();
}

/// A step in pieces keeps no names, and nothing else either.
fn pieces_allocate_nothing() {
    let mut optimizer = recipe("AdamW").optimizer(cpu(Isa::best(), 1));
    let (mut one, mut other, grad) = (vec![1.0f32; 1000], vec![1.0f32; 37], vec![0.5f32; 1000]);
    let mut steps = |count: usize| {
        for _ in 0..count {
            let mut step = optimizer.begin().unwrap();
            step.apply(param("one", &mut one, &grad)).unwrap();
            step.apply(param("other", &mut other, &grad[..37])).unwrap();
            assert_eq!(step.finish().unwrap().updated, 2);
        }
    };
    steps(2);
    let found = [allocations(|| steps(10)), allocations(|| steps(10)), allocations(|| steps(10))];
    let least = found.into_iter().min_by_key(|(count, _)| *count).unwrap_or_default();
    assert_eq!(least, (0, Vec::new()));
}

/// Everything around a step over two million elements asks for tables, and for no copy of anything.
fn around_a_step_memory_is_small() {
    let text = "optim_wrapper = dict(type='AmpOptimWrapper', optimizer=dict(type='AdamW'), clip_grad=dict(max_norm=1.0)";
    for (more, windows) in [(")\n", 1), (", accumulative_counts=3)\n", 3)] {
        let mut random = Random(2);
        let mut tensors: Vec<Tensor> = [1 << 20, 1 << 20, 1000]
            .iter()
            .zip(["one", "other", "small"])
            .map(|(&length, name)| Tensor::plain(name, length, 1, &mut random))
            .collect();
        let average = Average::exponential(0.01).unwrap();
        let optimizer = recipe(&format!("{text}{more}")).optimizer(cpu(Isa::best(), 2));
        let mut optimizer = optimizer.averaged(average);
        let mut bindings = bind(&mut tensors, 0);
        let mut steps = |count: usize| {
            (0..count).for_each(|_| drop(optimizer.step(&mut bindings).unwrap()));
        };
        // A whole window, after which there is all that is kept.
        steps(windows + 1);
        let (count, sizes) = allocations(|| steps(3));
        assert!(count <= SIZES.len(), "{count}");
        let total: usize = sizes.iter().sum();
        assert!(total < 1 << 16, "{total} bytes in {count} pieces: {sizes:?}");
    }
}
