//! `fallline describe`.

use crate::common::{Columns, print, print_json, table};
use crate::error::{Error, Result};
use crate::list::{modifiers, summary};
use crate::registry::registry;
use crate::source::inline;
use fallline::core::between::Over;
use fallline::core::{Kernel, Operand, Role, symbol};
use fallline::cuda::ptx::{self, Target};
use fallline::optim::program::{Stage, Variant};
use fallline::registry::{Entry, names};
use fallline::{Compute, Format, Method, Sparse};
use serde_json::json;

/// Arguments of `describe`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: fallline describe AdamW\n         fallline describe Lion --ptx")]
pub struct Args {
    /// A name of the registry, or an optimizer dict: dict(type='AdamW', cautious=True)
    name: String,
    /// Print a JSON object
    #[arg(long, conflicts_with = "ptx")]
    json: bool,
    /// Print its CUDA kernels, as commented PTX
    #[arg(long)]
    ptx: bool,
    /// Storage type of the kernels' parameters and gradients
    #[arg(long, requires = "ptx", default_value = "f32", value_parser = ["f32", "f64", "bf16", "f16"])]
    dtype: String,
}

/// What is above the scalars of a tensor.
const FORMED: &str = "  with, once a step for each tensor,\n";

/// Prints everything about an algorithm.
pub fn run(args: Args) -> Result<()> {
    let configured = args.name.contains('(').then(|| inline("NAME", &args.name)).transpose()?;
    let given = configured.as_ref().map(|recipe| recipe.method());
    let name = given.as_ref().map_or(&*args.name, |method| method.name());
    let entry = registry().lookup(name).ok_or_else(|| unknown(name))?;
    let (method, variants) = match given {
        Some(method) => (method.clone(), vec![("as configured".to_owned(), method)]),
        None => (entry.defaults(), variants(entry)),
    };
    let bytes = match &configured {
        Some(recipe) => recipe.state_bytes(),
        None => (entry.state_bytes(), entry.state_formula()),
    };
    match (args.json, args.ptx) {
        (true, _) => print_json(&as_json(entry, &method, &variants, bytes)),
        (_, true) => print(&as_ptx(&variants, &args.dtype)),
        _ => print(&as_text(entry, &method, &variants, &bytes.1)),
    }
}

/// The steps that options choose from, each with when it is taken.
type Variants = [(String, Method)];

/// Returns the kernels of all variants, each once.
fn as_ptx(variants: &Variants, dtype: &str) -> String {
    let (compute, model) = match dtype {
        "f64" => (Compute::F64, Format::F64),
        "bf16" => (Compute::F32, Format::Bf16),
        "f16" => (Compute::F32, Format::F16),
        _ => (Compute::F32, Format::F32),
    };
    let format = |operand: &Operand| match operand.role {
        Role::Param | Role::Grad => model,
        _ => compute.format(),
    };
    let mut printed: Vec<&str> = Vec::new();
    let mut text = String::new();
    let kernels = variants.iter().flat_map(|(when, method)| {
        let kernels = method.kernels();
        kernels.into_iter().map(move |kernel| (when, kernel))
    });
    for (when, kernel) in kernels {
        if printed.contains(&kernel.name) {
            continue;
        }
        printed.push(kernel.name);
        let formats: Vec<Format> = kernel.operands.iter().map(format).collect();
        let ptx = ptx::element_kernel(&kernel.record(), kernel.name, compute, &formats, Target::Sm80);
        text.push_str(&format!("// {}, {when}\n{}\n", kernel.name, ptx.text));
    }
    text
}

fn unknown(name: &str) -> Error {
    let known = || registry().entries().iter().map(|entry| entry.name);
    let hint =
        names::nearest(name, known()).map(|near| format!(" (did you mean {near:?}?)")).unwrap_or_default();
    let near = names::near_are(name, known());
    Error::Usage(format!("there is no optimizer {name:?}{hint}; {near}"))
}

