//! What several test files share: option sets, buffers of any element type, and a small random generator.

#![allow(dead_code, unused_imports)] // each test file is a crate of its own and uses a part

pub mod generated;
pub mod inputs;
pub mod trace;

pub use generated::generated;
pub use inputs::{CASES, ONE_EACH};

use fallline::core::{Element, Role};
use fallline::optim::program::Stage;
use fallline::optim::{Binding, GradRef, ParamRef, frozen, param};
use fallline::{
    AnyRecipe, Backend, Checkpoint, Compute, Cpu, Driver, Format, Isa, LineSearch, Method, Optimizer, Recipe,
};
use half::{bf16, f16};
use std::sync::{Arc, OnceLock};

/// Algorithms with modifiers around them: of one pass and of several, with decays on either side, states in 8 bits.
pub const MODIFIED: &[&str] = &[
    "dict(type='AdamW', lr=0.01, weight_decay=0.1, cautious=True)",
    "dict(type='Adam', lr=0.01, amsgrad=True, weight_decay=0.1, maximize=True, cautious=True)",
    "dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, cautious=True)",
    "dict(type='SGD', lr=0.1, cautious=True)",
    "dict(type='Lion', lr=0.01, weight_decay=0.1, cautious=True)",
    "dict(type='LAMB', lr=0.01, weight_decay=0.1, max_unorm=0.1, cautious=True)",
    "dict(type='RMSprop', lr=0.1, alpha=0.7, centered=True, momentum=0.5, cautious=True)",
    "dict(type='AdamW8bit', lr=0.1, min_8bit_size=500, weight_decay=0.1, cautious=True)",
    "dict(type='TorchAdafactor', lr=0.1, weight_decay=0.3, cautious=True)",
    "dict(type='AdamW', lr=0.01, weight_decay=0.1, wrap=dict(type='Lookahead', k=2, alpha=0.3))",
    "dict(type='SGD', lr=0.1, wrap=dict(type='Lookahead', k=1, alpha=0.8))",
    "dict(type='TorchAdafactor', lr=0.1, weight_decay=0.3, wrap=dict(type='Lookahead', k=2))",
    "dict(type='Lion8bit', lr=0.1, min_8bit_size=500, wrap=dict(type='Lookahead', k=2))",
    "dict(type='OnebitAdam', lr=0.1, freeze_step=3, weight_decay=0.1, wrap=dict(type='Lookahead', k=2))",
    "dict(type='Adam', lr=0.01, weight_decay=0.1, cautious=True, wrap=dict(type='Lookahead', k=2, alpha=0.5))",
    "dict(type='Prodigy', weight_decay=0.1, decouple=False, d0=1e-3, cautious=True)",
    "dict(type='Prodigy', betas=(0.5, 0.9), weight_decay=0.1, d0=1e-3, slice_p=3, cautious=True)",
    "dict(type='LARS', lr=0.1, momentum=0.5, weight_decay=0.1, max_unorm=0.3, cautious=True)",
    "dict(type='LARS8bit', lr=0.1, momentum=0.5, min_8bit_size=500, weight_decay=0.1, quantised_trust_ratio=True, cautious=True)",
    "dict(type='DAdaptAdam', weight_decay=0.1, d0=1e-3, cautious=True)",
    "dict(type='ASGD', lr=0.1, lambd=0.1, t0=1.0, weight_decay=0.1, maximize=True, cautious=True)",
];

/// Returns whether a step on a parameter looks at more than one element of it: its passes have sums, or operations
/// are between. Blocks of elements are [another reason](in_blocks).
pub fn looks_at_whole_tensors(text: &str) -> bool {
    let recipe = recipe(text);
    let whole = |stage: Stage| stage.kernel().is_none_or(|kernel| !kernel.sums.is_empty());
    recipe.algorithm().programs().any(|program| program.iter().any(whole))
}

/// Returns whether a step on a parameter depends on the others that step with it.
pub fn looks_at_all_together(text: &str) -> bool {
    recipe(text).algorithm().programs().any(|program| program.is_global())
}

