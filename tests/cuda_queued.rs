//! Steps on the emulated device whose numbers between passes are computed there: they wait for nothing, can be captured,
//! and give the CPU's bits.

mod common;

use common::{CASES, MODIFIED, ONE_EACH, Random, best, cuda, name_of, on_gpu, recipe};
use fallline::optim::hyper::Value;
use fallline::optim::{param, rows};
use fallline::ranks::{Communicator, threads};
use fallline::{Backend, Driver, Optimizer, Tensor as EngineTensor};
use fallline_cuda::Cuda;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The emulator has one configuration: tests take turns.
fn mode(options: &str) -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if !on_gpu() {
        let emulator = fallline_emulator::install().expect("the emulator");
        emulator.configure("devices=1");
        emulator.configure(options);
    }
    turn
}

/// Algorithms whose passes read sums of the one before, with what their options choose.
const READERS: &[&str] = &[
    "dict(type='LAMB', lr=0.01, weight_decay=0.1, max_unorm=0.1)",
    "dict(type='LAMB32bit', lr=0.01, bias_corrected_unorm=True)",
    "dict(type='LARS', lr=0.1, momentum=0.5, weight_decay=0.01, max_unorm=0.3)",
    "dict(type='PytorchLARS', lr=0.1, momentum=0.9, weight_decay=0.01)",
    "dict(type='FusedLamb', lr=0.01, weight_decay=0.1)",
    "dict(type='FusedLamb', lr=0.01, eps_inside_sqrt=True, max_grad_norm=0.5)",
    "dict(type='DAdaptAdam', weight_decay=0.1, d0=1e-3, use_bias_correction=True)",
    "dict(type='DAdaptAdam', lr=0.5, weight_decay=0.1, decouple=True, d0=1e-3, growth_rate=1.5)",
    "dict(type='DAdaptSGD', lr=0.5, momentum=0.9, weight_decay=0.1, d0=1e-3, growth_rate=1.5)",
    "dict(type='DAdaptAdaGrad', lr=0.5, momentum=0.5, weight_decay=0.1, d0=1e-3)",
    "dict(type='Adafactor', lr=0.01, relative_step=False, beta1=0.9, weight_decay=0.1)",
    "dict(type='Adafactor', lr=0.01, relative_step=False)",
    "dict(type='TorchAdafactor', lr=0.1)",
    "dict(type='OnebitLamb', lr=0.01, freeze_step=2, weight_decay=0.1, coeff_beta=0.5)",
    "dict(type='OnebitLamb', lr=0.01, freeze_step=7, betas=(0.5, 0.9), eps=0.1, factor_threshold=0.05)",
];

/// Returns [`READERS`], and the largest case of each other name whose numbers between passes a device computes. Its
/// passes read sums, and nothing is remembered for each parameter.
fn readers() -> Vec<&'static str> {
    let reads = |text: &&&str| {
        let recipe = recipe(text);
        let algorithm = recipe.algorithm();
        let program = algorithm.program_of("", &[5].into()).unwrap();
        let reads = program.kernels().any(|kernel| !kernel.between.declared.reads.is_empty());
        reads && algorithm.spec().memory.is_empty()
    };
    let known: Vec<&str> = READERS.iter().map(|text| name_of(text)).collect();
    let others = ONE_EACH.iter().filter(|text| !known.contains(&name_of(text))).filter(reads);
    READERS.iter().chain(others).copied().collect()
}

/// Those whose products differ from the CPU's within rounding.
const PRODUCTS: &[&str] = &[
    "dict(type='Muon', lr=0.01, rest='AdamW')",
    "dict(type='Muon', lr=0.01, rest='AdamW', ns_dtype='bf16', ns_steps=3)",
];

/// Names that the suites over flat tensors leave out, and what is around an algorithm.
const OTHERS: &[&str] = &[
    "dict(type='NorMuon', lr=0.01, weight_decay=0.1, rest='AdamW')",
    "dict(type='NorMuon', lr=0.01, rest='AdamW', wrap=dict(type='Lookahead', k=2))",
    "dict(type='Muon', lr=0.01, rest='AdamW', split=1, ns_method='gram', state_format='q8')",
    "dict(type='NorMuon', lr=0.01, rest='AdamW', split=1)",
    "dict(type='AdaMuon', lr=0.01, rest='AdamW')",
    "dict(type='MuonHyperball', lr=0.01, rest='AdamW')",
    "dict(type='Spel', lr=0.01, rest='AdamW')",
];

