//! The files that `minimize` writes: numbers and pictures.

use super::problems::{Name, Problem};
use super::run::Run;
use crate::common;
use crate::error::{Error, Result};
use crate::output::{Format, Output};
use crate::plot::{self, Trace};
use fallline::optim::checkpoint::write_atomically;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::path::Path;

/// Writes the places and losses of the runs.
pub fn numbers(output: &Output, name: Name, runs: &[Run]) -> Result<()> {
    let path = &output.path;
    let bytes = match output.format {
        Format::Csv => csv(path, runs)?,
        Format::Json => format!("{:#}\n", as_json(name, runs)).into_bytes(),
        _ => tensors(path, runs)?,
    };
    write_atomically(path, &bytes).map_err(Error::io(path))?;
    Ok(())
}

/// Returns `x/<t>` after each step and the loss before each; of several runs below the place of each, `0/x/<t>`.
fn tensors(path: &Path, runs: &[Run]) -> Result<Vec<u8>> {
    let failed = |error: safetensors::SafeTensorError| Error::Other(format!("{}: {error}", path.display()));
    let mut views = Vec::new();
    for (place, run) in runs.iter().enumerate() {
        let below = if runs.len() > 1 { format!("{place}/") } else { String::new() };
        let steps = run.losses.len() - 1;
        let named = run.way.iter().skip(1).enumerate().map(|(t, x)| (format!("{below}x/{t}"), &x[..]));
        for (key, values) in named.chain([(format!("{below}loss"), &run.losses[..steps])]) {
            let view = TensorView::new(Dtype::F64, vec![values.len()], bytemuck::cast_slice(values));
            views.push((key, view.map_err(failed)?));
        }
    }
    let names = runs.iter().map(|run| json!({ "name": run.label.name, "settings": run.label.settings }));
    let metadata = (runs.len() > 1)
        .then(|| [("runs".to_owned(), Value::from_iter(names).to_string())].into_iter().collect());
    safetensors::serialize(views, metadata).map_err(failed)
}

/// Returns a row for the start and for each step of each run.
fn csv(path: &Path, runs: &[Run]) -> Result<Vec<u8>> {
    let failed = |error: csv::Error| Error::Other(format!("{}: {error}", path.display()));
    let mut writer = csv::Writer::from_writer(Vec::new());
    let count = runs.first().map_or(0, |run| run.x.len());
    let head = ["optimizer", "settings", "step", "loss"].map(str::to_owned).into_iter();
    writer.write_record(head.chain((0..count).map(|i| format!("x[{i}]")))).map_err(failed)?;
    for run in runs {
        for (step, (loss, x)) in run.losses.iter().zip(&run.way).enumerate() {
            let first = [run.label.name.clone(), run.label.settings.clone(), step.to_string()];
            let numbers = [*loss].into_iter().chain(x.iter().copied()).map(|x| format!("{x:?}"));
            writer.write_record(first.into_iter().chain(numbers)).map_err(failed)?;
        }
    }
    writer.into_inner().map_err(|error| Error::Other(format!("{}: {error}", path.display())))
}

/// Returns all numbers of the runs.
fn as_json(name: Name, runs: &[Run]) -> Value {
    let run = |run: &Run| {
        json!({
            "optimizer": run.label.name,
            "settings": run.label.settings,
            "loss": run.losses,
            "x": run.way,
            "diverged": run.diverged_at().is_some(),
            "diverged_at": run.diverged_at(),
        })
    };
    json!({ "problem": format!("{name:?}").to_lowercase(), "runs": runs.iter().map(run).collect::<Vec<_>>() })
}

/// Draws the runs: over the contours of a function of two variables, else their losses.
pub fn picture(output: &Output, name: Name, problem: &Problem, runs: &[Run]) -> Result<()> {
    let two = runs.iter().all(|run| run.x.len() == 2);
    let traces: Vec<Trace<'_>> = runs.iter().map(|run| trace(run, two)).collect();
    let title = format!("{name:?}");
    let picture = match two {
        true => {
            let value = |x: f64, y: f64| problem.evaluate(&[x, y], &mut [0.0; 2]);
            plot::landscape(&title, &traces, value, problem.minima())
        }
        false => {
            let count = runs.first().map_or(0, |run| run.x.len());
            plot::losses(&format!("{title} of {}", common::count(count as u64, "variable")), &traces)
        }
    };
    plot::write(output, &picture).map_err(|error| Error::Other(error.to_string()))
}

/// Returns what a picture has of a run; its way where that is of two variables.
fn trace(run: &Run, two: bool) -> Trace<'_> {
    let way = if two { run.way.iter().map(|x| (x[0], x[1])).collect() } else { Vec::new() };
    Trace { label: &run.label, way, losses: &run.losses, diverged_at: run.diverged_at() }
}
