//! `fallline bench --products`: matrix products against the peak of the unit that multiplies.

use super::{Args, ROUNDS};
use crate::common::{self, print, print_json, table};
use crate::error::{Error, Result};
use fallline::core::backend::{Gemm, Matrix};
use fallline::core::{Backend, Tensor};
use fallline::{Cpu, Format};
use serde_json::json;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

/// Rows, the dimension along the product and columns; and whether the right factor is the left one's transpose.
const SHAPES: [([usize; 3], bool); 7] = [
    ([256, 256, 256], false),
    ([512, 512, 512], false),
    ([1024, 1024, 1024], false),
    ([2048, 2048, 2048], false),
    ([1024, 4096, 1024], true),
    ([4096, 1024, 1024], false),
    ([768, 3072, 768], false),
];

const FORMATS: [Format; 4] = [Format::F32, Format::F64, Format::Bf16, Format::F16];

/// Seconds that a measurement of the peak takes, about.
const PEAK_SECONDS: f64 = 0.02;
/// Seconds after which a row has fewer rounds.
const ENOUGH_SECONDS: f64 = 4.0;

/// Measures and prints.
pub fn run(args: &Args) -> Result<()> {
    if args.device != "cpu" {
        return Err(Error::Usage("--products: they are measured on the cpu".into()));
    }
    let most = args.elements.unwrap_or(u64::MAX);
    let fits = |([m, _, n], _): &([usize; 3], bool)| (m * n) as u64 <= most;
    let shapes: Vec<_> = SHAPES.into_iter().filter(fits).collect();
    if shapes.is_empty() {
        let [m, _, n] = SHAPES[0].0;
        return Err(Error::Usage(format!(
            "--elements: the smallest product has {} elements, got {most}",
            m * n
        )));
    }
    let cpu = Arc::new(common::cpu(args.threads)?);
    let processor = fallline::cpu::processor();
    let mut rows = Vec::new();
    for (dims, symmetric) in shapes {
        for format in FORMATS {
            rows.push(measure(&cpu, dims, symmetric, format)?);
        }
    }
    if args.json {
        return print_json(&rows.iter().map(|row| row.json(&cpu, &processor)).collect());
    }
    let head = ["product", "dtype", "threads", "unit", "GFLOP/s", "peak", "share"].map(str::to_owned);
    let cells = rows.iter().map(|row| row.cells(&cpu));
    print(&format!("{processor}\n{}", table(&[head.to_vec()].into_iter().chain(cells).collect::<Vec<_>>())))
}

/// A product as it was measured.
struct Row {
    dims: [usize; 3],
    symmetric: bool,
    format: Format,
    unit: &'static str,
    /// Of the operations that are needed: half of a symmetric result is copied.
    gflops: f64,
    peak_gflops: f64,
}

impl Row {
    fn share(&self) -> f64 {
        self.gflops / self.peak_gflops
    }

    fn json(&self, cpu: &Cpu, processor: &str) -> serde_json::Value {
        let [m, k, n] = self.dims;
        json!({
            "m": m,
            "k": k,
            "n": n,
            "symmetric": self.symmetric,
            "dtype": self.format.name(),
            "threads": cpu.threads(),
            "isa": cpu.isa().name(),
            "unit": self.unit,
            "processor": processor,
            "gflops": self.gflops,
            "peak_gflops": self.peak_gflops,
            "share": self.share(),
        })
    }

    fn cells(&self, cpu: &Cpu) -> Vec<String> {
        let [m, k, n] = self.dims;
        let right = if self.symmetric { "its transpose".to_owned() } else { format!("{k}×{n}") };
        vec![
            format!("{m}×{k} · {right}"),
            self.format.name().to_owned(),
            cpu.threads().to_string(),
            self.unit.to_owned(),
            format!("{:.1}", self.gflops),
            format!("{:.1}", self.peak_gflops),
            format!("{:.3}", self.share()),
        ]
    }
}

/// Times a product and the unit's peak, interleaved.
fn measure(cpu: &Arc<Cpu>, dims: [usize; 3], symmetric: bool, format: Format) -> Result<Row> {
    let [m, k, n] = dims;
    let backend = Arc::clone(cpu) as Arc<dyn Backend>;
    let tensor = |elements: usize| -> Result<Tensor> {
        let mut tensor = Tensor::zeros(&backend, format, [elements])?;
        // Small enough for f16 to hold what they add up to.
        let values: Vec<f64> =
            (0..elements).map(|i| ((i * 7919 % 1009) as f64 / 504.0 - 1.0) / 16.0).collect();
        backend.write(tensor.storage_mut(), values.as_slice().into())?;
        Ok(tensor)
    };
    let (left, right, mut result) = (tensor(m * k)?, tensor(k * n)?, tensor(m * n)?);
    let mut multiply = || -> Result<f64> {
        let left = Matrix::new(left.storage(), m, k);
        let right = if symmetric { left.transpose() } else { Matrix::new(right.storage(), k, n) };
        let start = Instant::now();
        backend.linalg().gemm(Gemm { symmetric, ..Gemm::new(left, right, result.storage_mut()) })?;
        Ok(start.elapsed().as_secs_f64())
    };
    // As many as make a time that can be measured; this also warms up.
    let mut rounds = 1000;
    let mut peak = || -> Result<(f64, &'static str)> {
        loop {
            let start = Instant::now();
            let done = black_box(cpu.multiply_in_registers(format, black_box(rounds))?);
            let took = start.elapsed().as_secs_f64();
            if took > PEAK_SECONDS {
                return Ok((done.operations as f64 / took, done.unit));
            }
            rounds *= 2;
        }
    };
    multiply()?;
    let (_, unit) = peak()?;
    let (mut times, mut peaks) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while times.len() < ROUNDS && (times.is_empty() || start.elapsed().as_secs_f64() < ENOUGH_SECONDS) {
        times.push(multiply()?);
        peaks.push(peak()?.0);
    }
    let needed = if symmetric { m * (m + 1) / 2 * k } else { m * k * n };
    let (time, peak) = (median(&mut times), median(&mut peaks));
    // An operation is a multiplication or an addition.
    let gflops = 2.0 * needed as f64 / time * 1e-9;
    Ok(Row { dims, symmetric, format, unit, gflops, peak_gflops: 2.0 * peak * 1e-9 })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
