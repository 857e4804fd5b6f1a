//! Several ranks on parts of a batch against one on the whole: run by all ranks at once, over any communicator.

use fallline_core::host::Slice;
use fallline_core::ranks::{Communicator, CountingComm};
use fallline_cpu::{Cpu, Native};
use fallline_optim::algorithms::{AdamW, Asgd, Lars, Sgd};
use fallline_optim::hyper::{HyperError, Value};
use fallline_optim::ranks::{GradientReducer, ZeroRedundancy, partition};
use fallline_optim::{
    AnyAlgorithm, Binding, Checkpoint, Driver, Linked, LoadOptions, Lookahead, Method, Modified, Optimizer,
    param,
};
use std::sync::Arc;

/// Examples of a batch: two a rank for four ranks, and not as many for three each.
const BATCH: usize = 8;
const STEPS: u64 = 5;

fn find(name: &str, values: &[(&str, Value)]) -> Option<Result<Method, HyperError>> {
    let mut algorithm: Box<dyn AnyAlgorithm> = match name {
        "AdamW" => Box::new(Linked::<AdamW, Native>::new(AdamW::default()).ok()?),
        "ASGD" => Box::new(Linked::<Asgd, Native>::new(Asgd { t0: 1.0, ..Asgd::default() }).ok()?),
        "LARS" => Box::new(Linked::<Lars, Native>::new(Lars::default()).ok()?),
        "SGD" => Box::new(Linked::<Sgd, Native>::new(Sgd::default()).ok()?),
        _ => return None,
    };
    Some(algorithm.set(values).map(|()| Method::Algorithm(algorithm)))
}

fn adamw() -> Box<dyn AnyAlgorithm> {
    let hyper = AdamW { lr: 0.05, weight_decay: 0.1, ..AdamW::default() };
    Box::new(Linked::<AdamW, Native>::new(hyper).unwrap())
}

fn sharded() -> Box<dyn AnyAlgorithm> {
    sharded_of("AdamW")
}

fn sharded_of(kind: &str) -> Box<dyn AnyAlgorithm> {
    let kind = ("optimizer_type", Value::Text(kind.into()));
    let values = [kind, ("weight_decay", Value::Float(0.1)), ("lr", Value::Float(0.05))];
    Box::new(ZeroRedundancy::new(find, &values).unwrap())
}

/// Returns it with all modifiers around it.
fn modified(algorithm: Box<dyn AnyAlgorithm>) -> Box<dyn AnyAlgorithm> {
    let cautious = Modified::cautious(algorithm).unwrap();
    Modified::lookahead(cautious, Lookahead { k: 2, alpha: 0.5 }).unwrap()
}

/// A model of some tensors whose gradient of an example depends on the parameters, but is made of small integers.
/// Sums of them are exact, so that how a batch is split cannot show.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    pub params: Vec<(String, Vec<f32>)>,
}

impl Model {
    fn new(lengths: &[usize]) -> Model {
        let values = |i: usize, length: usize| (0..length).map(move |k| ((i + 3 * k) % 7) as f32 / 4.0 - 0.6);
        let params = lengths.iter().enumerate();
        Model { params: params.map(|(i, &length)| (format!("p{i}"), values(i, length).collect())).collect() }
    }

    /// Returns the sum of these examples' gradients.
    fn gradients(&self, step: u64, examples: std::ops::Range<usize>) -> Vec<Vec<f32>> {
        let input = |example: usize, k: usize| ((step as usize * 5 + example * 3 + k * k) % 5) as f32 - 2.0;
        let mut sums: Vec<Vec<f32>> = self.params.iter().map(|(_, values)| vec![0.0; values.len()]).collect();
        for example in examples {
            for ((_, values), sums) in self.params.iter().zip(&mut sums) {
                let predicted: f32 =
                    values.iter().enumerate().map(|(k, value)| value * input(example, k)).sum();
                let error = (4.0 * (predicted - 1.0)).round().clamp(-64.0, 64.0);
                sums.iter_mut().enumerate().for_each(|(k, sum)| *sum += error * input(example, k));
            }
        }
        sums
    }

