//! Checkpoints, into an optimizer and through a step: loaded or refused, and what was loaded is saved and loaded again.
#![no_main]

use fallline_core::{Backend, Shape};
use fallline_cpu::Cpu;
use fallline_optim::{Checkpoint, Driver, LoadOptions, Method, Optimizer, param};
use fallline_registry::names;
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};

/// Elements of a parameter that is bound.
const MOST: usize = 1 << 12;

static CPU: LazyLock<Arc<dyn Backend>> = LazyLock::new(|| Cpu::scalar().shared());

/// Returns the optimizer of a checkpoint's name and groups.
fn driver(checkpoint: &Checkpoint) -> Option<Driver> {
    let manifest = checkpoint.manifest.optimizer.as_ref()?;
    let entry = names::find(manifest.name())?;
    let mut groups = manifest.groups();
    let method = |values: Vec<(&str, fallline_optim::hyper::Value)>| {
        let mut method = entry.defaults();
        // What is out of range is for the load to refuse.
        method.set(&values).ok();
        match method {
            Method::Algorithm(algorithm) => Some(algorithm),
            Method::Search(_) => None,
        }
    };
    let mut driver = Driver::new(Arc::clone(&CPU), method(groups.next()?)?);
    for values in groups.take(8) {
        driver.add_group_of(method(values)?, |_| false, Some(0)).ok()?;
    }
    Some(driver)
}

/// Steps over the parameters that a checkpoint names, and one that it does not where that is no mismatch.
fn step(checkpoint: &Checkpoint, driver: &mut Driver, joins: bool) -> bool {
    let manifest = checkpoint.manifest.optimizer.iter();
    let known = manifest.flat_map(|optimizer| optimizer.params());
    let named = known.map(|(name, param)| (name.to_owned(), param.shape().dims().to_vec()));
    let fits = |shape: &[usize]| Shape::from(shape).elements() <= MOST;
    let mut params: Vec<_> = named
        .filter(|(_, shape)| fits(shape))
        .take(16)
        .chain(joins.then(|| ("of the run".to_owned(), vec![2, 3])))
        .map(|(name, shape)| {
            let elements = Shape::from(&shape[..]).elements();
            (name, shape, vec![0.5f32; elements], vec![0.25f32; elements])
        })
        .collect();
    let bound = params.iter_mut().map(|(name, shape, value, grad)| param(name, value, &*grad).shaped(shape));
    driver.step(&mut bound.collect::<Vec<_>>()).is_ok()
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(checkpoint) = Checkpoint::from_bytes_unverified(bytes) else { return };
    // A state of the format is as large as its file says: the shapes of a manifest alone ask for nothing.
    let strict = LoadOptions::default();
    for options in
        [strict.clone(), strict.clone().lenient(), strict.clone().lenient().converting().state_only()]
    {
        let Some(mut loaded) = driver(&checkpoint) else { return };
        if loaded.load_with(&checkpoint, &options).is_err() {
            continue;
        }
        let saved = loaded.save().expect("what was loaded can be saved");
        let bytes = saved.to_bytes().expect("and written");
        let again = Checkpoint::from_bytes(&bytes).expect("and read again");
        if options == strict {
            let mut other = driver(&again).expect("it is of the same optimizer");
            other.load(&again).expect("and loaded again");
            let twice = other.save().expect("and saved").to_bytes().expect("and written");
            assert!(twice == bytes, "a loaded checkpoint is saved as another");
        }
        if step(&checkpoint, &mut loaded, options != strict) {
            let saved = loaded.save().expect("what has stepped can be saved");
            saved.to_bytes().expect("and written");
        }
    }
});
