//! Every kernel that there is.

use fallline_core::{Codes, Compute, Format, Graph, Kernel, Node, Operand, Role};
use fallline_cuda::ptx::{self, Ptx, Stored, Target, Type};
use fallline_optim::hyper::Value;
use fallline_registry::names::{ENTRIES, Entry};
use std::collections::BTreeMap;

/// The architectures that kernels are assembled for, by compute capability.
const ARCHITECTURES: [u32; 4] = [7, 8, 9, 10];
/// The one whose instructions are counted. (The disassembler does not know 7.0.)
pub const COUNTED: u32 = 9;

/// A kernel, printed for every target.
pub struct Printed {
    /// The rule, or what else the kernel does.
    pub name: String,
    /// The formats of its operands, in words; empty where there is no choice.
    pub formats: &'static str,
    /// For each of [`Target::ALL`].
    pub texts: Vec<Ptx>,
    /// What an element-wise kernel should be like.
    pub element: Option<Wanted>,
    /// Whether another kernel moves 128 bits at a time. The final reduction reads scattered numbers, and symmetrizing
    /// has one side that does. Numbers between passes are a few for each tensor. Columns, short rows and rows by
    /// index are added up a number a lane.
    pub wide: bool,
    /// The architectures that it is assembled for, by compute capability.
    pub architectures: &'static [u32],
}

/// What an element-wise kernel should be like.
pub struct Wanted {
    /// 128-bit loads and stores of a step.
    pub loads: usize,
    /// 128-bit stores of a step.
    pub stores: usize,
    /// Bytes that an element moves.
    pub bytes: f64,
    /// The most registers that it may need.
    pub registers: Option<u32>,
}

impl Printed {
    /// Returns a name for a file.
    pub fn file(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        format!("{} {}", self.name, self.formats).trim().chars().map(plain).collect()
    }
}

/// A choice of formats.
struct Choice {
    title: &'static str,
    compute: Compute,
    stored: fn(&Operand) -> Stored,
    architectures: &'static [u32],
}

impl Choice {
    /// Makes a choice that is assembled for all architectures.
    const fn new(title: &'static str, compute: Compute, stored: fn(&Operand) -> Stored) -> Choice {
        Choice { title, compute, stored, architectures: &ARCHITECTURES }
    }

    /// Makes a choice that is assembled for one architecture alone: the codecs' instructions are the same on all,
    /// and there are many.
    const fn for_one(title: &'static str, stored: fn(&Operand) -> Stored) -> Choice {
        Choice { title, compute: Compute::F32, stored, architectures: &[COUNTED] }
    }
}

const CHOICES: [Choice; 7] = [
    Choice::new("f32", Compute::F32, |_| Format::F32.into()),
    Choice::new("f64", Compute::F64, |_| Format::F64.into()),
    Choice::new("bf16, states f32", Compute::F32, |o| model_in(o, Format::Bf16).into()),
    Choice::new("f16, states f32", Compute::F32, |o| model_in(o, Format::F16).into()),
    Choice::for_one("f32, states q8", |o| states_in(o, Q8).into()),
    Choice::for_one("bf16, stochastic", |o| Stored { stochastic: true, ..states_in(o, Format::Bf16).into() }),
    Choice::for_one("f32 and a bf16 copy", beside_master),
];

/// Blocks of 8 bits.
const Q8: Format = Format::Q8(Codes::Signed);

/// States in `format`, and the rest as it goes with it: in 16 bits, or in single precision.
fn states_in(operand: &Operand, format: Format) -> Format {
    match operand.role {
        Role::State => format,
        Role::Scratch => Format::F32,
        _ if format.block().is_some() => Format::F32,
        _ => format,
    }
}

/// Parameters in single precision that are written in bf16 too, from gradients in bf16.
fn beside_master(operand: &Operand) -> Stored {
    let copy = (operand.role == Role::Param && operand.written).then_some(Format::Bf16);
    let format = if operand.role == Role::Grad { Format::Bf16 } else { Format::F32 };
    Stored { copy, ..format.into() }
}

/// Parameters and gradients in `format`, states and scratch in single precision.
fn model_in(operand: &Operand, format: Format) -> Format {
    if matches!(operand.role, Role::State | Role::Scratch) { Format::F32 } else { format }
}

