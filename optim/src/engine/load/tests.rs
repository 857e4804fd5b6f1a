//! Where memory lies behind a load.

use crate::algorithms::Adam;
use crate::checkpoint::{Checkpoint, LoadOptions};
use crate::engine::Engine;
use crate::{Binding, Linked, param};
use fallline_core::Compute;
use fallline_cpu::{Cpu, Native};

/// Parameters in an order that is not that of their names, small ones and some of more than a page.
const LENGTHS: [usize; 14] = [40, 7, 100, 1000, 3000, 12, 1, 900, 33, 5000, 64, 0, 250, 8];

struct Bound {
    names: Vec<String>,
    values: Vec<Vec<f32>>,
    grads: Vec<Vec<f32>>,
}

impl Bound {
    fn new() -> Bound {
        let names = (0..LENGTHS.len()).map(|i| format!("layer.{i}")).collect();
        let values: Vec<_> = LENGTHS.iter().map(|&len| vec![1.0; len]).collect();
        Bound { names, grads: values.clone(), values }
    }

    fn bindings(&mut self) -> Vec<Binding<'_>> {
        let pairs = self.names.iter().zip(&mut self.values).zip(&self.grads);
        pairs.map(|((name, value), grad)| param(name, value, grad)).collect()
    }
}

fn engine() -> Engine {
    let cpu = Cpu::with_threads(1).unwrap().shared();
    Engine::new(cpu, Box::new(Linked::<Adam, Native>::new(Adam::default()).unwrap()))
}

/// Does everything that comes before the passes of a step.
fn begin(engine: &mut Engine) {
    let mut bound = Bound::new();
    let mut bindings = bound.bindings();
    if engine.prepare(&bindings).unwrap().lacks_states {
        engine.allocate_states(&mut bindings).unwrap();
    }
}

/// Returns for each state the addresses of small parameters' memory, with where each ends.
fn places(engine: &Engine) -> [Vec<(usize, usize)>; 2] {
    [0, 1].map(|state| {
        let storages = engine.slots.iter().map(|slot| &slot.states[state].1);
        let small = storages.filter(|storage| (1..1024).contains(&storage.len()));
        small.map(|storage| (storage.address(), storage.address() + storage.bytes())).collect()
    })
}

/// Returns what the states hold, by parameter and state.
fn contents(engine: &Engine) -> Vec<(String, &'static str, Vec<f64>)> {
    let mut all = Vec::new();
    for slot in engine.slots.iter() {
        for (state, storage) in &slot.states {
            let mut values = vec![0.0f64; storage.len()];
            engine.setup.backend.read(storage, values.as_mut_slice().into()).unwrap();
            all.push((slot.name.clone(), *state, values));
        }
    }
    all.sort_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
    all
}

/// Returns an engine whose states tell whose they are, and its checkpoint.
fn saved() -> (Engine, Checkpoint) {
    let mut engine = engine();
    begin(&mut engine);
    let backend = engine.setup.backend.clone();
    for (i, slot) in engine.slots.iter_mut().enumerate() {
        slot.steps = 3;
        for (k, (_, storage)) in slot.states.iter_mut().enumerate() {
            let values: Vec<f64> = (0..storage.len()).map(|e| (i * 100 + k * 50 + e % 50) as f64).collect();
            backend.write(storage, values.as_slice().into()).unwrap();
        }
    }
    let mut checkpoint = Checkpoint::default();
    engine.save(&mut checkpoint).unwrap();
    (engine, checkpoint)
}

fn load(engine: &mut Engine, checkpoint: &Checkpoint) {
    let (section, report) = engine.read(checkpoint, &LoadOptions::default()).unwrap();
    assert_eq!(report.matched, LENGTHS.len());
    engine.take_over(section);
}

/// Checks that small ones lie end to end, except where a large one is between them.
fn assert_end_to_end(engine: &Engine) {
    for places in places(engine) {
        assert_eq!(places.len(), 11);
        assert!(places.is_sorted());
        // 4 KiB and more in between have a place of their own, behind which the next small one begins.
        let gaps = places.windows(2).filter(|pair| pair[0].1 != pair[1].0).count();
        assert!(gaps <= 2, "{gaps} gaps in {places:?}");
    }
}

#[test]
fn a_step_behind_a_load_has_the_memory_of_a_first_step() {
    let (first, checkpoint) = saved();
    assert_end_to_end(&first);
    let mut loaded = engine();
    load(&mut loaded, &checkpoint);
    assert_eq!(contents(&loaded), contents(&first));
    // Names alone do not tell the order.
    begin(&mut loaded);
    assert_end_to_end(&loaded);
    assert_eq!(contents(&loaded), contents(&first));
    // From now on it is known, and nothing moves.
    let before = places(&loaded);
    begin(&mut loaded);
    assert_eq!(places(&loaded), before);
}

#[test]
fn where_the_order_is_known_a_load_keeps_it() {
    let (mut first, checkpoint) = saved();
    let held = contents(&first);
    load(&mut first, &checkpoint);
    let order = |engine: &Engine| {
        let mut order: Vec<_> =
            engine.slots.iter().map(|slot| (slot.states[0].1.address(), slot.name.clone())).collect();
        order.sort();
        order
    };
    let before = order(&first);
    begin(&mut first);
    assert_eq!(order(&first), before, "nothing moves");
    assert_end_to_end(&first);
    assert_eq!(contents(&first), held);
}

#[test]
fn the_shape_of_a_manifest_alone_asks_for_no_memory() {
    let (_, mut checkpoint) = saved();
    for shape in [&[1 << 40][..], &[1 << 50, 1 << 12]] {
        let manifest = checkpoint.manifest.optimizer.as_mut().unwrap();
        manifest.insert_param("huge", &shape.into(), 0, Compute::F32);
        checkpoint.insert_steps("huge", 3);
        let error = engine().read(&checkpoint, &LoadOptions::default()).err().unwrap().to_string();
        assert!(error.contains("huge") && error.contains("is missing"), "{error}");
    }
}
