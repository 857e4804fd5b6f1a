//! Offload, with states on the host and parameters and gradients on a device, against a step that is all on the
//! host. The bits are the same, as many bytes as documented are copied, and copies are under way while the host
//! steps.

mod common;

use common::{Random, cuda, on_gpu, recipe};
use fallline::core::backend::{
    AsyncTransfer, DeviceMemory, Indexing, LinearAlgebra, Pass, Plan, Reductions, View,
};
use fallline::core::host::{Slice, SliceMut};
use fallline::core::private::Sealed;
use fallline::core::transfer::{AsyncCopy, Transfers};
use fallline::core::{Device, Result, Storage};
use fallline::optim::average::Average;
use fallline::optim::gradient_config::{Accumulate, Clip, GradientConfig};
use fallline::optim::{Binding, Error, ParamPrecision, ParamState, can_offload, frozen, param};
use fallline::{Backend, Checkpoint, Cpu, Driver, Format, NonFinitePolicy, Optimizer, Tensor};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Two that fill a chunk of 2^19 elements together with a third, one that goes over several, and small ones.
const LENGTHS: [usize; 6] = [400_000, 7, 0, 130_000, 1_200_000, 3];
const CHUNK: usize = 1 << 19;
const STEPS: usize = 4;

/// The emulator has one configuration: tests take turns.
fn turn(options: &str) -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if !on_gpu() {
        let emulator = fallline_emulator::install().expect("the emulator");
        emulator.reset();
        emulator.configure("devices=1");
        emulator.configure(options);
    }
    turn
}

fn host() -> Arc<dyn Backend> {
    Cpu::with_threads(2).unwrap().shared()
}

/// Parameters and gradients of some steps.
struct Case {
    names: Vec<String>,
    params: Vec<Tensor>,
    grads: Vec<Vec<Tensor>>,
}

impl Case {
    fn new(backend: &Arc<dyn Backend>, (param, grad): (Format, Format), lengths: &[usize]) -> Case {
        let mut random = Random(7);
        let mut tensor = |format, n: usize| {
            let mut tensor = Tensor::zeros(backend, format, [n]).unwrap();
            tensor.write(&random.units(n)).unwrap();
            tensor
        };
        let params = lengths.iter().map(|&n| tensor(param, n)).collect();
        let grads = (0..STEPS).map(|_| lengths.iter().map(|&n| tensor(grad, n)).collect()).collect();
        Case { names: (0..lengths.len()).map(|i| format!("p{i}")).collect(), params, grads }
    }

    fn step(&mut self, optimizer: &mut Driver, t: usize) -> fallline::optim::Result<()> {
        let pairs = self.names.iter().zip(&mut self.params).zip(&self.grads[t]).enumerate();
        // One has no gradient in one step.
        let mut bindings: Vec<Binding<'_>> = pairs
            .map(|(i, ((name, p), g))| if (t, i) == (1, 3) { frozen(name, p) } else { param(name, p, g) })
            .collect();
        optimizer.step(&mut bindings).map(drop)
    }

    fn steps(&mut self, optimizer: &mut Driver, range: core::ops::Range<usize>) {
        range.for_each(|t| self.step(optimizer, t).unwrap());
    }

    fn bits(&self) -> Vec<Vec<u64>> {
        let of = |tensor: &Tensor| tensor.to_vec::<f64>().unwrap().iter().map(|x| x.to_bits()).collect();
        self.params.iter().map(of).collect()
    }
}

fn states(optimizer: &Driver) -> Vec<(String, &'static str, Vec<f64>)> {
    let params = optimizer.params();
    let of = |param: &ParamState| {
        let name = param.name.clone();
        let states = param.states.iter().copied().chain(["master"]);
        let known =
            states.filter_map(|state| Some((name.clone(), state, optimizer.state(&name, state).unwrap()?)));
        known.collect::<Vec<_>>()
    };
    params.iter().flat_map(of).collect()
}

/// Returns one on the host alone; of 16 bits with the same copies in full precision.
fn alone(text: &str, format: Format) -> Driver {
    let mut driver = recipe(text).optimizer(host());
    if matches!(format, Format::Bf16 | Format::F16) {
        driver.set_param_precision(0, ParamPrecision::MasterWeights).unwrap();
    }
    driver
}