/// Returns the steps that an algorithm's options choose from: the defaults', and those of options that are on.
fn variants(entry: &Entry) -> Vec<(String, Method)> {
    use fallline::optim::hyper::Value;
    let mut variants = vec![("by default".to_owned(), entry.defaults())];
    for hyper in entry.defaults().table().iter().filter(|hyper| hyper.counts) {
        let on = match (hyper.default)() {
            Value::Bool(default) => Value::Bool(!default),
            Value::Float(0.0) => Value::Float(0.5),
            _ => continue,
        };
        let text = format!("with {}={on}", hyper.name);
        let Ok(method) = entry.with(&[(hyper.name, on)]) else { continue };
        let program = |method: &Method| Some(method.algorithm()?.program(Variant::ONLY));
        if !variants.iter().any(|(_, known)| program(known) == program(&method)) {
            variants.push((text, method));
        }
    }
    variants
}

/// Returns a scalar's formula with the hyperparameters' own names.
fn readable(formula: &str) -> String {
    let named = formula.replace("h.betas.0", "beta1").replace("h.betas.1", "beta2");
    let named = named.replace("at.shape.elements() as f64", "number of elements");
    let named = named
        .replace(" as f64", "")
        .replace("h.", "")
        .replace("math::", "")
        .replace("groups[0].", "first_group.");
    named.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A part of a step: a rule, or what is not element by element.
struct Described {
    kernel: Option<&'static Kernel>,
    /// How the tensors' own scalars are found, or what is done if it is no rule.
    formed: Vec<String>,
    /// In one of how many steps it is taken, if not in all.
    every: Option<u64>,
}

fn passes(method: &Method) -> Vec<Described> {
    let algorithm = match method {
        Method::Algorithm(algorithm) => algorithm,
        Method::Search(search) => {
            return vec![Described { kernel: None, formed: owned(search.formulas()), every: None }];
        }
    };
    let described = |stage: Stage| match stage {
        Stage::Pass(kernel) => Described { kernel: Some(kernel), formed: between(kernel), every: None },
        Stage::Op(op) => Described { kernel: None, formed: owned(op.formulas), every: None },
    };
    let program = algorithm.program(Variant::ONLY);
    let mut passes: Vec<Described> = program.iter().map(described).collect();
    if let (true, Some(last)) = (program.is_periodic(), passes.last_mut()) {
        last.every = algorithm.modifiers().lookahead.map(|lookahead| lookahead.k);
    }
    passes
}

fn owned(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|&line| line.to_owned()).collect()
}

/// Returns how the per-tensor scalars of a rule are found, from the code that finds them. The host computes some,
/// and others follow from sums.
fn between(kernel: &'static Kernel) -> Vec<String> {
    let declared = &kernel.between.declared;
    let formulas = kernel.between.record();
    let host = declared.once.iter().chain(declared.each);
    let host = host.map(|number| (symbol(number.name), readable(number.formula)));
    let named = |(name, formula): &(String, String)| *name != symbol(formula);
    let mut lines: Vec<String> =
        host.filter(named).map(|(name, formula)| format!("{name} = {formula}")).collect();
    let over = match declared.over {
        Over::All => "over all tensors, in the order of their names",
        Over::InTurn => "over all tensors, one after the other in the order of their names",
        Over::Group => "over the tensors of the group, in the order of their names",
    };
    for line in formulas.terms.to_string().lines() {
        let total =
            declared.totals.iter().find_map(|name| line.strip_prefix(&format!("{} = ", symbol(name))));
        lines.push(match total {
            Some(term) => {
                format!("{} = Σ ({term})   ({over})", &line[..line.len() - term.len() - " = ".len()])
            }
            None => line.to_owned(),
        });
    }
    lines.extend(formulas.update.to_string().lines().map(str::to_owned));
    if declared.may_skip {
        lines.extend(
            formulas.skips.to_string().lines().map(|line| format!("{line}   (above 0: the pass is skipped)")),
        );
    }
    lines.extend(formulas.tensor.to_string().lines().map(str::to_owned));
    lines
}