/// Returns all kernels: those of the rules by name, then the others.
pub fn kernels() -> Vec<Printed> {
    let mut all = Vec::new();
    let rules = rules();
    for (&name, kernel) in &rules {
        let graph = kernel.record();
        // Rules without a parameter are helpers, whose operands are never stored in another format.
        let updates = graph.operands().iter().any(|operand| operand.role == Role::Param);
        let choices = CHOICES.iter().filter(|choice| updates || choice.architectures.len() > 1);
        all.extend(choices.map(|choice| element(name, &graph, choice)));
    }
    let mut other = |name: &str, print: &dyn Fn(Target) -> Ptx| {
        let texts = Target::ALL.map(print).to_vec();
        // Rows that are named by index, short ones and columns are added up a number a lane.
        let narrow = name.starts_with("sums of ")
            && [" rows in ", "rows up to", "columns"].iter().any(|part| name.contains(part));
        let single = ["final", "symmetrize", "numbers", "scale"].iter().any(|start| name.starts_with(start));
        let wide = !single && !narrow;
        let architectures = &ARCHITECTURES;
        all.push(Printed { name: name.into(), formats: "", texts, element: None, wide, architectures });
    };
    other("final reduction of sums", &|target| ptx::final_reduce_kernel("fold_sums", target));
    for compute in [Compute::F32, Compute::F64] {
        other(&format!("scale of gradients, {compute}"), &|target| {
            ptx::scale_kernel("scale_rows", compute, target)
        });
        for (name, kernel) in &rules {
            let declared = &kernel.between.declared;
            if declared.may_skip {
                let (graph, stored) = (kernel.record(), vec![compute.format(); kernel.operands.len()]);
                other(&format!("{name}, skippable, {compute}"), &|target| {
                    ptx::skippable_kernel(&graph, name, compute, &stored, target)
                });
            }
            if declared.depends() {
                let of = |names: &[&str]| (0..names.len()).collect::<Vec<usize>>();
                let [reads, shared, memory] = [declared.reads, declared.shared, declared.memory].map(of);
                let places = ptx::NumberPlaces { reads, shared, memory };
                other(&format!("numbers of {name}, {compute}"), &|target| {
                    ptx::numbers_kernel(kernel, "numbers", compute, &places, target)
                });
            }
        }
    }
    for bytes in [2, 4, 8] {
        other(&format!("symmetrize, {bytes} bytes"), &|target| {
            ptx::symmetrize_kernel("mirror", bytes, target)
        });
    }
    for (ty, name) in [(Type::F32, "f32"), (Type::F64, "f64")] {
        for (squares, of) in [(false, ""), (true, "squared ")] {
            other(&format!("sums of {of}rows, {name}"), &|target| {
                ptx::sum_rows_kernel("sum_rows", ty, squares, target)
            });
            for lanes in [1, 4, 16] {
                other(&format!("sums of {of}rows up to {}, {name}", 4 * lanes), &|target| {
                    ptx::sum_short_rows_kernel("sum_short_rows", ty, squares, lanes, target)
                });
            }
            other(&format!("sums of {of}columns, {name}"), &|target| {
                ptx::sum_columns_kernel("sum_columns", ty, squares, target)
            });
        }
    }
    for bytes in [2, 4, 8] {
        other(&format!("gather rows, {bytes} bytes"), &|target| {
            ptx::gather_rows_kernel("gather_rows", bytes, target)
        });
        other(&format!("scatter rows, {bytes} bytes"), &|target| {
            ptx::scatter_rows_kernel("scatter_rows", bytes, target)
        });
    }
    for compute in [Compute::F32, Compute::F64] {
        for format in Format::ALL {
            other(&format!("sums of {format} rows in {compute}"), &|target| {
                ptx::add_rows_kernel("add_rows", format, compute, target)
            });
        }
    }
    all
}

fn element(name: &str, graph: &Graph, choice: &Choice) -> Printed {
    let stored: Vec<Stored> = graph.operands().iter().map(choice.stored).collect();
    let texts =
        Target::ALL.map(|target| ptx::element_kernel(graph, name, choice.compute, &stored, target)).to_vec();
    let live = graph.live();
    let loaded = |operand: usize| {
        graph.nodes().iter().zip(&live).any(|(node, live)| *live && *node == Node::Operand(operand as u32))
    };
    // A lane has 8 elements, an access 16 bytes; codes are less than that.
    let wide = |format: Format| if format.block().is_some() { 0 } else { format.bytes() / 2 };
    let (mut loads, mut stores, mut bytes) = (0, 0, 0.0);
    for (i, (operand, stored)) in graph.operands().iter().zip(&stored).enumerate() {
        if loaded(i) {
            loads += wide(stored.format);
            bytes += stored.format.mean_bytes();
        }
        for format in [Some(stored.format), stored.copy].into_iter().flatten().filter(|_| operand.written) {
            stores += wide(format);
            bytes += format.mean_bytes();
        }
    }
    let single = choice.title == "f32" && graph.sums().is_empty();
    Printed {
        name: name.into(),
        formats: choice.title,
        texts,
        wide: true,
        architectures: choice.architectures,
        element: Some(Wanted { loads, stores, bytes, registers: single.then_some(MOST_REGISTERS) }),
    }
}

/// The most registers that a rule in single precision without sums may need. With 72 an architecture of 64K registers
/// has 28 resident warps. With 4 to 8 accesses of 128 bits each that is more than enough for the latency of memory.
const MOST_REGISTERS: u32 = 72;

/// Returns the rules that the registered algorithms choose for any setting of their options, by name.
fn rules() -> BTreeMap<&'static str, &'static Kernel> {
    let mut rules = BTreeMap::new();
    for entry in ENTRIES {
        for values in settings(entry) {
            // Options may exclude each other.
            if let Ok(algorithm) = entry.with(&values) {
                rules.extend(algorithm.kernels().into_iter().map(|kernel| (kernel.name, kernel)));
            }
        }
    }
    rules
}

/// Settings that reach every rule of an algorithm: what is off by default (`false`, `0.0`), on, alone and in
/// pairs.
fn settings(entry: &Entry) -> Vec<Vec<(&'static str, Value)>> {
    let defaults = entry.defaults();
    let options: Vec<(&'static str, Value)> = defaults
        .table()
        .iter()
        .filter_map(|hyper| match defaults.get(hyper.name)? {
            Value::Bool(on) => Some((hyper.name, Value::Bool(!on))),
            Value::Float(0.0) | Value::None => Some((hyper.name, Value::Float(0.5))),
            _ => None,
        })
        .collect();
    let mut settings = vec![Vec::new()];
    for (i, option) in options.iter().enumerate() {
        settings.push(vec![option.clone()]);
        settings.extend(options[..i].iter().map(|other| vec![other.clone(), option.clone()]));
    }
    settings
}