fn offloaded(text: &str, device: Arc<dyn Backend>) -> Driver {
    let mut driver = recipe(text).optimizer(device);
    if driver.backend().device() != Device::Cpu {
        driver.offload(host()).unwrap();
    }
    driver
}

const CASES: [&str; 8] = [
    "dict(type='AdamW', lr=0.01)",
    "dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.01)",
    "dict(type='DeepSpeedCPUAdam', lr=0.01, weight_decay=0.1)",
    "dict(type='Lion', lr=0.01)",
    "dict(type='ASGD', lr=0.01)",
    "dict(type='AdamW', lr=0.01, state_format='q8')",
    "dict(type='RMSprop', lr=0.01, state_format='bf16')",
    "dict(type='AdEMAMix', lr=0.01, state_format='f16', seed=6)",
];

#[test]
fn the_bits_are_those_of_the_host() {
    use Format::{Bf16, F16, F32, F64};
    for (mode, cases, lengths) in [
        ("unchecked,eager", &CASES[..], &LENGTHS[..]),
        ("unchecked,lazy", &CASES[..2], &LENGTHS[..]),
        ("checked,seed=1", &CASES[..2], &[9000, 0, 5][..]),
    ] {
        let _turn = turn(mode);
        for text in cases {
            for formats in [(Bf16, Bf16), (F16, F32), (F32, F32), (F64, F64)] {
                let (mut expected, mut got) =
                    (Case::new(&host(), formats, lengths), Case::new(&cuda(), formats, lengths));
                let (mut one, mut other) = (alone(text, formats.0), offloaded(text, cuda()));
                expected.steps(&mut one, 0..STEPS);
                got.steps(&mut other, 0..STEPS);
                assert_eq!(other.backend().device(), Device::Cpu);
                assert!(got.bits() == expected.bits(), "{text}, {formats:?}, {mode}");
                let masters = |of: Vec<(String, &'static str, Vec<f64>)>| {
                    let narrow = matches!(formats.0, Bf16 | F16);
                    of.into_iter().filter(|(_, state, _)| narrow || *state != "master").collect::<Vec<_>>()
                };
                assert!(masters(states(&other)) == masters(states(&one)), "{text}, {formats:?}, {mode}");
            }
        }
    }
}

#[test]
fn checkpoints_go_both_ways() {
    let _turn = turn("unchecked,eager");
    for format in [Format::Bf16, Format::F32] {
        let text = CASES[0];
        let (mut expected, mut got) = (
            Case::new(&host(), (format, format), &[9000, 5]),
            Case::new(&cuda(), (format, format), &[9000, 5]),
        );
        let (mut one, mut other) = (alone(text, format), offloaded(text, cuda()));
        expected.steps(&mut one, 0..2);
        got.steps(&mut other, 0..2);
        let saved = other.save().unwrap().to_bytes().unwrap();
        assert!(one.save().unwrap().to_bytes().unwrap() == saved, "{format}: the same file");
        let checkpoint = Checkpoint::from_bytes(&saved).unwrap();
        let (mut one, mut other) = (alone(text, format), offloaded(text, cuda()));
        one.load(&checkpoint).unwrap();
        other.load(&checkpoint).unwrap();
        expected.steps(&mut one, 2..STEPS);
        got.steps(&mut other, 2..STEPS);
        assert!(got.bits() == expected.bits(), "{format}");
    }
}

#[test]
fn what_goes_on_around_a_step_stays_on_the_device() {
    let _turn = turn("unchecked,eager");
    let norm = Clip::Norm { max_norm: 0.5, norm_type: 2.0, error_if_nonfinite: false };
    let wrappers: [fn(&mut GradientConfig, Clip); 2] = [
        |wrapper, norm| wrapper.clip = Some(norm),
        |wrapper, _| {
            wrapper.accumulate = Accumulate { accumulation_steps: 2, total: None };
            wrapper.clip = Some(Clip::Value { clip_value: 0.25 });
        },
    ];
    for (number, change) in wrappers.into_iter().enumerate() {
        let mut wrapper = GradientConfig::default();
        change(&mut wrapper, norm);
        let around = |driver: Driver| {
            let driver = driver.with_gradients(wrapper.clone()).with_non_finite(NonFinitePolicy::Skip);
            driver.averaged(Average::exponential(0.25).unwrap())
        };
        let formats = (Format::F32, Format::F32);
        let (mut expected, mut got) =
            (Case::new(&host(), formats, &[9000, 5]), Case::new(&cuda(), formats, &[9000, 5]));
        let build = || around(offloaded(CASES[0], cuda()));
        let (mut one, mut other) = (around(alone(CASES[0], formats.0)), build());
        expected.steps(&mut one, 0..3);
        got.steps(&mut other, 0..3);
        // In the middle of a window, and with an average.
        let checkpoint = other.save().unwrap();
        assert!(checkpoint == one.save().unwrap(), "{number}");
        let mut other = build();
        other.load(&checkpoint).unwrap();
        expected.steps(&mut one, 3..STEPS);
        got.steps(&mut other, 3..STEPS);
        assert!(got.bits() == expected.bits(), "{number}");
        assert_eq!(other.average("p0").unwrap(), one.average("p0").unwrap());
    }
}

