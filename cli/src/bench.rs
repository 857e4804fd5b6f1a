//! `fallline bench`: optimizers against memory bandwidth.

mod baseline;
mod device;
mod layout;
mod products;
mod progress;

use crate::common::{self, print_json};
use crate::error::{Error, Result};
use crate::registry::registry;
use crate::source::inline;
use baseline::{Baseline, Pages};
use fallline::core::{Kernel, Operand, Role, fallible};
use fallline::optim::{Binding, param};
use fallline::{Backend, Cpu, Format, Optimizer, Recipe, Shape, Tensor};
use half::bf16;
use layout::Layout;
use progress::{Progress, summary};
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;

/// Rounds that count, after one that does not.
const ROUNDS: usize = 9;

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The column roofline is the optimizer's bandwidth over that of a copy baseline in the same run: a plain pass that moves the same \
bytes without arithmetic, by the fastest of eight loops, on the same kinds of pages. The column huge pages is that over the \
fastest one where all operands are on huge pages. On CUDA the baseline is a copy within the device.

With --products the peak is that of multiplications in registers alone, on the same unit and threads in the same run. Of a \
symmetric result the operations that are needed count, which are half.

Example: fallline bench --optimizer AdamW Lion --elements 67108864 --threads 2 --json
Example: fallline bench --products --threads 1")]
pub struct Args {
    /// Names or configurations; every name by default
    #[arg(long, value_name = "NAME", num_args = 1..)]
    optimizer: Vec<String>,
    /// Device: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Total elements (of all layouts but resnet50); 2^24 by default, 2^14 on an emulated device
    #[arg(long, allow_hyphen_values = true, value_parser = clap::value_parser!(u64).range(1..=1 << 33))]
    elements: Option<u64>,
    /// Tensor layout: one flat tensor, ResNet-50's 161 tensors, tensors of 1,000 elements (separate or slices of
    /// one buffer), or one matrix (default of matrix optimizers)
    #[arg(long, value_enum, default_value_t = Layout::Flat)]
    layout: Layout,
    /// Type of parameters and gradients: f32 or bf16 (states stay f32)
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16"])]
    dtype: String,
    /// Pages of parameters and gradients on the CPU: those of a Vec, or huge ones, as tensors have
    #[arg(long, value_enum, default_value_t = Pages::Ordinary)]
    pages: Pages,
    /// Number of CPU threads; all cores by default
    #[arg(long, allow_hyphen_values = true, value_parser = common::threads)]
    threads: Option<usize>,
    /// Measure matrix products instead, those of results of up to --elements: achieved speed and peak, by shape and type
    #[arg(long, conflicts_with_all = ["optimizer", "layout", "dtype"])]
    products: bool,
    /// Print a JSON array of objects
    #[arg(long)]
    json: bool,
}

