//! `fallline minimize`: optimizers on known functions.

pub mod problems;

use crate::common::{self, Source, print, print_json};
use crate::error::{Error, Result};
use crate::plot;
use fallline::optim::checkpoint::write_atomically;
use fallline::optim::{Binding, Objective, param};
use fallline::registry::Length;
use problems::{Name, Problem};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use std::path::PathBuf;

/// Arguments of `minimize`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: fallline minimize rosenbrock --optimizer 'dict(type=\"LBFGS\", line_search_fn=\"strong_wolfe\")' --steps 10 --plot path.svg"
)]
pub struct Args {
    /// The function
    #[arg(value_enum)]
    problem: Name,
    #[command(flatten)]
    source: Source,
    /// Number of steps
    #[arg(long)]
    steps: u64,
    /// Number of variables (of rosenbrock, quadratic and rastrigin)
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    dim: Option<u64>,
    /// Output: x/<t> after each step, and the loss before each, as safetensors
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Output: an SVG of the trajectory of two variables, else of the loss
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Device: cpu, scalar, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Seed of random numbers (reserved: no algorithm of this version uses them)
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// A problem, and where the search is.
struct Search {
    problem: Problem,
    x: Vec<f64>,
    grad: Vec<f64>,
}

impl Objective for Search {
    fn evaluate(&mut self) -> fallline::optim::Result<f64> {
        Ok(self.problem.evaluate(&self.x, &mut self.grad))
    }

    fn bindings(&mut self) -> Vec<Binding<'_>> {
        vec![param("x", &mut self.x, &self.grad)]
    }
}

/// Minimizes.
pub fn run(args: Args) -> Result<()> {
    let recipe = args.source.any_recipe()?;
    let backend = common::device(&args.device, None)?;
    let (problem, x) = Problem::new(args.problem, args.dim.map(|dim| dim as usize))?;
    let mut optimizer = recipe.optimizer(backend);
    // A step is an epoch of one, and the run has so many.
    let length = Length::new(1).of_epochs(args.steps);
    let mut schedule = recipe.schedule_over(length, &mut *optimizer)?;
    let mut search = Search { problem, grad: vec![0.0; x.len()], x };
    let (mut way, mut losses) = (vec![search.x.clone()], Vec::new());
    for _ in 0..args.steps {
        losses.push(optimizer.step_with(&mut search)?);
        schedule.after_iteration(&mut *optimizer)?;
        schedule.after_epoch(&mut *optimizer)?;
        let loss = [("loss", losses[losses.len() - 1])];
        schedule.observe(false, &loss, &mut *optimizer)?;
        schedule.observe(true, &loss, &mut *optimizer)?;
        way.push(search.x.clone());
    }
    let last = search.problem.evaluate(&search.x, &mut search.grad);
    if let Some(path) = &args.out {
        let entries: Vec<(String, &[f64])> = (0..way.len() - 1)
            .map(|t| (format!("x/{t}"), &way[t + 1][..]))
            .chain([("loss".to_owned(), &losses[..])])
            .collect();
        let failed =
            |error: safetensors::SafeTensorError| Error::Other(format!("{}: {error}", path.display()));
        let mut views = Vec::new();
        for (key, values) in &entries {
            let view = TensorView::new(Dtype::F64, vec![values.len()], bytemuck::cast_slice(values));
            views.push((key.as_str(), view.map_err(failed)?));
        }
        let bytes = safetensors::serialize(views, None).map_err(failed)?;
        write_atomically(path, &bytes).map_err(Error::io(path))?;
    }
    if let Some(path) = &args.plot {
        let title = format!("{} on {:?}", optimizer.name(), args.problem).to_lowercase();
        let drawn = if search.x.len() == 2 {
            let value = |x: f64, y: f64| search.problem.evaluate(&[x, y], &mut [0.0; 2]);
            let way: Vec<(f64, f64)> = way.iter().map(|x| (x[0], x[1])).collect();
            plot::path(path, &title, &way, value)
        } else {
            plot::loss(path, &title, &losses)
        };
        drawn.map_err(|error| Error::Other(error.to_string()))?;
    }
    if args.json {
        let first = losses.first().copied().unwrap_or(last);
        return print_json(
            &json!({ "steps": args.steps, "first_loss": first, "last_loss": last, "x": search.x }),
        );
    }
    let shown: Vec<String> = search.x.iter().take(8).map(|x| format!("{x:.6}")).collect();
    let more = if search.x.len() > 8 { ", …" } else { "" };
    print(&format!("loss {last:.6e} after {} steps, at ({}{more})\n", args.steps, shown.join(", ")))
}