#[test]
fn where_everything_is_on_the_host_nothing_is_copied() {
    let _turn = turn("unchecked,eager");
    let mut other = offloaded(CASES[0], cuda());
    let mut one = alone(CASES[0], Format::F32);
    let (mut a, mut b) = ([1.0_f32; 9], [1.0_f32; 9]);
    for _ in 0..3 {
        other.step(&mut [param("w", &mut a, &[0.5_f32; 9])]).unwrap();
        one.step(&mut [param("w", &mut b, &[0.5_f32; 9])]).unwrap();
    }
    assert_eq!(a, b);
    assert!(other.save().unwrap() == one.save().unwrap());
}

#[test]
fn mistakes_are_told() {
    let _turn = turn("unchecked,eager");
    for text in ["dict(type='LAMB')", "dict(type='Muon')", "dict(type='DAdaptAdam')"] {
        let mut driver = recipe(text).optimizer(cuda());
        let error = driver.offload(host()).unwrap_err().to_string();
        assert!(error.contains("cannot be offloaded"), "{error}");
        assert!(can_offload(recipe(text).algorithm()).is_err());
    }
    let mut driver = offloaded(CASES[0], cuda());
    let mut tensor = Tensor::zeros(&cuda(), Format::F32, [4]).unwrap();
    let error = driver.step(&mut [param("w", &mut tensor, &[1.0_f32; 4])]).unwrap_err();
    assert!(matches!(error, Error::OtherDevice { got: Device::Cpu, .. }), "{error}");
    let grad = Tensor::zeros(&cuda(), Format::F32, [4]).unwrap();
    driver.step(&mut [param("w", &mut tensor, &grad)]).unwrap();
    let error = driver.offload(host()).unwrap_err().to_string();
    assert!(error.contains("has stepped already"), "{error}");
}

#[test]
fn configurations_say_so() {
    let _turn = turn("unchecked,eager");
    let on = |text: &str| recipe(text).optimizer(cuda()).backend().device();
    assert_eq!(on("dict(type='AdamW', offload='cpu')"), Device::Cpu);
    assert_eq!(on("dict(type='AdamW')"), Device::Cuda(0));
    assert_eq!(on("dict(type='AdamW', offload=None)"), Device::Cuda(0));
    // What it is for.
    assert_eq!(on("dict(type='DeepSpeedCPUAdam')"), Device::Cpu);
    assert_eq!(on("dict(type='DeepSpeedCPUAdam', offload=None)"), Device::Cuda(0));
    let sharded = "dict(type='ZeroRedundancyOptimizer', optimizer_type='AdamW', offload='cpu')";
    assert_eq!(on(sharded), Device::Cpu);
    let refused = |text: &str| fallline::Recipe::from_text(text).map(|_| ()).expect_err(text).to_string();
    let disk = refused("dict(type='AdamW', offload='disk')");
    assert!(disk.contains("offload must be \"cpu\", got \"disk\""), "{disk}");
    assert!(refused("dict(type='LAMB', offload='cpu')").contains("cannot be offloaded"));
    let by_chance = refused("dict(type='AdamW', offload='cpu', param_format='bf16_sr')");
    assert!(by_chance.contains("full precision"), "{by_chance}");
}

/// What a device was asked for, in order.
#[derive(Clone, Debug, PartialEq)]
enum Event {
    Fetch(usize),
    Fetched,
    Step(usize),
    Send(usize),
    Sent,
}

type Log = Arc<Mutex<Vec<Event>>>;

/// A backend that writes down copies and passes.
#[derive(Debug)]
struct Logged(Arc<dyn Backend>, Log);