    fn step(&mut self, optimizer: &mut Driver, gradients: &[Option<Slice<'_>>]) {
        let pairs = self.params.iter_mut().zip(gradients);
        let mut bindings: Vec<Binding<'_>> =
            pairs.map(|((name, values), grad)| param(name, values, *grad)).collect();
        let report = optimizer.step(&mut bindings).unwrap();
        assert_eq!(report.updated, gradients.iter().flatten().count());
    }
}

/// Returns which parameters have no gradient in a step, to see that nobody's is made up.
fn absent(step: u64, place: usize) -> bool {
    step == 2 && place == 1
}

/// Trains one rank on whole batches.
fn alone(lengths: &[usize], steps: std::ops::Range<u64>, optimizer: &mut Driver, model: &mut Model) {
    assert_eq!(model.params.len(), lengths.len());
    for step in steps {
        let sums = model.gradients(step, 0..BATCH);
        let bound = sums.iter().enumerate();
        let bound: Vec<_> = bound.map(|(i, sum)| (!absent(step, i)).then(|| sum.into())).collect();
        model.step(optimizer, &bound);
    }
}

/// Trains this rank's part of the same.
fn together(
    reducer: &mut GradientReducer,
    steps: std::ops::Range<u64>,
    optimizer: &mut Driver,
    model: &mut Model,
) {
    let (rank, world) = (reducer.ranks().rank(), reducer.ranks().world_size());
    for step in steps {
        let own = rank * BATCH / world..(rank + 1) * BATCH / world;
        let sums = model.gradients(step, own);
        for (i, ((name, _), sum)) in model.params.iter().zip(&sums).enumerate().rev() {
            // A share of 1: what is wanted is the sum.
            reducer.push(name, (!absent(step, i)).then_some(sum), 1.0).unwrap();
        }
        let averaged = reducer.wait().unwrap();
        let bound: Vec<_> = model.params.iter().map(|(name, _)| averaged.get(name)).collect();
        model.step(optimizer, &bound);
    }
}

fn driver(algorithm: Box<dyn AnyAlgorithm>) -> Driver {
    Driver::new(Cpu::with_threads(1).unwrap().shared(), algorithm)
}

fn states(optimizer: &dyn Optimizer, of: &str) -> Vec<Option<Vec<f64>>> {
    ["m", "v"].map(|state| optimizer.state(of, state).unwrap()).into()
}

/// N ranks step exactly as one does, with states on all ranks or sharded, in any number of buckets.
pub fn trajectories(ranks: &Arc<dyn Communicator>) {
    let (rank, world) = (ranks.rank(), ranks.world_size());
    for lengths in [&[3, 40, 7, 0, 1, 300][..], &[5, 9]] {
        let plain = [(1 << 20, adamw()), (64, adamw()), (1 << 20, sharded()), (64, sharded())];
        let around = [(64, modified(adamw())), (64, modified(sharded()))];
        for (bucket, algorithm) in plain.into_iter().chain(around) {
            let is_modified = algorithm.modifiers().cautious;
            let whole = if is_modified { modified(adamw()) } else { adamw() };
            let (mut expected, mut whole) = (Model::new(lengths), driver(whole));
            alone(lengths, 0..STEPS, &mut whole, &mut expected);
            let shares = algorithm.sharded() && world > 1;
            let mut reducer = GradientReducer::with_buckets(Arc::clone(ranks), bucket).unwrap();
            let mut optimizer = driver(algorithm).with_ranks(Arc::clone(ranks));
            let mut model = Model::new(lengths);
            together(&mut reducer, 0..STEPS, &mut optimizer, &mut model);
            assert_eq!(model, expected, "rank {rank} of {world}, buckets of {bucket}, sharded: {shares}");
            let owners = partition(lengths, &mut vec![0; world]);
            for (i, (name, _)) in model.params.iter().enumerate() {
                let has = if shares && owners[i] != rank { vec![None, None] } else { states(&whole, name) };
                assert_eq!(states(&optimizer, name), has, "{name} on rank {rank} of {world}");
            }
        }
    }
}

/// A sharded run is saved as a whole or in parts, and resumes with another number of ranks.
pub fn checkpoints(ranks: &Arc<dyn Communicator>) {
    checkpoints_of(ranks, sharded);
    checkpoints_of(ranks, || modified(sharded()));
    // Whose gradient decays in a pass before, and whose state follows the parameter.
    checkpoints_of(ranks, || modified(sharded_of("LARS")));
    checkpoints_of(ranks, || modified(sharded_of("ASGD")));
}

fn checkpoints_of(ranks: &Arc<dyn Communicator>, sharded: fn() -> Box<dyn AnyAlgorithm>) {
    let (rank, world) = (ranks.rank(), ranks.world_size());
    let lengths = [3, 40, 7, 300, 1];
    let (mut expected, mut whole) = (Model::new(&lengths), driver(sharded()));
    alone(&lengths, 0..3, &mut whole, &mut expected);
    let at_three = whole.save().unwrap();

    let mut reducer = GradientReducer::new(Arc::clone(ranks)).unwrap();
    let mut optimizer = driver(sharded()).with_ranks(Arc::clone(ranks));
    let mut model = Model::new(&lengths);
    together(&mut reducer, 0..3, &mut optimizer, &mut model);
    assert_eq!(model, expected);
    assert_eq!(optimizer.save().unwrap(), at_three, "every rank gets what one alone would save");

    // Parts, as files of all ranks would have them.
    if world > 1 {
        let own = optimizer.save_own().unwrap().to_bytes().unwrap();
        let mut parts = Vec::new();
        let mut lengths = vec![0; 8 * world];
        ranks.all_gather(&(own.len() as u64).to_le_bytes(), &mut lengths).unwrap();
        for (root, length) in lengths.chunks(8).enumerate() {
            let mut bytes = own.clone();
            bytes.resize(u64::from_le_bytes(length.try_into().unwrap()) as usize, 0);
            ranks.broadcast(root, &mut bytes).unwrap();
            parts.push(Checkpoint::from_bytes(&bytes).unwrap());
        }
        assert_eq!(Checkpoint::join(parts.clone()).unwrap(), at_three);
        let twice = Checkpoint::join([parts[0].clone(), parts[0].clone()]).unwrap_err();
        assert!(twice.to_string().contains("rank 0"), "{twice}");
        let missing = Checkpoint::join(parts[1..].to_vec()).unwrap_err().to_string();
        assert!(missing.contains(&format!("the part of rank 0 of {world} is missing")), "{missing}");
        let alone = driver(sharded()).load(&parts[world - 1]).unwrap_err().to_string();
        assert!(alone.contains(&format!("part of rank {} of {world}", world - 1)), "{alone}");
    }

    // One rank's checkpoint goes on with all, and that of all with one.
    let mut resumed = driver(sharded()).with_ranks(Arc::clone(ranks));
    resumed.load(&at_three).unwrap();
    let mut one = driver(sharded());
    one.load(&optimizer.save().unwrap()).unwrap();
    together(&mut reducer, 3..STEPS, &mut resumed, &mut model);
    let mut single = expected.clone();
    alone(&lengths, 3..STEPS, &mut whole, &mut expected);
    alone(&lengths, 3..STEPS, &mut one, &mut single);
    assert_eq!((&model, &single), (&expected, &expected), "rank {rank} of {world}");
    assert_eq!(resumed.save().unwrap(), whole.save().unwrap());
    assert_eq!(one.save().unwrap(), whole.save().unwrap());
}

/// A checkpoint under other names is refused by all ranks, and so is one that some have loaded otherwise.
pub fn other_names(ranks: &Arc<dyn Communicator>) {
    let lengths = [3, 40, 7];
    let (mut model, mut whole) = (Model::new(&lengths), driver(sharded()));
    alone(&lengths, 0..2, &mut whole, &mut model);
    let mut wrapped = whole.save().unwrap();
    assert_eq!(wrapped.rename("", "module.").unwrap(), 3);
    let mut optimizer = driver(sharded()).with_ranks(Arc::clone(ranks));
    optimizer.load(&wrapped).unwrap();
    let (sums, before) = (model.gradients(3, 0..BATCH), model.clone());
    let refused = |optimizer: &mut Driver, model: &mut Model| {
        let pairs = model.params.iter_mut().zip(&sums);
        let mut bindings: Vec<Binding<'_>> =
            pairs.map(|((name, values), sum)| param(name, values, sum)).collect();
        optimizer.step(&mut bindings).unwrap_err().to_string()
    };
    let error = refused(&mut optimizer, &mut model);
    assert!(error.contains("rename(\"module.\", \"\")"), "{error}");
    let strip = LoadOptions::default().rename("module.", "");
    if ranks.world_size() > 1 {
        // One rank strips what the others do not.
        let options = if ranks.rank() == 0 { strip.clone() } else { LoadOptions::default() };
        optimizer.load_with(&wrapped, &options).unwrap();
        let error = refused(&mut optimizer, &mut model);
        assert!(error.contains("rank"), "{error}");
    }
    assert_eq!(model, before);
    optimizer.load_with(&wrapped, &strip).unwrap();
    let (mut reducer, mut other) = (GradientReducer::new(Arc::clone(ranks)).unwrap(), model.clone());
    together(&mut reducer, 3..STEPS, &mut optimizer, &mut model);
    alone(&lengths, 3..STEPS, &mut whole, &mut other);
    assert_eq!(model, other);
    assert_eq!(optimizer.save().unwrap(), whole.save().unwrap());
}

/// A gradient of any numbers: the mean over parts, each times its share, against the mean over all, within the roundings.
pub fn rounded_means(ranks: &Arc<dyn Communicator>) {
    let (rank, world) = (ranks.rank(), ranks.world_size());
    let terms = |i: usize| (0..BATCH).map(move |e| ((i * 37 + e * 101) % 1009) as f64 / 1009.0 - 0.4);
    let mean = |i: usize, own: std::ops::Range<usize>| {
        let sum = terms(i).skip(own.start).take(own.len()).fold(0.0_f32, |sum, term| sum + term as f32);
        if own.is_empty() { 0.0 } else { sum / own.len() as f32 }
    };
    let own = rank * BATCH / world..(rank + 1) * BATCH / world;
    let gradient: Vec<f32> = (0..500).map(|i| mean(i, own.clone())).collect();
    let mut reducer = GradientReducer::with_buckets(Arc::clone(ranks), 256).unwrap();
    for _ in 0..3 {
        reducer.push("g", &gradient, own.len() as f64 / BATCH as f64).unwrap();
        let averaged = reducer.wait().unwrap().get("g").unwrap();
        for i in 0..gradient.len() {
            let exact = terms(i).sum::<f64>() / BATCH as f64;
            let size = terms(i).map(f64::abs).sum::<f64>() / BATCH as f64;
            // u for each: rounding the terms, up to BATCH - 1 additions, the division, share, product, and the sum.
            let bound = (BATCH as f64 + 4.0) * f64::from(f32::EPSILON) / 2.0 * size;
            assert!((averaged.get(i) - exact).abs() <= bound, "{i}: {} {exact}", averaged.get(i));
        }
    }
}

/// Ranks that are about to train different things are told which, all of them, before anything is changed.
pub fn differences(ranks: &Arc<dyn Communicator>) {
    let (rank, world) = (ranks.rank(), ranks.world_size());
    if world == 1 {
        return;
    }
    let odd = rank == world - 1;
    let last = world - 1;
    let cases: [(&str, f64, usize, bool, String); 4] = [
        ("other", 0.1, 4, true, format!("\"other\\\" of shape [4] in f32\" on rank {last}")),
        (
            "w",
            0.1,
            6,
            true,
            format!("of shape [4] in f32\" on rank 0, \"\\\"w\\\" of shape [6] in f32\" on rank {last}"),
        ),
        ("w", 0.2, 4, true, format!("lr=0.1\" on rank 0, \"group 0: SGD with lr=0.2\" on rank {last}")),
        ("w", 0.1, 4, false, "without a gradient".into()),
    ];
    for (name, lr, length, grad, told) in cases {
        let (name, lr, length, grad) = if odd { (name, lr, length, grad) } else { ("w", 0.1, 4, true) };
        let algorithm = Linked::<Sgd, Native>::new(Sgd { lr, ..Sgd::default() }).unwrap();
        let mut optimizer = driver(Box::new(algorithm)).with_ranks(Arc::clone(ranks));
        let (mut values, gradient) = (vec![1.0_f32; length], vec![1.0_f32; length]);
        let error = optimizer
            .step(&mut [param(name, &mut values, grad.then_some(&gradient))])
            .unwrap_err()
            .to_string();
        assert!(error.contains(&told), "{error}\n{told}");
        assert!(values.iter().all(|&value| value == 1.0) && optimizer.params().is_empty());
        // Nothing is broken: the same ranks can go on with something that fits.
        ranks.barrier().unwrap();
    }
    let mut reducer = GradientReducer::new(Arc::clone(ranks)).unwrap();
    reducer.push(if odd { "b" } else { "a" }, &[1.0_f32; 3], 1.0).unwrap();
    let error = reducer.wait().unwrap_err().to_string();
    assert!(error.contains("differ in the gradients") && error.contains("[3] in f32"), "{error}");
}

/// What a step sends: counted, and no more than the formulas of the documentation say.
pub fn traffic(ranks: &Arc<dyn Communicator>) {
    let world = ranks.world_size() as u64;
    let lengths = [4096, 1024, 1024, 2048];
    let bytes = 4 * lengths.iter().sum::<usize>() as u64;
    for (algorithm, shares) in [(adamw(), false), (sharded(), true)] {
        let counting = Arc::new(CountingComm::new(Arc::clone(ranks)));
        let counted: Arc<dyn Communicator> = counting.clone();
        let mut reducer = GradientReducer::new(Arc::clone(&counted)).unwrap();
        let mut optimizer = driver(algorithm).with_ranks(Arc::clone(&counted));
        let mut model = Model::new(&lengths);
        together(&mut reducer, 0..1, &mut optimizer, &mut model);
        let before = counting.traffic().bytes;
        together(&mut reducer, 0..1, &mut optimizer, &mut model);
        let step = counting.traffic().bytes - before;
        // Two exchanges of (world - 1) / world of the gradients; with shares the parameters of the others.
        let owners = partition(&lengths, &mut vec![0; world as usize]);
        let others = lengths.iter().zip(owners).filter(|(_, owner)| *owner != ranks.rank());
        let gathered = if shares { 4 * others.map(|(length, _)| *length as u64).sum::<u64>() } else { 0 };
        let expected = 2 * bytes * (world - 1) / world + gathered;
        // Beside them presence and rounding up to whole pieces, and the hashes.
        assert!((expected..=expected + 64 * world).contains(&step), "{step}, expected {expected}");
    }
}
