//! Recorded gradients: the input of `replay`.

use crate::error::{Error, Result};
use fallline::core::fallible;
use fallline::core::files::read_tensors;
use fallline::optim::checkpoint::{Entry, format};
use safetensors::tensor::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The largest step number of a trace.
const MOST_STEPS: u64 = 10_000_000;

/// A gradient of one parameter at one step.
#[derive(Debug)]
pub enum Grad {
    /// An entry for every element.
    Dense(Entry),
    /// Entries for some rows.
    Rows {
        /// The rows' numbers; repeated ones add up.
        indices: Vec<i64>,
        /// A row for each.
        values: Entry,
    },
}

/// Start values and gradients.
#[derive(Debug)]
pub struct Trace {
    path: PathBuf,
    /// The parameters' start values.
    pub params: BTreeMap<String, Entry>,
    /// The number of steps.
    pub steps: u64,
    grads: BTreeMap<u64, BTreeMap<String, Grad>>,
    hessians: BTreeMap<u64, BTreeMap<String, Grad>>,
}

impl Trace {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Trace> {
        let bytes = read_tensors(path).map_err(Error::io(path))?;
        let malformed = |problem: String| Error::Malformed { path: path.to_owned(), problem };
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|e| malformed(format!("not a safetensors file: {e}")))?;
        let (params, grads, hessians) = Default::default();
        let mut trace = Trace { path: path.to_owned(), params, steps: 0, grads, hessians };
        for (key, view) in file.tensors() {
            if let Some(name) = key.strip_prefix("param/") {
                trace.params.insert(name.to_owned(), entry(&key, &view).map_err(malformed)?);
            }
        }
        if trace.params.is_empty() {
            return Err(malformed("it has no param/<name>".into()));
        }
        let is_kept = |name: &str| name.split_once('/').is_some_and(|(t, _)| t.parse::<u64>().is_ok());
        if file.len() == trace.params.len() && trace.params.keys().all(|name| is_kept(name)) {
            let problem = "it has no grad/<t>/<name>: it is what `replay` writes, not a trace";
            return Err(malformed(problem.into()));
        }
        for (key, view) in file.tensors() {
            if key.starts_with("param/") {
                continue;
            }
            let (kind, t, name) = split(&key).map_err(malformed)?;
            trace.steps = trace.steps.max(t + 1);
            if kind == "hess" {
                let hessian = Grad::Dense(entry(&key, &view).map_err(malformed)?);
                if !trace.params.contains_key(name) {
                    return Err(malformed(format!("{key}: there is no param/{name}")));
                }
                trace.hessians.entry(t).or_default().insert(name.to_owned(), hessian);
                continue;
            }
            let grads = trace.grads.entry(t).or_default();
            if trace.params.contains_key(name) {
                grads.insert(name.to_owned(), Grad::Dense(entry(&key, &view).map_err(malformed)?));
            } else if let Some(param) = name.strip_suffix(".values").filter(|p| trace.params.contains_key(*p))
            {
                let indices = format!("grad/{t}/{param}.indices");
                let found =
                    file.tensor(&indices).map_err(|_| malformed(format!("{key} has no {indices}")))?;
                let indices = whole_numbers(&indices, &found).map_err(malformed)?;
                let values = entry(&key, &view).map_err(malformed)?;
                if grads.insert(param.to_owned(), Grad::Rows { indices, values }).is_some() {
                    return Err(malformed(format!(
                        "step {t} has a dense and a row-sparse gradient of {param:?}"
                    )));
                }
            } else if let Some(param) =
                name.strip_suffix(".indices").filter(|p| trace.params.contains_key(*p))
            {
                let values = format!("grad/{t}/{param}.values");
                file.tensor(&values).map_err(|_| malformed(format!("{key} has no {values}")))?;
            } else {
                return Err(malformed(format!("{key}: there is no param/{name}")));
            }
        }
        trace.check()?;
        Ok(trace)
    }

    /// Returns the gradient of a parameter at a step.
    pub fn grad(&self, t: u64, param: &str) -> Option<&Grad> {
        self.grads.get(&t)?.get(param)
    }

    /// Returns the gradient for `update_hessian` of a parameter after a step.
    pub fn hessian(&self, t: u64, param: &str) -> Option<&Grad> {
        self.hessians.get(&t)?.get(param)
    }

    /// Returns the bytes of all parameters after so many steps, with what a name and a place take; none where they are too
    /// many to count.
    pub fn bytes_of(&self, steps: u64) -> Option<usize> {
        const NAMED: usize = 256;
        let once = self
            .params
            .values()
            .try_fold(0usize, |all, param| all.checked_add(param.bytes.len())?.checked_add(NAMED));
        once?.checked_mul(usize::try_from(steps).ok()?)
    }

    /// Returns whether there are any of these.
    pub fn has_hessian(&self) -> bool {
        !self.hessians.is_empty()
    }

    fn check(&self) -> Result<()> {
        self.check_all("grad", &self.grads)?;
        self.check_all("hess", &self.hessians)
    }

    fn check_all(&self, kind: &str, all: &BTreeMap<u64, BTreeMap<String, Grad>>) -> Result<()> {
        for (t, grads) in all {
            for (name, grad) in grads {
                let expected = self.params[name].shape.dims();
                let problem = match grad {
                    Grad::Dense(entry) if entry.shape.dims() != expected => {
                        format!("{kind}/{t}/{name} has shape {}, expected {expected:?}", entry.shape)
                    }
                    Grad::Rows { indices, values } => match rows_fit(indices, values, expected) {
                        Ok(()) => continue,
                        Err(problem) => format!("{kind}/{t}/{name}: {problem}"),
                    },
                    Grad::Dense(_) => continue,
                };
                return Err(Error::Malformed { path: self.path.clone(), problem });
            }
        }
        Ok(())
    }
}

