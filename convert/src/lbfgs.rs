//! LBFGS: torch keeps its memory as vectors over all parameters one behind the other, under the first of them.

use crate::import::param::Param;
use crate::report::Report;
use crate::tensor::{Dtype, Tensor};
use crate::value::{Dict, Value, count};
use crate::{Error, Result};
use fallline_core::{Compute, Format, Shape, fallible};
use fallline_optim::Checkpoint;
use fallline_optim::checkpoint::{Entry, OptimizerManifest};

/// Vectors of torch's that are there once, and ours.
const ONCE: [(&str, &str); 2] = [("d", "direction"), ("prev_flat_grad", "gradient")];
/// Lists of them: one for each pair of the history.
const LISTS: [(&str, &str); 2] = [("old_stps", "s"), ("old_dirs", "y")];

/// Takes the memory over.
pub(crate) fn import(
    at: &str,
    state: &Value<'_>,
    params: &[Param],
    checkpoint: &mut Checkpoint,
    manifest: &mut OptimizerManifest,
    report: &mut Report,
) -> Result<()> {
    let missing = |key: &str| Error::value(format!("{at}.{key}"), "it is missing");
    let get = |key: &str| state.get(key).ok_or_else(|| missing(key));
    let number = |key: &str, value: &Value<'_>| {
        let problem =
            || Error::value(format!("{at}.{key}"), format!("expected a number, got {}", value.kind()));
        value.as_f64().ok_or_else(problem)
    };
    let mut shapes = Vec::new();
    for param in params {
        let problem = "its shape is not known: give it with the names, or the model's state in the same file";
        let dims = param.shape.as_deref().ok_or_else(|| Error::value(&param.name, problem))?;
        shapes.push(Shape::from(dims));
    }
    let total: usize = shapes.iter().map(Shape::elements).fold(0, usize::saturating_add);
    let format = match get("d")? {
        Value::Tensor(tensor) if tensor.dtype() == Dtype::Float64 => Format::F64,
        _ => Format::F32,
    };
    let mut split = |key: &str, value: &Value<'_>, ours: &str| -> Result<()> {
        let way = format!("{at}.{key}");
        let Value::Tensor(tensor) = value else {
            return Err(Error::value(way, format!("expected a tensor, got {}", value.kind())));
        };
        if tensor.float(&way)? != format || tensor.shape() != [total] {
            let problem = format!(
                "a tensor of {:?} {:?}, expected {total} of {format}",
                tensor.dtype(),
                tensor.shape()
            );
            return Err(Error::value(way, problem));
        }
        let bytes = tensor.laid_out()?;
        let mut rest = &bytes[..];
        for (param, shape) in params.iter().zip(&shapes) {
            let (own, others) = rest.split_at(shape.elements() * format.bytes());
            let entry = Entry { format, shape: shape.clone(), bytes: fallible::copied(own, ours)? };
            checkpoint.insert_state_entry(&param.name, ours, entry);
            rest = others;
            report.states += 1;
        }
        Ok(())
    };
    for (key, ours) in ONCE {
        split(key, get(key)?, ours)?;
    }
    let pairs = get("ro")?.as_items(&format!("{at}.ro"))?;
    for (key, ours) in LISTS {
        let list = get(key)?.as_items(&format!("{at}.{key}"))?;
        if list.len() != pairs.len() {
            return Err(Error::value(
                format!("{at}.{key}"),
                format!("{} vectors for {} pairs", list.len(), pairs.len()),
            ));
        }
        for (k, vector) in list.iter().enumerate() {
            split(&format!("{key}.{k}"), vector, &format!("{ours}.{k}"))?;
        }
    }
    let iterations = count(&format!("{at}.n_iter"), state.get("n_iter"))?;
    let evaluations = count(&format!("{at}.func_evals"), state.get("func_evals"))?;
    manifest.insert_shared("iterations", iterations as f64);
    manifest.insert_shared("evaluations", evaluations as f64);
    manifest.insert_shared("pairs", pairs.len() as f64);
    manifest.insert_shared("t", number("t", get("t")?)?);
    manifest.insert_shared("scale", number("H_diag", get("H_diag")?)?);
    for (k, rho) in pairs.iter().enumerate() {
        manifest.insert_shared(&format!("rho.{k}"), number("ro", rho)?);
    }
    let compute = if format == Format::F64 { Compute::F64 } else { Compute::F32 };
    for (param, shape) in params.iter().zip(&shapes) {
        manifest.insert_param(&param.name, shape, 0, compute);
        checkpoint.insert_steps(&param.name, iterations);
    }
    report.parameters = params.len();
    Ok(())
}

/// Returns the memory as torch keeps it; none before the first step.
pub(crate) fn export(
    checkpoint: &Checkpoint,
    manifest: &OptimizerManifest,
    names: &[String],
    report: &mut Report,
) -> Result<Option<Value<'static>>> {
    if manifest.params().len() == 0 {
        return Ok(None);
    }
    let known = |name: &&String| manifest.params().any(|(known, _)| known == name.as_str());
    if let Some(name) = names.iter().find(|name| !known(name)) {
        return Err(Error::Names(format!(
            "{name:?} is not in the checkpoint, and LBFGS has all parameters or none"
        )));
    }
    let shared =
        |name: &str| manifest.shared(name).map_err(|error| Error::value("the checkpoint", error.to_string()));
    let mut join = |ours: &str| -> Result<Value<'static>> {
        let (mut bytes, mut dtype, mut elements) = (Vec::new(), Dtype::Float32, 0);
        for name in names {
            let entry = checkpoint.state(name, ours);
            let entry = entry.ok_or_else(|| Error::value(format!("state/{name}/{ours}"), "it is missing"))?;
            dtype = Dtype::of(entry.format).unwrap_or(dtype);
            elements += entry.shape.elements();
            bytes.extend(&entry.bytes);
            report.states += 1;
        }
        let joined = Tensor::new(dtype, vec![elements], bytes);
        joined.map(Value::Tensor).map_err(|problem| Error::value(format!("the states {ours}"), problem))
    };
    let pairs = shared("pairs")?;
    let pairs = if pairs >= 0.0 { pairs as usize } else { 0 };
    let mut state: Dict<'static> = vec![
        ("func_evals".into(), Value::Int(shared("evaluations")? as i64)),
        ("n_iter".into(), Value::Int(shared("iterations")? as i64)),
    ];
    for (key, ours) in ONCE {
        state.push((key.into(), join(ours)?));
    }
    for (key, ours) in LISTS {
        let list = (0..pairs).map(|k| join(&format!("{ours}.{k}"))).collect::<Result<Vec<_>>>()?;
        state.push((key.into(), Value::List(list)));
    }
    let rho =
        (0..pairs).map(|k| Ok(Value::Float(shared(&format!("rho.{k}"))?))).collect::<Result<Vec<_>>>()?;
    state.push(("ro".into(), Value::List(rho)));
    state.push(("t".into(), Value::Float(shared("t")?)));
    state.push(("H_diag".into(), Value::Float(shared("scale")?)));
    report.parameters = names.len();
    Ok(Some(Value::Dict(state)))
}