impl Described {
    fn kind(&self) -> &'static str {
        if self.kernel.is_some() { "Pass" } else { "Operation" }
    }

    /// Returns the scalars of a step that some text has, and are not a hyperparameter under its own name.
    fn derived(kernel: &Kernel, mut text: String) -> Vec<(&'static str, String)> {
        let all = kernel.scalars.iter().map(|scalar| (scalar.name, readable(scalar.formula)));
        let mut found: Vec<_> = all.filter(|(name, formula)| name != formula).collect();
        // The formula of one may have those before it.
        found.reverse();
        found.retain(|(name, formula)| {
            let has = text.contains(&symbol(name)) || text.contains(name);
            if has {
                text.push_str(formula);
            }
            has
        });
        found.reverse();
        found
    }

    fn as_text(&self) -> String {
        let formed =
            |indent: &str| -> String { self.formed.iter().map(|line| format!("{indent}{line}\n")).collect() };
        let Some(kernel) = self.kernel else { return formed("  ") };
        let mut text: String =
            kernel.record().to_string().lines().map(|line| format!("  {line}\n")).collect();
        let rows: Vec<_> = Self::derived(kernel, format!("{text}{}", formed("")))
            .into_iter()
            .map(|(name, formula)| vec![format!("    {}", symbol(name)), format!("= {formula}")])
            .collect();
        if !rows.is_empty() {
            text.push_str("  with, once a step,\n");
            text.push_str(&Columns::of(&rows).lines(&rows));
        }
        if !self.formed.is_empty() {
            text.push_str(FORMED);
            text.push_str(&formed("    "));
        }
        text
    }

    fn as_json(&self) -> serde_json::Value {
        let Some(kernel) = self.kernel else {
            return json!({ "rule": null, "update": self.formed });
        };
        let scalars = kernel.scalars.iter();
        let scalars = scalars.map(|s| json!({ "name": s.name, "formula": readable(s.formula) }));
        json!({
            "rule": kernel.name,
            "update": kernel.record().to_string().lines().collect::<Vec<_>>(),
            "scalars": scalars.collect::<Vec<_>>(),
            "scalars_of_a_tensor": kernel.tensor_scalars,
            "formed": self.formed,
            "sums": kernel.sums,
            "one_step_of": self.every.unwrap_or(1),
        })
    }
}

/// Returns the names of an algorithm's states.
fn states(method: &Method) -> Vec<&'static str> {
    method.algorithm().map_or(Vec::new(), |algorithm| algorithm.states())
}

/// Returns what becomes of a row-sparse gradient, with the defaults.
fn row_sparse(method: &Method) -> String {
    let Some(algorithm) = method.algorithm() else {
        return format!("refused ({} does not take row-sparse gradients)", method.name());
    };
    match algorithm.takes_rows() {
        Ok(Sparse::RowsOnly) => "required; only the given rows are updated".into(),
        Ok(Sparse::Rows) => "only the given rows are updated".into(),
        Ok(_) => "the other rows are treated as zeros".into(),
        Err(reason) => format!("refused ({reason})"),
    }
}

/// Returns what becomes of an element whose gradient is always 0, where the states in 8 bits say otherwise than the rule.
fn zero_gradient(method: &Method) -> Option<&'static str> {
    let algorithm = method.algorithm()?;
    let block = algorithm.storage().block?;
    let signed = algorithm.states().into_iter().any(|state| !algorithm.state(state).non_negative);
    (signed && matches!(block.format, Format::Q8Grid(_))).then_some(
        "in 8 bits a momentum of 0 becomes the code next to 0, as in bitsandbytes on the CPU. So an element whose gradient is \
         always 0 walks while others of its block move: Lion8bit by lr a step, AdamW8bit by 9e-4 in 300 steps at lr 1e-3. \
         state_format=\"q8\" keeps 0",
    )
}