struct LoggedTransfers<'t, 's>(&'t mut dyn Transfers<'s>, Log);

#[derive(Debug)]
struct LoggedCopy(Box<dyn AsyncCopy>, Log, Event);

fn note(log: &Log, event: Event) {
    log.lock().unwrap().push(event);
}

fn bytes(views: &[View<'_>]) -> usize {
    views.iter().map(|view| view.len() * view.format().bytes()).sum()
}

impl AsyncCopy for LoggedCopy {
    fn wait(self: Box<Self>) -> Result<Storage> {
        note(&self.1, self.2);
        self.0.wait()
    }
}

impl<'s> Transfers<'s> for LoggedTransfers<'_, 's> {
    fn d2h(&mut self, from: Vec<View<'s>>, to: Storage) -> Result<Box<dyn AsyncCopy>> {
        note(&self.1, Event::Fetch(bytes(&from)));
        Ok(Box::new(LoggedCopy(self.0.d2h(from, to)?, Arc::clone(&self.1), Event::Fetched)))
    }
    fn h2d(&mut self, from: Storage, to: Vec<View<'s>>) -> Result<Box<dyn AsyncCopy>> {
        note(&self.1, Event::Send(bytes(&to)));
        Ok(Box::new(LoggedCopy(self.0.h2d(from, to)?, Arc::clone(&self.1), Event::Sent)))
    }
}

impl Sealed for Logged {}

impl Backend for Logged {
    fn device(&self) -> Device {
        self.0.device()
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
    fn is_host_accessible(&self) -> bool {
        self.0.is_host_accessible()
    }
    fn plan(&self) -> Plan {
        self.0.plan()
    }
    fn run(&self, pass: Pass<'_, '_>) -> Result<()> {
        let mut elements = 0;
        let tensors = &mut *pass.tensors;
        let ran = self.0.run(Pass {
            tensors: &mut |views| {
                let tensor = tensors(views)?;
                elements += tensor.elements;
                Some(tensor)
            },
            kernel: pass.kernel,
            compute: pass.compute,
            constants: pass.constants,
            tensor_scalars: pass.tensor_scalars,
            plan: &mut *pass.plan,
            sums: &mut *pass.sums,
            fused: pass.fused,
            checked: false,
        });
        note(&self.1, Event::Step(elements));
        ran
    }
    fn linalg(&self) -> &dyn LinearAlgebra {
        self.0.linalg()
    }
    fn indexing(&self) -> &dyn Indexing {
        self.0.indexing()
    }
    fn reductions(&self) -> &dyn Reductions {
        self.0.reductions()
    }
    fn transfers(&self) -> Option<&dyn AsyncTransfer> {
        self.0.transfers().map(|_| self as &dyn AsyncTransfer)
    }
    fn synchronise(&self) -> Result<()> {
        self.0.synchronise()
    }
}

impl DeviceMemory for Logged {
    fn allocate(&self, requests: &[(Format, usize)]) -> Result<Vec<Storage>> {
        self.0.allocate(requests)
    }
    fn write(&self, storage: &mut Storage, values: Slice<'_>) -> Result<()> {
        self.0.write(storage, values)
    }
    fn read(&self, storage: &Storage, values: SliceMut<'_>) -> Result<()> {
        self.0.read(storage, values)
    }
    fn read_blocks(&self, storage: &Storage, codes: &mut [u8], scales: &mut [f32]) -> Result<()> {
        self.0.read_blocks(storage, codes, scales)
    }
    fn read_scales(&self, storage: &Storage, scales: &mut [f32]) -> Result<()> {
        self.0.read_scales(storage, scales)
    }
    fn write_blocks(&self, storage: &mut Storage, codes: &[u8], scales: &[f32]) -> Result<()> {
        self.0.write_blocks(storage, codes, scales)
    }
    fn copy(&self, from: &Storage, to: &mut Storage) -> Result<()> {
        self.0.copy(from, to)
    }
}

impl AsyncTransfer for Logged {
    fn allocate_pinned(&self, format: Format, len: usize) -> Result<Storage> {
        self.0.require("offload", self.0.transfers())?.allocate_pinned(format, len)
    }
    fn transfer<'s>(&self, work: &mut dyn FnMut(&mut dyn Transfers<'s>) -> Result<()>) -> Result<()> {
        let copies = self.0.require("offload", self.0.transfers())?;
        let log = Arc::clone(&self.1);
        copies.transfer(&mut |transfers| work(&mut LoggedTransfers(transfers, Arc::clone(&log))))
    }
}