/// Algorithms on row-sparse gradients: row by row, and as a whole.
const SPARSE: &[&str] = &[
    "SparseAdam",
    "dict(type='SGD', lr=0.1)",
    "dict(type='SGD', lr=0.1, momentum=0.9)",
    "dict(type='Adagrad', lr=0.1, lr_decay=0.3)",
    "dict(type='Lion', lr=0.1)",
    "dict(type='DAdaptAdaGrad', d0=1e-3, momentum=0.5, weight_decay=0.1)",
];

/// Names whose steps wait, with the reason.
const WAITING: &[(&str, &str)] = &[(
    "DeepSpeedCPUAdam",
    "its states are in the host's memory and it steps there, as in DeepSpeed: gradients go there",
)];

/// Everything by which the host can wait for the device, or stop it.
const WAITS: [&str; 10] = [
    "cuStreamSynchronize",
    "cuCtxSynchronize",
    "cuEventSynchronize",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoH_v2",
    "cuMemAllocAsync",
    "cuMemAlloc_v2",
    "cuMemAllocHost_v2",
    "cuMemHostAlloc",
    "cuModuleLoadData",
];

/// Parameters on the device, matrices and vectors, with gradients that can be written.
struct Model {
    params: Vec<(String, EngineTensor, EngineTensor)>,
}

/// Segments of a sum, their ends, and more tensors than a warp has lanes.
fn shapes() -> Vec<Vec<usize>> {
    let mut shapes = vec![vec![64, 70], vec![9000], vec![1], vec![3, 5], vec![4096]];
    shapes.extend((0..40).map(|i| vec![2 + i % 7, 3]));
    shapes
}

fn values(seed: u64, shape: &[usize]) -> Vec<f32> {
    Random(seed).units(shape.iter().product()).into_iter().map(|x| x as f32).collect()
}

impl Model {
    fn new(backend: &Arc<dyn Backend>) -> Model {
        Model::of(backend, &shapes())
    }

    fn of(backend: &Arc<dyn Backend>, shapes: &[Vec<usize>]) -> Model {
        let tensor =
            |seed, shape: &[usize]| EngineTensor::from_slice(backend, &values(seed, shape), shape).unwrap();
        let params = shapes.iter().enumerate().map(|(i, shape)| {
            // Not in the order of their names.
            let name = format!("p{}", (i * 7) % 45);
            (name, tensor(i as u64, shape), tensor(100 + i as u64, shape))
        });
        Model { params: params.collect() }
    }

    /// Writes the gradients of a step: all zero where `factor` is 0.
    fn write(&mut self, t: u64, factor: f32) {
        for (i, (_, weight, grad)) in self.params.iter_mut().enumerate() {
            let shape = weight.shape().dims().to_vec();
            let values: Vec<f32> =
                values(1000 * (1 + t) + i as u64, &shape).into_iter().map(|x| x * factor).collect();
            grad.write(&values).unwrap();
        }
    }

    fn step(&mut self, optimizer: &mut Driver) -> fallline::optim::Result<fallline::optim::StepReport> {
        let mut bindings: Vec<_> =
            self.params.iter_mut().map(|(name, weight, grad)| param(name.as_str(), weight, &*grad)).collect();
        optimizer.step(&mut bindings)
    }

    /// Returns the parameters, all that is not a number being alike.
    fn numbers(&self) -> Vec<Vec<Option<u32>>> {
        let numbers = |(_, weight, _): &(String, EngineTensor, EngineTensor)| {
            let values = weight.to_vec::<f32>().unwrap();
            values.iter().map(|x| (!x.is_nan()).then_some(x.to_bits())).collect()
        };
        self.params.iter().map(numbers).collect()
    }

    fn bits(&self) -> Vec<Vec<u32>> {
        let bits = |(_, weight, _): &(String, EngineTensor, EngineTensor)| {
            weight.to_vec::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
        };
        self.params.iter().map(bits).collect()
    }
}