/// Measures, and prints a row for each optimizer.
pub fn run(args: Args) -> Result<()> {
    if args.products {
        return products::run(&args);
    }
    let names: Vec<String> = match args.optimizer.is_empty() {
        // Those that take nothing but gradients, of any shape or as a matrix where there may be one.
        true => {
            let matrices = matches!(args.layout, Layout::Flat | Layout::Matrix);
            let fits = |needs: &[&str]| needs.is_empty() || (matrices && *needs == ["matrix"]);
            let plain = registry().entries().iter().filter(|entry| fits(entry.needs()));
            plain.map(|entry| entry.name.to_owned()).collect()
        }
        false => args.optimizer.clone(),
    };
    let read = |name: &String| Ok(inline("--optimizer", name)?.stepping()?);
    let recipes = names.iter().map(read).collect::<Result<Vec<Recipe>>>()?;
    let cuda = match args.device.as_str() {
        "cpu" => None,
        "scalar" => return Err(Error::Usage("--device: bench takes cpu, cuda or cuda:N".into())),
        other => Some(device::Device::open(other)?),
    };
    let usual = if cuda.as_ref().is_some_and(device::Device::is_emulated) { 1 << 14 } else { 1 << 24 };
    let elements = args.elements.unwrap_or(usual) as usize;
    let progress = Progress::new(&names, args.json);
    let mut rows: Vec<Row> = Vec::new();
    for (name, recipe) in names.iter().zip(&recipes) {
        let vectors = recipe.algorithm().variant("", &Shape::from([1])).is_ok();
        let layout = if args.layout == Layout::Flat && !vectors { Layout::Matrix } else { args.layout };
        progress.begins(name);
        let measured = match &cuda {
            Some(cuda) => cuda.measure(name, recipe, layout, elements, (&args, &progress))?,
            None => {
                let cpu = Arc::new(common::cpu(args.threads)?);
                let what = (layout, elements, args.pages);
                match args.dtype.as_str() {
                    "bf16" => measure::<bf16>(name, recipe, &cpu, what, &progress)?,
                    _ => measure::<f32>(name, recipe, &cpu, what, &progress)?,
                }
            }
        };
        let Some(row) = measured else { break };
        if rows.is_empty() {
            progress.head()?;
        }
        progress.ends(&row)?;
        rows.push(row);
    }
    progress.clear();
    if let Some(cuda) = cuda.filter(|cuda| cuda.is_emulated() && !common::is_quiet()) {
        eprintln!("{}: emulated, so these are speeds of an interpreter, not of a GPU", cuda.describe());
    }
    if args.json {
        print_json(&rows.iter().map(Row::json).collect())?;
    } else if !common::is_quiet() {
        // On standard error, so that standard output has the table alone.
        eprint!("{}", summary(&rows));
    }
    match progress.is_interrupted() {
        true => Err(Error::Interrupted(format!("{} of {} optimizers are measured", rows.len(), names.len()))),
        false => Ok(()),
    }
}

/// A parameter's or a gradient's memory.
enum Buffer<T> {
    Vec(Vec<T>),
    Tensor(Tensor),
}

impl<T: Measured> Buffer<T> {
    fn new(cpu: &Arc<Cpu>, pages: Pages, n: usize, value: impl Fn(usize) -> T) -> Result<Buffer<T>> {
        let mut buffer = match pages {
            Pages::Ordinary => return Ok(Buffer::Vec(fallible::collected((0..n).map(value), "--elements")?)),
            Pages::Huge => {
                fallible::check(n.checked_mul(size_of::<T>()), "--elements")?;
                Buffer::Tensor(Tensor::zeros(&(Arc::clone(cpu) as Arc<dyn Backend>), T::FORMAT, [n])?)
            }
        };
        buffer.as_mut_slice().iter_mut().enumerate().for_each(|(i, to)| *to = value(i));
        Ok(buffer)
    }

    fn as_mut_slice(&mut self) -> &mut [T] {
        match self {
            Buffer::Vec(values) => values,
            Buffer::Tensor(values) => values.as_mut_slice().unwrap_or_default(),
        }
    }
}

/// An element type that can be measured.
trait Measured: fallline::core::Element {
    /// Returns a binding of buffers of it.
    fn bind<'a>(name: &'a str, value: &'a mut [Self], grad: &'a [Self]) -> Binding<'a>;
}

impl Measured for f32 {
    fn bind<'a>(name: &'a str, value: &'a mut [Self], grad: &'a [Self]) -> Binding<'a> {
        param(name, value, grad)
    }
}

impl Measured for bf16 {
    fn bind<'a>(name: &'a str, value: &'a mut [Self], grad: &'a [Self]) -> Binding<'a> {
        param(name, value, grad)
    }
}

struct Row {
    name: String,
    elements: usize,
    /// Of the CPU, with the instruction set.
    threads: Option<usize>,
    isa: Option<&'static str>,
    device: String,
    emulated: bool,
    layout: &'static str,
    dtype: &'static str,
    bytes_per_element: f64,
    state_bytes_per_param: f64,
    ns_per_element: f64,
    /// Half of the range that the middle half of the rounds has, as a share of the median.
    spread: f64,
    plain_ns_per_element: f64,
    /// Of the CPU: the pages of parameters and gradients, and the baseline where all operands are on huge ones.
    pages: Option<Pages>,
    huge_ns_per_element: Option<f64>,
}