/// Returns whether a configuration keeps states in blocks, whose elements share a scale.
pub fn in_blocks(text: &str) -> bool {
    let recipe = recipe(text);
    let programs = recipe.algorithm().programs();
    let mut states = programs.flat_map(|program| program.operands(Role::State));
    states.any(|state| recipe.state_format(state, 1 << 20).block().is_some())
}

/// Returns the algorithm's name in a configuration.
pub fn name_of(text: &str) -> &'static str {
    method(text).name()
}

/// Returns every format that a state can be kept in, as configurations name them.
pub fn format_names() -> Vec<&'static str> {
    let mut names: Vec<&str> = Format::ALL.into_iter().chain(Format::BLOCKS).map(Format::name).collect();
    names.dedup();
    names
}

/// Returns a configuration as a dict, where it may be a name alone.
pub fn whole(text: &str) -> String {
    if text.starts_with("dict") { text.to_owned() } else { format!("dict(type='{text}')") }
}

/// Returns a configuration that must be good.
pub fn recipe(text: &str) -> Recipe {
    Recipe::from_text(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Returns the method that a configuration names, which must be a good one.
pub fn method(text: &str) -> Method {
    AnyRecipe::from_text(text).unwrap_or_else(|error| panic!("{text}: {error}")).method()
}

/// Returns the instruction sets of this machine. Those that it lacks are skipped: there is nothing to run them on.
pub fn isas() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available()).collect()
}

/// Returns a CPU backend.
pub fn cpu(isa: Isa, threads: usize) -> Arc<dyn Backend> {
    Cpu::with_isa(isa, threads).expect("an instruction set of this machine").shared()
}

/// Returns the backend of the suites: the best instruction set on the calling thread. Where `tests/on_cuda/main.rs` runs
/// them again, it is a CUDA device: emulated, or real with `FALLLINE_TEST_GPU=1`.
pub fn best() -> Arc<dyn Backend> {
    if env!("CARGO_CRATE_NAME") == "on_cuda" { cuda() } else { cpu(Isa::best(), 1) }
}

/// Returns every backend that must agree: the instruction sets of this machine, or the CUDA device.
pub fn backends() -> Vec<Arc<dyn Backend>> {
    if env!("CARGO_CRATE_NAME") == "on_cuda" {
        return vec![cuda()];
    }
    isas().into_iter().map(|isa| cpu(isa, 1)).collect()
}

/// Returns whether the CUDA device is to be a real one: `FALLLINE_TEST_GPU=1`.
pub fn on_gpu() -> bool {
    std::env::var_os("FALLLINE_TEST_GPU").is_some_and(|wish| wish == "1")
}

/// Returns the CUDA device of this process.
pub fn cuda() -> Arc<dyn Backend> {
    static DEVICE: OnceLock<Arc<dyn Backend>> = OnceLock::new();
    let open = || {
        if !on_gpu() {
            fallline_emulator::install().expect("the emulator");
        }
        fallline_cuda::Cuda::new(0).expect("a CUDA device").shared()
    };
    Arc::clone(DEVICE.get_or_init(open))
}

/// Returns an optimizer on the calling thread.
pub fn build(text: &str) -> Driver {
    build_on(best(), text)
}

/// Returns an optimizer for tensors of any formats: what looks at all parameters together computes them in one type.
pub fn build_on(backend: Arc<dyn Backend>, text: &str) -> Driver {
    let optimizer = recipe(text).optimizer(backend);
    if looks_at_all_together(text) { optimizer.with_compute(Compute::F32) } else { optimizer }
}

/// Returns an optimizer that evaluates the loss itself, on the calling thread.
pub fn search(text: &str) -> LineSearch {
    match AnyRecipe::from_text(text) {
        Ok(AnyRecipe::Search(recipe)) => recipe.optimizer(best()),
        other => panic!("{text} is no search: {other:?}"),
    }
}