/// Returns what the algorithms remember for all parameters together, and for each.
fn remembered(optimizer: &Driver) -> Vec<(String, u64)> {
    let names = ["d", "numerator_weighted", "k", "dlr", "g0_norm", "gsq_weighted", "sksq_weighted", "skl1"];
    let shared =
        names.into_iter().filter_map(|name| Some((name.to_owned(), optimizer.shared(name)?.to_bits())));
    let checkpoint = optimizer.save().unwrap();
    let of = |param: &str| {
        let scalars = checkpoint.states(param).filter(|(_, entry)| entry.shape.rank() == 0);
        let named =
            scalars.map(|(name, entry)| (format!("{param}: {name}"), entry.values::<f64>()[0].to_bits()));
        named.collect::<Vec<_>>()
    };
    shared.chain(optimizer.params().iter().flat_map(|param| of(&param.name))).collect()
}

fn states(optimizer: &Driver) -> Vec<Vec<u64>> {
    let mut all = Vec::new();
    for param in optimizer.params() {
        for state in &param.states {
            let values = optimizer.state(&param.name, state).unwrap().unwrap();
            all.push(values.into_iter().map(f64::to_bits).collect());
        }
    }
    all
}

#[test]
fn steps_with_sums_wait_for_nothing() {
    if on_gpu() {
        return; // It counts calls of the emulated driver.
    }
    let _turn = mode("unchecked,eager,seed=0");
    let emulator = fallline_emulator::install().unwrap();
    for text in readers().iter().chain(PRODUCTS) {
        // A device for each: pinned memory that others have filled is waited for.
        let backend = Cuda::new(0).unwrap().shared();
        let mut model = Model::new(&backend);
        let mut optimizer = recipe(text).optimizer(backend);
        // Past all phases.
        (0..9).for_each(|_| _ = model.step(&mut optimizer).unwrap());
        emulator.reset();
        (0..5).for_each(|_| _ = model.step(&mut optimizer).unwrap());
        for name in WAITS {
            assert_eq!(emulator.calls(name), 0, "{text}: {name}");
        }
        // They are fetched when they are read.
        if let Some(d) = optimizer.shared("d") {
            assert!(d > 0.0, "{text}");
            assert_eq!(emulator.calls("cuEventSynchronize"), 1, "{text}");
        }
    }
}

/// Returns what waited in the steps of `work`.
fn waits(mut work: impl FnMut()) -> Vec<(&'static str, u64)> {
    let emulator = fallline_emulator::install().unwrap();
    emulator.reset();
    work();
    let calls = WAITS.map(|name| (name, emulator.calls(name) as u64));
    calls.into_iter().filter(|(_, calls)| *calls > 0).collect()
}

#[test]
fn no_name_waits_once_everything_was_seen() {
    if on_gpu() {
        return; // It counts calls of the emulated driver.
    }
    let _turn = mode("unchecked,eager,seed=0");
    let mut waiting = Vec::new();
    // Of its own: pinned memory that others have filled is waited for.
    let fresh = || Cuda::new(0).unwrap().shared();
    for text in CASES.iter().chain(MODIFIED).chain(PRODUCTS).chain(OTHERS) {
        let backend = fresh();
        let mut model = Model::of(&backend, &[vec![16, 70], vec![4500], vec![3, 5], vec![1], vec![9]]);
        let mut optimizer = recipe(text).optimizer(backend);
        // Past all phases.
        (0..6).for_each(|_| _ = model.step(&mut optimizer).unwrap());
        let found = waits(|| (0..4).for_each(|_| _ = model.step(&mut optimizer).unwrap()));
        match WAITING.iter().any(|(name, _)| *name == name_of(text)) {
            true => assert!(!found.is_empty(), "{text} does not wait any more"),
            false => waiting.extend((!found.is_empty()).then_some((text, found))),
        }
    }
    for text in SPARSE {
        let backend = fresh();
        let mut optimizer = recipe(text).optimizer(Arc::clone(&backend));
        let mut table = EngineTensor::from_slice(&backend, &values(1, &[50, 6]), [50, 6]).unwrap();
        let grad = EngineTensor::from_slice(&backend, &values(2, &[5, 6]), [5, 6]).unwrap();
        let mut step = |t: i64| {
            // In order, and not; neighbours, and a row that is named twice.
            let indices = if t % 2 == 0 { [0, 1, 9, 10 + t, 40] } else { [7 + t, 3, 4, 3, 41] };
            optimizer.step(&mut [param("table", &mut table, rows(&indices, &grad))]).unwrap();
        };
        (0..6).for_each(&mut step);
        let found = waits(|| (6..10).for_each(&mut step));
        waiting.extend((!found.is_empty()).then_some((text, found)));
    }
    assert!(waiting.is_empty(), "{waiting:#?}");
}

