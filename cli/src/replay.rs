//! `fallline replay`: apply an optimizer to recorded gradients.

use crate::common;
use crate::error::{Error, Result};
use crate::output::Output;
use crate::source::Source;
use crate::trace::{Grad, Trace};
use clap::builder::{PathBufValueParser, TypedValueParser};
use fallline::core::fallible;
use fallline::optim::checkpoint::{Entry, dtype, write_atomically};
use fallline::optim::{Binding, GradRef, Mode, frozen, param, rows};
use fallline::{Backend, Compute, Driver, Format, Optimizer, Tensor};
use safetensors::tensor::TensorView;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Arguments of `replay`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: fallline replay --optimizer 'dict(type=\"AdamW\", lr=1e-2)' --trace in.safetensors --out out.safetensors"
)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Start values and gradients: param/<name>, grad/<t>/<name>
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// Output: the parameters after each kept step, param/<t>/<name>
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(Output::only_tensors))]
    out: PathBuf,
    /// Device: cpu, scalar, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Compute dtype; by default f64 if all parameters are f64, else f32
    #[arg(long, value_parser = ["f32", "f64"])]
    compute: Option<String>,
    /// The steps to keep: `all`, or numbers like 0,2,11
    #[arg(long, allow_hyphen_values = true, default_value = "all")]
    keep: String,
    /// Write the evaluation weights instead of the training weights (AdamWScheduleFree)
    #[arg(long)]
    eval: bool,
    /// Output: the optimizer's state after the last step, as a checkpoint
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(Output::only_tensors))]
    state: Option<PathBuf>,
    /// Number of threads; all cores by default
    #[arg(long, allow_hyphen_values = true, value_parser = common::threads)]
    threads: Option<usize>,
    /// Seed of random numbers (reserved: no algorithm of this version uses them)
    #[arg(long, allow_hyphen_values = true, default_value_t = 0)]
    seed: u64,
}

/// Runs the optimizer over the trace.
pub fn run(args: Args) -> Result<()> {
    let (trace, out) = (("--trace", &args.trace), ("--out", &args.out));
    let state = args.state.as_ref().map(|state| ("--state", state));
    apart(&[Some(trace), Some(out), state].into_iter().flatten().collect::<Vec<_>>())?;
    let recipe = args.source.recipe()?;
    let backend = common::device(&args.device, args.threads)?;
    let trace = Trace::read(&args.trace)?;
    let keep = kept_steps(&args.keep, trace.steps)?;
    let compute = match args.compute.as_deref() {
        Some("f64") => Compute::F64,
        Some(_) => Compute::F32,
        None if trace.params.values().all(|param| param.format == Format::F64) => Compute::F64,
        None => Compute::F32,
    };
    common::unmatched(&recipe, trace.params.keys().map(String::as_str), args.source.allow_unmatched)
        .map_err(|error| args.source.located(error))?;
    let mut optimizer = recipe.optimizer(Arc::clone(&backend)).with_compute(compute);
    optimizer.set_iterations(Some(trace.steps));
    common::warn_without_end(recipe.chain(), recipe.length(1), "it never ends");
    let mut schedule = recipe.schedule(1, &mut optimizer)?;
    if trace.has_hessian() && recipe.algorithm().hessian().is_none() {
        let name = recipe.algorithm().name();
        let problem = format!("{}: it has hess/ entries, which {name} does not take", args.trace.display());
        return Err(Error::Usage(problem));
    }
    if let Some(monitor) = schedule.monitors(true).chain(schedule.monitors(false)).next() {
        return Err(Error::Usage(format!("param_scheduler: a replay has no {monitor:?} to monitor")));
    }

    let mut params = tensors(&backend, trace.params.iter().map(|(name, start)| (name.as_str(), start)))?;
    let steps = keep.as_ref().map_or(trace.steps, |keep| keep.len() as u64);
    fallible::check(trace.bytes_of(steps).and_then(|bytes| bytes.checked_mul(2)), "the steps that are kept")
        .map_err(|error| Error::Other(format!("--keep: {error}")))?;
    let mut kept = Vec::new();
    for t in 0..trace.steps {
        let grads = given(&backend, &trace, |name| trace.grad(t, name))?;
        optimizer.step(&mut bind(&mut params, &grads)).map_err(|cause| match cause {
            fallline::optim::Error::GradKind { param, reason } => {
                Error::Usage(format!("{}: grad/{t}/{param}: {reason}", args.trace.display()))
            }
            cause => cause.into(),
        })?;
        let hessians = given(&backend, &trace, |name| trace.hessian(t, name))?;
        if !hessians.is_empty() {
            optimizer.update_hessian(&mut bind(&mut params, &hessians))?;
        }
        schedule.after_iteration(&mut optimizer)?;
        schedule.after_epoch(&mut optimizer)?;
        if keep.as_ref().is_none_or(|keep| keep.contains(&t)) {
            let mut copies = BTreeMap::new();
            if args.eval {
                copies = evaluated(&mut optimizer, &backend, &params)?;
            }
            for (name, value) in if args.eval { &copies } else { &params } {
                let entry = Entry::from_storage(&*backend, value.storage(), value.shape().clone())?;
                kept.push((format!("param/{t}/{name}"), entry));
            }
        }
    }

    let checkpoint = match &args.state {
        None => None,
        Some(_) => {
            let mut checkpoint = optimizer.save()?;
            for (name, value) in &params {
                let entry = Entry::from_storage(&*backend, value.storage(), value.shape().clone())?;
                checkpoint.insert_param(name, entry);
            }
            checkpoint.manifest.schedule = Some(schedule.save());
            Some(checkpoint)
        }
    };
    let failed =
        |error: safetensors::SafeTensorError| Error::Other(format!("{}: {error}", args.out.display()));
    let mut views = Vec::new();
    for (key, entry) in &kept {
        let shape = entry.shape.dims().to_vec();
        views
            .push((key.as_str(), TensorView::new(dtype(entry.format), shape, &entry.bytes).map_err(failed)?));
    }
    let written = views.iter().map(|(_, view)| view.data().len()).sum::<usize>();
    fallible::check(Some(written), args.out.display())?;
    let bytes = safetensors::serialize(views, None).map_err(failed)?;
    write_atomically(&args.out, &bytes).map_err(Error::io(&args.out))?;
    if let (Some(path), Some(checkpoint)) = (&args.state, checkpoint) {
        checkpoint.write(path)?;
    }
    Ok(())
}