fn rows_fit(indices: &[i64], values: &Entry, param: &[usize]) -> Result<(), String> {
    let Some((&rows, row)) = param.split_first() else {
        return Err("a 0-dimensional parameter has no rows".into());
    };
    let expected = [&[indices.len()], row].concat();
    if values.shape.dims() != expected {
        return Err(format!("its values have shape {}, expected {expected:?}", values.shape));
    }
    match indices.iter().find(|&&index| usize::try_from(index).map_or(true, |index| index >= rows)) {
        Some(index) => Err(format!("row {index} is out of range: the parameter has {rows} rows")),
        None => Ok(()),
    }
}

/// Splits `grad/<t>/<name>`.
fn split(key: &str) -> Result<(&str, u64, &str), String> {
    let unknown = || format!("{key} is none of param/<name>, grad/<t>/<name>, hess/<t>/<name>");
    let (kind, rest) = key.split_once('/').ok_or_else(unknown)?;
    let (t, name) = rest.split_once('/').ok_or_else(unknown)?;
    if kind != "grad" && kind != "hess" {
        return Err(unknown());
    }
    let t = t.parse().map_err(|_| format!("{key}: {t:?} is not a step number"))?;
    if t >= MOST_STEPS {
        return Err(format!("{key}: step numbers end at {}", MOST_STEPS - 1));
    }
    Ok((kind, t, name))
}

fn entry(key: &str, view: &safetensors::tensor::TensorView<'_>) -> Result<Entry, String> {
    let format = format(view.dtype())
        .ok_or_else(|| format!("{key} is of type {:?}, expected F64, F32, BF16 or F16", view.dtype()))?;
    let bytes = fallible::copied(view.data(), key).map_err(|error| error.to_string())?;
    Ok(Entry { format, shape: view.shape().into(), bytes })
}

fn whole_numbers(key: &str, view: &safetensors::tensor::TensorView<'_>) -> Result<Vec<i64>, String> {
    if view.dtype() != Dtype::I64 || view.shape().len() != 1 {
        return Err(format!(
            "{key} is of type {:?} and shape {:?}, expected I64 [k]",
            view.dtype(),
            view.shape()
        ));
    }
    let (numbers, _) = view.data().as_chunks::<8>();
    Ok(numbers.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect())
}
