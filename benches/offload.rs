//! Offload on a GPU, the figures of docs/scaling.md: `cargo bench --bench offload`. An offloaded step compared with its parts:
//! the step on the host alone, and the copies in either direction and in both.

use fallline::core::Storage;
use fallline::core::backend::View;
use fallline::optim::{ParamPrecision, param};
use fallline::{Backend, Cpu, Cuda, Format, Recipe, Tensor};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Elements of a chunk, as the optimizer has it.
const CHUNK: usize = 1 << 19;

fn recipe() -> Recipe {
    Recipe::from_text("dict(type='AdamW', lr=0.01)").expect("a configuration of this file")
}

fn main() {
    let fastest = |work: &mut dyn FnMut()| {
        let time = |_| {
            let begun = Instant::now();
            work();
            begun.elapsed()
        };
        (0..12).map(time).skip(2).min().unwrap()
    };
    let cpu = || Cpu::new().unwrap().shared();
    let device = match Cuda::new(0) {
        Ok(device) => device.shared(),
        Err(problem) => return println!("{problem}"),
    };
    println!("{} and {}", device.describe(), cpu().describe());
    // `cargo bench --bench offload -- 4194304` for another number of elements.
    let n = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(1 << 27);
    for format in [Format::Bf16, Format::F32] {
        let tensor = |backend: &Arc<dyn Backend>, format| Tensor::zeros(backend, format, [n]).unwrap();
        let (mut p, g) = (tensor(&device, format), tensor(&device, format));
        let transfers = device.transfers().unwrap();
        let mut driver = recipe().optimizer(Arc::clone(&device));
        driver.offload(cpu()).unwrap();
        let both = fastest(&mut || {
            driver.step(&mut [param("w", &mut p, &g)]).unwrap();
            device.synchronise().unwrap();
        });
        let mut copies = |down: bool, up: bool| {
            let mut free: Vec<Storage> =
                (0..6).map(|_| transfers.allocate_pinned(format, CHUNK).unwrap()).collect();
            fastest(&mut || {
                let (mut from, mut to) = (View::read(g.storage()), View::write(p.storage_mut()));
                transfers
                    .transfer(&mut |transfers| {
                        let mut pending = std::collections::VecDeque::new();
                        for _ in 0..n / CHUNK {
                            if down {
                                pending.push_back(
                                    transfers.d2h(vec![from.take(0, CHUNK)], free.pop().unwrap())?,
                                );
                            }
                            if up {
                                pending
                                    .push_back(transfers.h2d(free.pop().unwrap(), vec![to.take(0, CHUNK)])?);
                            }
                            while pending.len() > 4 {
                                free.push(pending.pop_front().unwrap().wait()?);
                            }
                        }
                        for copy in pending {
                            free.push(copy.wait()?);
                        }
                        Ok(())
                    })
                    .unwrap();
                device.synchronise().unwrap();
            })
        };
        let (down, up, both_ways) = (copies(true, false), copies(false, true), copies(true, true));
        let host = cpu();
        let (mut p, g) = (tensor(&host, format), tensor(&host, format));
        let mut alone = recipe().optimizer(Arc::clone(&host));
        if format == Format::Bf16 {
            alone.set_param_precision(0, ParamPrecision::MasterWeights).unwrap();
        }
        let step = fastest(&mut || {
            alone.step(&mut [param("w", &mut p, &g)]).unwrap();
        });
        let per = |time: Duration| time.as_secs_f64() * 1e9 / n as f64;
        let ratio = both.as_secs_f64() / step.max(both_ways).as_secs_f64();
        println!(
            "{format}, AdamW, ns an element: offloaded {:.3}, step alone {:.3}, copies down {:.3}, up {:.3}, both {:.3}: \
             {ratio:.2} of the larger",
            per(both),
            per(step),
            per(down),
            per(up),
            per(both_ways)
        );
    }
}