/// Refuses two names of one file.
fn apart(files: &[(&str, &PathBuf)]) -> Result<()> {
    // A file that is not there yet is known by its folder.
    let real = |path: &Path| {
        path.canonicalize().ok().or_else(|| {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            Some(folder.unwrap_or(Path::new(".")).canonicalize().ok()?.join(path.file_name()?))
        })
    };
    for (place, (option, path)) in files.iter().enumerate() {
        let is_same = |(_, other): &&(&str, &PathBuf)| {
            other == path || real(other).is_some_and(|other| real(path) == Some(other))
        };
        // A device takes whatever is written.
        let is_device = path.exists() && !path.is_file();
        if let Some((other, _)) = files[..place].iter().find(is_same).filter(|_| !is_device) {
            let path = path.display();
            return Err(Error::Usage(format!("{option}: {path} is the file of {other}, too: name another")));
        }
    }
    Ok(())
}

/// Copies of the parameters with the weights that are evaluated.
fn evaluated<'t>(
    optimizer: &mut Driver,
    backend: &Arc<dyn Backend>,
    params: &BTreeMap<&'t str, Tensor>,
) -> Result<BTreeMap<&'t str, Tensor>> {
    let mut copies = BTreeMap::new();
    for (&name, value) in params {
        let mut copy = Tensor::zeros(backend, value.format(), value.shape().clone())?;
        backend.copy(value.storage(), copy.storage_mut())?;
        copies.insert(name, copy);
    }
    optimizer.weights_of(Mode::Evaluation, &mut bind(&mut copies, &Given::new()))?;
    Ok(copies)
}

/// Returns tensors with the contents of entries, in one piece of memory: thousands of small ones take no more than they
/// have.
fn tensors<'t>(
    backend: &Arc<dyn Backend>,
    entries: impl Iterator<Item = (&'t str, &'t Entry)> + Clone,
) -> Result<BTreeMap<&'t str, Tensor>> {
    let requests: Vec<_> = entries.clone().map(|(_, entry)| (entry.format, entry.shape.elements())).collect();
    let storages = if requests.is_empty() { Vec::new() } else { backend.allocate(&requests)? };
    let mut found = BTreeMap::new();
    for ((name, entry), mut storage) in entries.zip(storages) {
        entry.copy_to(&**backend, &mut storage)?;
        found.insert(name, Tensor::from_storage(backend, storage, entry.shape.clone())?);
    }
    Ok(found)
}

/// Gradients on the device: the rows' numbers, if they are row-sparse, and the values.
type Given<'t> = BTreeMap<&'t str, (Option<&'t [i64]>, Tensor)>;

fn given<'t>(
    backend: &Arc<dyn Backend>,
    trace: &'t Trace,
    grad: impl Fn(&str) -> Option<&'t Grad>,
) -> Result<Given<'t>> {
    let found = trace.params.keys().filter_map(|name| Some((name.as_str(), grad(name)?)));
    let values = found.clone().map(|(name, grad)| match grad {
        Grad::Dense(values) | Grad::Rows { values, .. } => (name, values),
    });
    let indices = found.map(|(_, grad)| match grad {
        Grad::Dense(_) => None,
        Grad::Rows { indices, .. } => Some(&indices[..]),
    });
    // Both are in the order of the names.
    let values = tensors(backend, values)?.into_iter();
    Ok(values.zip(indices).map(|((name, values), indices)| (name, (indices, values))).collect())
}

fn bind<'b>(params: &'b mut BTreeMap<&str, Tensor>, grads: &'b Given<'_>) -> Vec<Binding<'b>> {
    let bound = params.iter_mut().map(|(name, value)| match grads.get(name) {
        Some((Some(indices), values)) => param(name, value, rows(indices, values)),
        Some((None, values)) => param(name, value, GradRef::from(values)),
        None => frozen(name, value),
    });
    bound.collect()
}

/// Returns the steps of `--keep`, or `None` for all.
fn kept_steps(text: &str, steps: u64) -> Result<Option<BTreeSet<u64>>> {
    if text == "all" {
        return Ok(None);
    }
    let wrong = |part: &str, problem: String| Error::Usage(format!("--keep: {part:?}: {problem}"));
    let parse = |part: &str| {
        let t: u64 = part
            .trim()
            .parse()
            .map_err(|_| wrong(part, "expected `all` or step numbers like 0,2,11".into()))?;
        if t >= steps {
            return Err(wrong(part, format!("the trace has {steps} steps, from 0")));
        }
        Ok(t)
    };
    text.split(',').map(parse).collect::<Result<BTreeSet<u64>>>().map(Some)
}