fn as_text(entry: &Entry, method: &Method, variants: &Variants, bytes: &str) -> String {
    let info = method.info();
    let mut text = format!("{}: {}\n", entry.name, info.summary);
    for (when, method) in variants {
        text.push_str(&format!("\nUpdate {when}\n"));
        let passes = passes(method);
        for (number, pass) in passes.iter().enumerate() {
            if passes.len() > 1 {
                let every = pass.every.map_or(String::new(), |k| format!(", in one of {k} steps"));
                text.push_str(&format!("  {} {}{every}\n", pass.kind(), number + 1));
            }
            text.push_str(&pass.as_text());
        }
        let states = states(method);
        if !states.is_empty() {
            text.push_str(&format!("  State: {}\n", states.join(", ")));
        }
        let remembered = |scalars: &[(&str, f64)]| scalars.iter().map(|s| s.0).collect::<Vec<_>>().join(", ");
        let Some(algorithm) = method.algorithm() else { continue };
        if !algorithm.spec().memory.is_empty() {
            text.push_str(&format!("  Scalars of each tensor: {}\n", remembered(algorithm.spec().memory)));
        }
        if !algorithm.spec().shared.is_empty() {
            text.push_str(&format!("  Global scalars: {}\n", remembered(algorithm.spec().shared)));
        }
    }
    text.push_str("\nθ is the parameter, g its gradient (negated with maximize), t the step count from 1.\n");
    text.push_str(&format!("\nState, bytes per element (computed in f32): {bytes}\n"));
    text.push_str(&format!("\nRow-sparse gradients: {}\n", row_sparse(method)));
    if let Some(walks) = zero_gradient(method) {
        text.push_str(&format!("\nZero gradients: {walks}.\n"));
    }
    text.push_str(&format!("\nModifiers: {}\n", around(&entry.defaults())));
    text.push_str("\nHyperparameters\n");
    let mut rows = vec![["  name", "type", "default", "range", "meaning"].map(str::to_owned).to_vec()];
    for hyper in method.table() {
        let range = if hyper.kind.contains("float") || hyper.kind.contains("int") {
            hyper.range.to_string()
        } else {
            String::new()
        };
        rows.push(vec![
            format!("  {}", hyper.name),
            hyper.kind.to_owned(),
            (hyper.default)().to_string(),
            range,
            hyper.meaning.trim().to_owned(),
        ]);
    }
    text.push_str(&table(&rows));
    text.push_str(&format!("\nSemantics of {}. {}\n", info.source, info.differences));
    text.push_str("\nReferences\n");
    for reference in info.references {
        text.push_str(&format!("  {} ({})\n", reference.text, reference.at));
    }
    text
}

/// Returns the modifiers that an optimizer takes.
fn around(method: &Method) -> String {
    let each = modifiers(method).map(|(name, goes)| match goes {
        Ok(()) => name.to_owned(),
        Err(reason) => format!("no {name} ({reason})"),
    });
    each.join("; ")
}

fn as_json(
    entry: &Entry,
    method: &Method,
    variants: &Variants,
    (bytes, formula): (Option<f64>, String),
) -> serde_json::Value {
    let info = method.info();
    let mut value = summary(entry);
    value["state_bytes_per_param"] = bytes.into();
    value["state_formula"] = formula.into();
    let hypers = method.table().iter().map(|hyper| {
        json!({
            "name": hyper.name,
            "type": hyper.kind,
            "default": (hyper.default)().to_string(),
            "range": hyper.range.to_string(),
            "meaning": hyper.meaning.trim(),
            "changes_numbers": hyper.counts,
        })
    });
    let rules = variants.iter().flat_map(|(when, method)| {
        let states = states(method);
        let passes = passes(method).into_iter().enumerate();
        passes.map(move |(number, pass)| {
            let mut value = pass.as_json();
            value["when"] = when.as_str().into();
            value["pass"] = (number + 1).into();
            value["states"] = json!(states);
            value
        })
    });
    let references = info.references.iter().map(|r| json!({ "text": r.text, "at": r.at }));
    value["rules"] = rules.collect();
    value["row_sparse"] = row_sparse(method).into();
    if let Some(walks) = zero_gradient(method) {
        value["zero_gradient"] = walks.into();
    }
    value["hyperparameters"] = hypers.collect();
    value["differences"] = info.differences.into();
    value["references"] = references.collect();
    value
}