impl Row {
    fn gb_per_s(&self) -> f64 {
        self.bytes_per_element / self.ns_per_element
    }

    fn roofline(&self) -> f64 {
        self.plain_ns_per_element / self.ns_per_element
    }

    fn roofline_huge(&self) -> Option<f64> {
        Some(self.huge_ns_per_element? / self.ns_per_element)
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "name": self.name,
            "elements": self.elements,
            "threads": self.threads,
            "bytes_per_element": self.bytes_per_element,
            "state_bytes_per_param": self.state_bytes_per_param,
            "ns_per_element": self.ns_per_element,
            "gb_per_s": self.gb_per_s(),
            "roofline": self.roofline(),
            "roofline_huge": self.roofline_huge(),
            "pages": self.pages.map(Pages::name),
            "isa": self.isa,
            "device": self.device,
            "emulated": self.emulated,
            "layout": self.layout,
            "dtype": self.dtype,
        })
    }
}

/// What a step moves, on tensors of these shapes.
struct Passes<'r> {
    recipe: &'r Recipe,
    format: Format,
    /// The rules that run over all elements of a tensor in every step but the first.
    kernels: Vec<&'static Kernel>,
    /// Whether a stage that is no rule reads the gradient first.
    reads_grad: bool,
}

impl<'r> Passes<'r> {
    fn new(recipe: &'r Recipe, format: Format, dims: &[usize]) -> Passes<'r> {
        let algorithm = recipe.algorithm();
        let begun = vec![1.0; algorithm.spec().shared.len()];
        let program = algorithm.program(algorithm.variant("", &Shape::from(dims)).unwrap_or_default());
        let kept = |kernel: &&Kernel| !kernel.between.skips_of(algorithm.spec().shared, &begun);
        let mut kernels: Vec<&Kernel> = program.kernels().filter(kept).collect();
        // A step in which nothing syncs, as most of them.
        if program.is_periodic() && algorithm.modifiers().lookahead.is_some_and(|lookahead| lookahead.k > 1) {
            kernels.pop();
        }
        let reads_grad = program.iter().next().is_some_and(|first| first.kernel().is_none());
        Passes { recipe, format, kernels, reads_grad }
    }

    /// Returns the bytes of an operand for each element of a tensor.
    fn bytes_of(&self, operand: &Operand, dims: &[usize]) -> f64 {
        let shape = Shape::from(dims);
        // Factors of rows and columns are fewer than the elements that they stand for.
        let own = self.recipe.algorithm().state(operand.name).shape(&shape).elements();
        let share = own as f64 / shape.elements().max(1) as f64;
        match operand.role {
            Role::Param | Role::Grad => self.format.mean_bytes(),
            Role::State => share * self.recipe.state_format(operand.name, shape.elements()).mean_bytes(),
            _ => share * Format::F32.mean_bytes(),
        }
    }

    /// Returns the bytes that a step over these tensors moves for each element.
    fn traffic(&self, shapes: &[Vec<usize>]) -> f64 {
        let first = if self.reads_grad { self.format.mean_bytes() } else { 0.0 };
        let of = |dims: &[usize]| -> f64 {
            let passes = self.kernels.iter();
            first + passes.map(|pass| pass.traffic(|operand| self.bytes_of(operand, dims))).sum::<f64>()
        };
        let elements = |dims: &[usize]| dims.iter().product::<usize>();
        let total: f64 = shapes.iter().map(|dims| elements(dims) as f64 * of(dims)).sum();
        total / shapes.iter().map(|dims| elements(dims)).sum::<usize>().max(1) as f64
    }
}

/// Returns the bytes that an optimizer keeps for each element.
fn state_bytes(optimizer: &dyn Optimizer, elements: usize) -> f64 {
    let bytes: usize = optimizer.params().iter().map(|param| param.state_bytes).sum();
    bytes as f64 / elements.max(1) as f64
}

/// Returns the median of all rounds but the first, in nanoseconds an element, and the spread around it.
fn per_element(times: &mut [f64], elements: usize) -> (f64, f64) {
    let counted = &mut times[1..];
    counted.sort_by(f64::total_cmp);
    let at = |quarter: usize| counted[(counted.len() - 1) * quarter / 4];
    let median = counted[counted.len() / 2];
    (median * 1e9 / elements as f64, (at(3) - at(1)) / 2.0 / median)
}

/// Gradients in a range in which no arithmetic is out of the ordinary.
fn gradient<T: Measured>(i: usize) -> T {
    T::from_f64(0.01 * ((i % 7) as f64 - 3.0))
}

/// Times an optimizer's step and copy baselines over the same mix of streams, interleaved. Returns none after Ctrl-C.
fn measure<T: Measured>(
    name: &str,
    recipe: &Recipe,
    cpu: &Arc<Cpu>,
    (layout, elements, pages): (Layout, usize, Pages),
    progress: &Progress,
) -> Result<Option<Row>> {
    let shapes = layout.shapes(elements)?;
    let lengths: Vec<usize> = shapes.iter().map(|dims| dims.iter().product()).collect();
    let elements: usize = lengths.iter().sum();
    let passes = Passes::new(recipe, T::FORMAT, &shapes[0]);
    let bytes_per_element = passes.traffic(&shapes);
    let mut baseline = Baseline::new(&passes, elements, &shapes[0], cpu, pages)?;
    let names: Vec<String> = (0..shapes.len()).map(|i| format!("tensor{i}")).collect();
    let buffers = if layout.is_owned() { &lengths[..] } else { &[elements][..] };
    let mut values = Vec::new();
    let mut grads = Vec::new();
    for &n in buffers {
        values.push(Buffer::<T>::new(cpu, pages, n, |_| T::from_f64(1.0))?);
        grads.push(Buffer::<T>::new(cpu, pages, n, gradient)?);
    }
    let mut rest = names.iter().zip(&shapes);
    let mut bindings: Vec<Binding<'_>> = Vec::with_capacity(shapes.len());
    let slices = values.iter_mut().zip(&mut grads);
    for (mut value, mut grad) in slices.map(|(value, grad)| (value.as_mut_slice(), &*grad.as_mut_slice())) {
        while !value.is_empty()
            && let Some((name, dims)) = rest.next()
        {
            let n = dims.iter().product();
            let (own_value, own_grad);
            (own_value, value) = value.split_at_mut(n);
            (own_grad, grad) = grad.split_at(n);
            bindings.push(T::bind(name, own_value, own_grad).shaped(dims));
        }
    }
    let mut optimizer = recipe.optimizer(Arc::clone(cpu) as Arc<dyn Backend>);
    let mut ours = Vec::new();
    for _ in 0..=ROUNDS {
        if progress.is_interrupted() {
            return Ok(None);
        }
        let start = Instant::now();
        optimizer.step(&mut bindings)?;
        ours.push(start.elapsed().as_secs_f64());
        baseline.round(cpu);
    }
    let (ns_per_element, spread) = per_element(&mut ours, elements);
    let (plain_ns_per_element, huge_ns_per_element) = baseline.ns_per_element();
    Ok(Some(Row {
        name: name.to_owned(),
        elements,
        threads: Some(cpu.threads()),
        isa: Some(cpu.isa().name()),
        device: "cpu".into(),
        emulated: false,
        layout: layout.name(),
        dtype: T::FORMAT.name(),
        bytes_per_element,
        state_bytes_per_param: state_bytes(&optimizer, elements),
        ns_per_element,
        spread,
        plain_ns_per_element,
        pages: Some(pages),
        huge_ns_per_element: Some(huge_ns_per_element),
    }))
}
