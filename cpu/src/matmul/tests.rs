//! How fast products are and whether the own kernel is the one that runs; what they give is tested behind the backend.

use super::*;
use crate::Cpu;
use fallline_core::backend::{Backend, Matrix};

/// GFLOP/s by format and extents: `cargo test --release -p fallline-cpu gflops -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a check"]
fn gflops() {
    for threads in [1, 2] {
        let cpu = Cpu::with_threads(threads).unwrap();
        for format in [Format::F32, Format::F64, Format::Bf16] {
            for (m, k) in [(256, 256), (1024, 1024), (1024, 4096)] {
                let storages = cpu.allocate(&[(format, m * k), (format, m * m), (format, m * k)]).unwrap();
                let [mut x, mut gram, mut y] = <[Storage; 3]>::try_from(storages).unwrap();
                cpu.write(&mut x, vec![0.01f32; m * k].as_slice().into()).unwrap();
                let mut best = [f64::MAX; 3];
                for _ in 0..7 {
                    let time = |product: MatMul<'_>| {
                        let start = std::time::Instant::now();
                        cpu.matmul(product).unwrap();
                        start.elapsed().as_secs_f64()
                    };
                    let x = Matrix::new(&x, m, k);
                    let full = time(MatMul::new(x, x.transpose(), &mut gram));
                    let half = time(MatMul { symmetric: true, ..MatMul::new(x, x.transpose(), &mut gram) });
                    let apply = time(MatMul::new(Matrix::new(&gram, m, m), x, &mut y));
                    for (best, took) in best.iter_mut().zip([full, half, apply]) {
                        *best = best.min(took);
                    }
                }
                let [full, half, apply] = best.map(|took| 2e-9 * (m * m * k) as f64 / took);
                println!(
                    "{threads} threads {format} {m} x {k}: gram {full:.0}, symmetric {half:.0}, apply {apply:.0}"
                );
            }
        }
    }
}