#[test]
fn numbers_on_the_device_have_the_bits_of_the_cpu() {
    for options in ["unchecked,eager,seed=0", "checked,seed=1", "unchecked,lazy,seed=0"] {
        let _turn = mode(options);
        for text in readers() {
            let run = |backend: Arc<dyn Backend>| {
                let mut model = Model::new(&backend);
                let mut optimizer = recipe(text).optimizer(backend);
                let steps = if options.starts_with("checked") { 4 } else { 12 };
                for t in 0..steps {
                    // Nothing moves at first, nor in the middle.
                    model.write(t, if t == 0 || t == 2 { 0.0 } else { 1.0 });
                    optimizer.set(0, &[("lr", Value::Float(if t == 5 { 0.3 } else { 0.5 }))]).unwrap();
                    model.step(&mut optimizer).unwrap();
                }
                (model.bits(), states(&optimizer), remembered(&optimizer))
            };
            let (expected, got) = (run(best()), run(cuda()));
            assert_eq!(expected.2, got.2, "{text}, {options}");
            assert!(expected == got, "{text}, {options}");
        }
    }
}

#[test]
fn steps_with_sums_are_captured_and_replayed() {
    for options in ["unchecked,eager,seed=0", "checked,seed=1", "unchecked,lazy,seed=0"] {
        let _turn = mode(options);
        for text in [READERS[0], READERS[5], READERS[6], READERS[8], READERS[10], READERS[13], PRODUCTS[0]] {
            let steps = 9;
            // Nothing moves in the middle, while the graph is the same.
            let factor = |t: u64| if t == 5 { 0.0 } else { 1.0 };
            let lr = |t: u64| Value::Float(0.5 / (1.0 + t as f64));
            let expected = {
                let backend = if PRODUCTS.contains(&text) { cuda() } else { best() };
                let mut model = Model::new(&backend);
                let mut optimizer = recipe(text).optimizer(backend);
                for t in 0..steps {
                    model.write(t, factor(t));
                    optimizer.set(0, &[("lr", lr(t))]).unwrap();
                    model.step(&mut optimizer).unwrap();
                }
                (model.bits(), states(&optimizer), remembered(&optimizer))
            };
            let cuda = Arc::new(Cuda::new(0).unwrap());
            let backend: Arc<dyn Backend> = cuda.clone();
            let mut model = Model::new(&backend);
            let mut optimizer = recipe(text).optimizer(backend);
            let mut captured = None;
            for t in 0..steps {
                model.write(t, factor(t));
                optimizer.set(0, &[("lr", lr(t))]).unwrap();
                match &mut captured {
                    None if t < 4 => _ = model.step(&mut optimizer).unwrap(),
                    None => captured = Some(cuda.capture(|_| model.step(&mut optimizer)).unwrap().0),
                    Some(captured) => _ = captured.replay(|| model.step(&mut optimizer)).unwrap(),
                }
            }
            let got = (model.bits(), states(&optimizer), remembered(&optimizer));
            assert_eq!(expected.2, got.2, "{text}, {options}");
            assert!(expected == got, "{text}, {options}");
        }
    }
}

/// Clipping by norm around algorithms without sums, with them, and with operations between passes.
const CLIPPED: &[&str] = &[
    "optimizer=dict(type='AdamW', lr=0.01), clip_grad=dict(max_norm=0.5)",
    "optimizer=dict(type='AdamW', lr=0.01), clip_grad=dict(max_norm=0.5, norm_type=1)",
    "optimizer=dict(type='SGD', lr=0.1, momentum=0.9, maximize=True), clip_grad=dict(max_norm=1e6)",
    "optimizer=dict(type='LAMB', lr=0.01, max_unorm=0.1), clip_grad=dict(max_norm=0.5)",
    "optimizer=dict(type='DAdaptAdam', d0=1e-3), clip_grad=dict(max_norm=0.5)",
    "optimizer=dict(type='AdamW', lr=0.01), clip_grad=dict(max_norm=0.5, norm_type='inf')",
    "optimizer=dict(type='LARS', lr=0.1), clip_grad=dict(max_norm=0.5), accumulative_counts=2",
    "optimizer=dict(type='LARS', lr=0.1), clip_grad=dict(max_norm=0.5, norm_type=1), accumulative_counts=2",
    "optimizer=dict(type='Adafactor'), clip_grad=dict(max_norm=0.5)",
];