/// Splitmix64: enough randomness for tests, the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Returns a uniform number in [-1, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// Returns uniform numbers in [-1, 1).
    pub fn units(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| self.unit()).collect()
    }

    /// Returns any number: mostly plain ones, and all the special ones of every format.
    pub fn wild(&mut self) -> f64 {
        const SPECIAL: [f64; 18] = [
            0.0,
            -0.0,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MAX,
            f64::MIN,
            f64::MIN_POSITIVE,
            5e-324,
            f32::MAX as f64,
            f32::MIN as f64,
            f32::MIN_POSITIVE as f64,
            1.4e-45,
            -1e-40,
            65504.0,
            6e-8,
            -3e-6,
            1e19, // its square is out of range in f32
        ];
        match self.below(4) {
            0 => SPECIAL[self.below(SPECIAL.len())],
            1 => self.unit() * f64::from(self.below(80) as i32 - 40).exp2(),
            _ => self.unit(),
        }
    }

    pub fn wilds(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| self.wild()).collect()
    }
}

/// A vector of any element type.
#[derive(Clone, Debug)]
pub enum Buffer {
    F64(Vec<f64>),
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
}

macro_rules! each {
    ($buffer:expr, $vector:ident => $result:expr) => {
        match $buffer {
            Buffer::F64($vector) => $result,
            Buffer::F32($vector) => $result,
            Buffer::Bf16($vector) => $result,
            Buffer::F16($vector) => $result,
        }
    };
}

impl Buffer {
    /// Returns the type of its elements.
    pub fn format(&self) -> Format {
        match self {
            Buffer::F64(_) => Format::F64,
            Buffer::F32(_) => Format::F32,
            Buffer::Bf16(_) => Format::Bf16,
            Buffer::F16(_) => Format::F16,
        }
    }

    /// Returns the numbers, rounded to a format.
    pub fn new(format: Format, values: &[f64]) -> Buffer {
        fn rounded<T: Element>(values: &[f64]) -> Vec<T> {
            values.iter().map(|&x| T::from_f64(x)).collect()
        }
        match format {
            Format::F64 => Buffer::F64(rounded(values)),
            Format::F32 => Buffer::F32(rounded(values)),
            Format::Bf16 => Buffer::Bf16(rounded(values)),
            Format::F16 => Buffer::F16(rounded(values)),
            other => panic!("no buffer of {other}"),
        }
    }

    /// Returns the numbers, exactly.
    pub fn values(&self) -> Vec<f64> {
        each!(self, vector => vector.iter().map(|x| x.to_f64()).collect())
    }

    /// Returns the numbers' bits as `f64`, with every NaN the same.
    pub fn bits(&self) -> Vec<u64> {
        bits(&self.values())
    }

    /// Returns the elements from a place on, for a parameter.
    pub fn param_from(&mut self, start: usize) -> ParamRef<'_> {
        each!(self, vector => (&mut vector[start..]).into())
    }

    /// Returns the elements from a place on, for a gradient.
    pub fn grad_from(&self, start: usize) -> GradRef<'_> {
        each!(self, vector => (&vector[start..]).into())
    }
}

/// Returns the bits of numbers, with every NaN the same.
pub fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|x| if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() }).collect()
}

/// A parameter of a test: name, values, and the gradient of each step (none: not given).
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    pub value: Buffer,
    pub grads: Vec<Option<Buffer>>,
    /// Elements in front of the ones that are meant, so that the slices are not aligned; behind them none.
    pub offset: usize,
    /// Its extents, where it is not flat.
    pub shape: Option<Vec<usize>>,
}

impl Tensor {
    /// Makes one of these numbers, aligned as they come.
    pub fn new(name: impl Into<String>, value: Buffer, grads: Vec<Option<Buffer>>) -> Tensor {
        Tensor { name: name.into(), value, grads, offset: 0, shape: None }
    }

    /// Returns a parameter of `f32` with a gradient at each step, numbers in [-1, 1).
    pub fn plain(name: &str, elements: usize, steps: usize, random: &mut Random) -> Tensor {
        let mut draw = || Buffer::new(Format::F32, &random.units(elements));
        Tensor::new(name, draw(), (0..steps).map(|_| Some(draw())).collect())
    }
}