/// In a step on 16 bits, 2 bytes an element go each way. While a chunk is stepped, the next is on its way down and
/// the one before on its way up.
#[test]
fn copies_overlap_the_step() {
    let _turn = turn("unchecked,lazy");
    let log = Log::default();
    let device: Arc<dyn Backend> = Arc::new(Logged(cuda(), Arc::clone(&log)));
    let mut driver = recipe(CASES[0]).optimizer(Arc::clone(&device));
    driver.offload(Arc::new(Logged(host(), Arc::clone(&log)))).unwrap();
    let chunks = 5;
    let mut case = Case::new(&device, (Format::Bf16, Format::Bf16), &[chunks * CHUNK]);
    case.steps(&mut driver, 0..1);
    log.lock().unwrap().clear();
    case.steps(&mut driver, 1..2);
    let log = log.lock().unwrap().clone();
    let (down, up, steps) = log.iter().fold((0, 0, 0), |(down, up, steps), event| match event {
        Event::Fetch(bytes) => (down + bytes, up, steps),
        Event::Send(bytes) => (down, up + bytes, steps),
        Event::Step(elements) => (down, up, steps + elements),
        _ => (down, up, steps),
    });
    assert_eq!((down, up, steps), (2 * chunks * CHUNK, 2 * chunks * CHUNK, chunks * CHUNK));
    // How many copies are under way in each direction when a chunk is stepped.
    let (mut coming, mut going, mut during) = (0, 0, Vec::new());
    for event in &log {
        match event {
            Event::Fetch(_) => coming += 1,
            Event::Fetched => coming -= 1,
            Event::Send(_) => going += 1,
            Event::Sent => going -= 1,
            Event::Step(_) => during.push((coming, going)),
        }
    }
    assert_eq!(during, [(1, 0), (1, 1), (1, 1), (1, 1), (0, 1)], "{log:?}");
    assert_eq!((coming, going), (0, 0));
}

/// A host has nothing to transfer: the error names the operation and the device.
#[test]
fn a_missing_capability_is_named() {
    let host = host();
    let missing = host.require("offload", host.transfers()).err().unwrap();
    assert_eq!(missing.to_string(), "offload: cpu does not support it");
    assert!(!missing.may_have_written());
}

/// A copy that fails before anything was written changes nothing; later, the optimizer says that it must be reloaded.
#[test]
fn a_copy_that_fails_is_told() {
    const UNKNOWN: u32 = 999;
    if on_gpu() {
        return; // nothing can be made to fail there
    }
    for (call, nth, begun) in [("cuMemcpyDtoHAsync_v2", 1, false), ("cuMemcpyHtoDAsync_v2", 1, true)] {
        let _turn = turn("unchecked,eager");
        let mut case = Case::new(&cuda(), (Format::F32, Format::F32), &[3 * CHUNK]);
        let mut driver = offloaded(CASES[0], cuda());
        case.step(&mut driver, 0).unwrap();
        let (before, checkpoint) = (case.bits(), driver.save().unwrap());
        let emulator = fallline_emulator::install().unwrap();
        emulator.reset();
        emulator.configure(&format!("fail={call}:{nth}:{UNKNOWN}"));
        let error = case.step(&mut driver, 1).unwrap_err().to_string();
        assert!(error.contains("copying"), "{call}: {error}");
        emulator.reset();
        let again = case.step(&mut driver, 1);
        assert_eq!(matches!(again, Err(Error::Poisoned { .. })), begun, "{call}: {again:?}");
        if !begun {
            // The step that failed left no trace.
            let mut fresh = Case::new(&cuda(), (Format::F32, Format::F32), &[3 * CHUNK]);
            fresh.params.iter_mut().zip(&before).for_each(|(tensor, bits)| {
                let values: Vec<f64> = bits.iter().map(|&bits| f64::from_bits(bits)).collect();
                tensor.write(&values).unwrap();
            });
            let mut driver = offloaded(CASES[0], cuda());
            driver.load(&checkpoint).unwrap();
            fresh.step(&mut driver, 1).unwrap();
            assert!(fresh.bits() == case.bits());
        }
    }
}