#[test]
fn clipping_by_norm_waits_for_nothing_until_the_norm_is_read() {
    let clipped = |text: &str| recipe(&format!("optim_wrapper = dict(type='OptimWrapper', {text})\n"));
    for options in ["unchecked,eager,seed=0", "checked,seed=1"] {
        let _turn = mode(options);
        for text in CLIPPED {
            let run = |backend: Arc<dyn Backend>| {
                let mut model = Model::new(&backend);
                let mut optimizer = clipped(text).optimizer(backend);
                let mut reports = Vec::new();
                for t in 0..4 {
                    model.write(t, if t == 2 { f32::NAN } else { 1.0 });
                    if t == 2 && !text.contains("AdamW") {
                        model.write(t, 0.0);
                    }
                    reports.push(model.step(&mut optimizer).unwrap());
                }
                // Each report has its own step's, however late it is read.
                let numbers = reports.iter().map(|report| {
                    [report.grad_norm(), report.clip_factor()]
                        .map(|x| x.filter(|x| !x.is_nan()).map(f64::to_bits))
                });
                let numbers: Vec<_> = numbers.collect();
                (numbers, model.numbers())
            };
            let (expected, got) = (run(best()), run(cuda()));
            assert!(expected == got, "{text}, {options}: {:?} {:?}", expected.0, got.0);
            if !on_gpu() {
                // Reports that are kept take memory of their own: the first of them are dropped here.
                let backend = cuda();
                let mut model = Model::new(&backend);
                let mut optimizer = clipped(text).optimizer(backend);
                (0..2).for_each(|_| drop(model.step(&mut optimizer).unwrap()));
                let emulator = fallline_emulator::install().unwrap();
                emulator.reset();
                (0..3).for_each(|_| drop(model.step(&mut optimizer).unwrap()));
                WAITS.iter().for_each(|name| assert_eq!(emulator.calls(name), 0, "{text}: {name}"));
                let report = model.step(&mut optimizer).unwrap();
                assert!(report.grad_norm().is_some() && emulator.calls("cuEventSynchronize") == 1, "{text}");
            }
        }
    }
}

/// Several ranks, which exchange by way of the host what they compress.
#[test]
fn ranks_that_compress_have_the_bits_of_the_cpu() {
    let texts = [
        "dict(type='OnebitAdam', lr=0.01, freeze_step=3, weight_decay=0.1)",
        "dict(type='OnebitLamb', lr=0.01, freeze_step=3, weight_decay=0.1, coeff_beta=0.5)",
        "dict(type='ZeroOneAdam', lr=0.01, var_freeze_step=3, local_step_scaler=2, weight_decay=0.1)",
    ];
    let _turn = mode("unchecked,eager,seed=0");
    for text in texts {
        let run = |backend: fn() -> Arc<dyn Backend>| {
            let running = threads(2, Duration::from_secs(60)).into_iter().map(|rank| {
                std::thread::spawn(move || {
                    let (number, backend) = (rank.rank() as u64, backend());
                    let mut model = Model::of(&backend, &[vec![16, 70], vec![4500], vec![1]]);
                    let mut optimizer = recipe(text).optimizer(backend).with_ranks(Arc::new(rank));
                    for t in 0..8 {
                        // Gradients of its own, where they are not averaged.
                        model.write(if optimizer.averages() { t } else { 10 * (number + 1) + t }, 1.0);
                        model.step(&mut optimizer).unwrap();
                    }
                    (model.bits(), states(&optimizer), remembered(&optimizer))
                })
            });
            let running: Vec<_> = running.collect();
            running.into_iter().map(|rank| rank.join().unwrap()).collect::<Vec<_>>()
        };
        let (expected, got) = (run(best), run(cuda));
        for (expected, got) in expected.iter().zip(&got) {
            assert_eq!(expected.2, got.2, "{text}");
        }
        assert!(expected == got, "{text}");
    }
}