/// Bindings of step `t`.
pub fn bind(tensors: &mut [Tensor], t: usize) -> Vec<Binding<'_>> {
    let mut bindings = Vec::new();
    for Tensor { name, value, grads, offset, shape } in tensors {
        let binding = match &grads[t] {
            Some(grad) => param(name, value.param_from(*offset), grad.grad_from(*offset)),
            None => frozen(name, value.param_from(*offset)),
        };
        bindings.push(match shape {
            Some(shape) => binding.shaped(shape),
            None => binding,
        });
    }
    bindings
}

/// Takes the steps in `range`.
pub fn run(optimizer: &mut Driver, tensors: &mut [Tensor], range: core::ops::Range<usize>) {
    for t in range {
        optimizer.step(&mut bind(tensors, t)).expect("a good step");
    }
}

/// What a run leaves behind of a parameter, comparable: its name, bits, steps, and states' bits.
pub type Left = (String, Vec<u64>, u64, Vec<(&'static str, Vec<u64>)>);

/// All that a run leaves behind.
pub type Outcome = Vec<Left>;

/// Returns what is there now. A parameter that the optimizer has not seen has 0 steps and no states.
pub fn outcome(optimizer: &Driver, tensors: &[Tensor]) -> Outcome {
    let known = optimizer.params();
    let mut outcome: Outcome = tensors
        .iter()
        .map(|tensor| {
            let (steps, names) = known
                .iter()
                .find(|param| param.name == tensor.name)
                .map_or((0, Vec::new()), |param| (param.steps, param.states.clone()));
            let state = |state| bits(&optimizer.state(&tensor.name, state).unwrap().unwrap());
            let states = names.into_iter().map(|name| (name, state(name))).collect();
            (tensor.name.clone(), tensor.value.bits(), steps, states)
        })
        .collect();
    outcome.sort();
    outcome
}

/// Returns where two outcomes differ first, human-readable.
pub fn first_difference(expected: &Outcome, got: &Outcome) -> String {
    for (a, b) in expected.iter().zip(got) {
        let lists = [("param", &a.1, &b.1)].into_iter();
        for (what, x, y) in lists.chain(a.3.iter().zip(&b.3).map(|(x, y)| (x.0, &x.1, &y.1))) {
            if let Some(i) = (0..x.len().min(y.len())).find(|&i| x[i] != y[i]) {
                let (x, y) = (f64::from_bits(x[i]), f64::from_bits(y[i]));
                return format!("{} {what}[{i}]: expected {x:e}, got {y:e}", a.0);
            }
        }
    }
    "other steps, states or lengths".into()
}

/// Runs a fresh optimizer over all steps.
pub fn outcome_of(mut optimizer: Driver, tensors: &[Tensor]) -> Outcome {
    let mut tensors = tensors.to_vec();
    let steps = tensors.first().map_or(0, |tensor| tensor.grads.len());
    run(&mut optimizer, &mut tensors, 0..steps);
    outcome(&optimizer, &tensors)
}

/// Returns a checkpoint's bytes with its header (JSON) and data changed. They have no hashes, so that what a load checks
/// itself is met.
pub fn edited(
    checkpoint: &Checkpoint,
    edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>, &mut Vec<u8>),
) -> Vec<u8> {
    let bytes = checkpoint.to_bytes().expect("a good checkpoint");
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let mut data = bytes[8 + length..].to_vec();
    edit_manifest(&mut header, |manifest| drop(manifest.as_object_mut().unwrap().remove("hashes")));
    edit(&mut header, &mut data);
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

/// Returns the bytes of an entry, to change.
pub fn entry_bytes<'d>(
    header: &serde_json::Map<String, serde_json::Value>,
    data: &'d mut [u8],
    key: &str,
) -> &'d mut [u8] {
    let offsets = &header[key]["data_offsets"];
    let place = |i: usize| offsets[i].as_u64().unwrap() as usize;
    &mut data[place(0)..place(1)]
}

/// Changes the manifest.
pub fn edit_manifest(
    header: &mut serde_json::Map<String, serde_json::Value>,
    edit: impl FnOnce(&mut serde_json::Value),
) {
    let text = header["__metadata__"]["fallline"].as_str().unwrap();
    let mut manifest = serde_json::from_str(text).unwrap();
    edit(&mut manifest);
    header["__metadata__"]["fallline"] = manifest.to_string().into();
}
