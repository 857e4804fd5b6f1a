//! The 1-bit optimizers over ranks: OnebitAdam against the algorithm written out on plain vectors, bit for bit, and all of
//! them against DeepSpeed's own numbers. `literal.rs` has the others written out.

use fallline_core::ranks::{Communicator, CountingComm, SelfComm};
use fallline_cpu::{Cpu, Native};
use fallline_optim::algorithms::{OnebitAdam, OnebitLamb, ZeroOneAdam};
use fallline_optim::mask::MomentumMask;
use fallline_optim::{AnyAlgorithm, Checkpoint, Driver, Linked, Optimizer, param};
use safetensors::SafeTensors;
use std::sync::Arc;

const HYPER: OnebitAdam = OnebitAdam {
    lr: 0.01,
    freeze_step: 4,
    betas: (0.9, 0.99),
    eps: 1e-3,
    weight_decay: 0.1,
    non_freeze: false,
};
const STEPS: usize = 12;
/// Both intervals of ZeroOneAdam grow, and ranks are alone for several steps.
const INTERVALS: ZeroOneAdam = ZeroOneAdam {
    lr: 0.01,
    betas: (0.9, 0.99),
    eps: 1e-3,
    weight_decay: 0.1,
    var_freeze_step: 9,
    var_update_scaler: 2,
    local_step_scaler: 2,
    local_step_clipper: 4,
};
/// The elements of the first tensor that a masked case leaves a momentum.
pub const MASKED: usize = 130;
/// More than a step of the order of sums, and not a whole number of bytes for any number of ranks.
pub const LENGTHS: [usize; 3] = [300, 7, 1];

/// Returns a rank's gradient of a step.
pub fn gradient(rank: usize, step: usize, tensor: usize) -> Vec<f32> {
    let mix = |i: usize| (i + 31 * step + 97 * rank + 7 * tensor) as u64;
    let number =
        |i: usize| (mix(i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    (0..LENGTHS[tensor]).map(number).collect()
}

pub fn start(tensor: usize) -> Vec<f32> {
    (0..LENGTHS[tensor]).map(|i| (i % 13) as f32 / 8.0 - 0.7).collect()
}

/// Returns the sum of squares in the order that `core::sums` documents, of up to one segment.
fn squares(x: &[f32]) -> f64 {
    let mut accumulators = [0.0_f32; 64];
    for step in x.chunks(256) {
        let term = |j: usize| step.get(j).map_or(0.0, |x| x * x);
        for (j, sum) in accumulators.iter_mut().enumerate() {
            *sum += (term(j) + term(j + 128)) + (term(j + 64) + term(j + 192));
        }
    }
    for half in [32, 16, 8, 4, 2, 1] {
        (0..half).for_each(|j| accumulators[j] += accumulators[j + half]);
    }
    f64::from(accumulators[0])
}

/// Signs and a scale for `x` plus what was left out before.
fn compress(x: &mut [f32], error: &mut [f32]) {
    x.iter_mut().zip(&*error).for_each(|(x, error)| *x += error);
    let scale = (squares(x).sqrt() / (x.len() as f64).sqrt()) as f32;
    for (x, error) in x.iter_mut().zip(error) {
        let sign = if *x < 0.0 { -scale } else { scale };
        *error = *x - sign;
        *x = sign;
    }
}

/// One tensor on all ranks, as DeepSpeed 0.14.4 steps it.
struct Literal {
    param: Vec<f32>,
    m: Vec<f32>,
    v: Vec<f32>,
    worker: Vec<Vec<f32>>,
    server: Vec<Vec<f32>>,
}

impl Literal {
    fn new(tensor: usize, world: usize) -> Literal {
        let n = LENGTHS[tensor];
        // 8 for a whole byte, and the ranks twice: DeepSpeed's corrected_tensor_size.
        let divider = (1..).map(|k| k * 8).find(|k| k % world == 0).unwrap();
        let padded = n.next_multiple_of(world * divider);
        let (worker, server) = (vec![vec![0.0; padded]; world], vec![vec![0.0; padded / world]; world]);
        Literal { param: start(tensor), m: vec![0.0; n], v: vec![0.0; n], worker, server }
    }

    fn step(&mut self, t: usize, tensor: usize, world: usize, masked: bool) {
        let [beta1, beta2] = [HYPER.betas.0, HYPER.betas.1];
        let (b1, c1, b2, c2) = (beta1 as f32, (1.0 - beta1) as f32, beta2 as f32, (1.0 - beta2) as f32);
        let frozen = t > HYPER.freeze_step as usize;
        if t == 1 {
            return;
        }
        let gradients: Vec<Vec<f32>> = (0..world).map(|rank| gradient(rank, t, tensor)).collect();
        if frozen {
            let moment = |g: &Vec<f32>| self.m.iter().zip(g).map(|(m, g)| b1 * m + c1 * g).collect();
            let moments: Vec<Vec<f32>> = gradients.iter().map(moment).collect();
            self.m = self.exchange(moments, world);
            if masked && tensor == 0 {
                self.m[MASKED..].iter_mut().for_each(|m| *m *= 0.0);
            }
        } else {
            for i in 0..self.m.len() {
                let sum = gradients.iter().fold(0.0, |sum, g| sum + f64::from(g[i]));
                let g = (sum / world as f64) as f32;
                self.m[i] = b1 * self.m[i] + c1 * g;
                self.v[i] = b2 * self.v[i] + c2 * g * g;
            }
        }
        let (lr, eps, decay) = (HYPER.lr as f32, HYPER.eps as f32, HYPER.weight_decay as f32);
        for ((p, m), v) in self.param.iter_mut().zip(&self.m).zip(&self.v) {
            *p -= lr * (m / (v.sqrt() + eps) + decay * *p);
        }
    }

    fn exchange(&mut self, mut moments: Vec<Vec<f32>>, world: usize) -> Vec<f32> {
        let (padded, chunk) = (self.worker[0].len(), self.server[0].len());
        for (moment, error) in moments.iter_mut().zip(&mut self.worker) {
            moment.resize(padded, 0.0);
            compress(moment, error);
        }
        let mut all = Vec::new();
        for (server, error) in self.server.iter_mut().enumerate() {
            let share = 1.0 / world as f32;
            let mean = |i: usize| moments.iter().fold(0.0, |sum, m| sum + m[server * chunk + i] * share);
            let mut part: Vec<f32> = (0..chunk).map(mean).collect();
            compress(&mut part, error);
            all.extend(part);
        }
        all.truncate(self.m.len());
        all
    }
}

/// Returns an optimizer of an algorithm, with a separate group for a first tensor that is masked.
pub fn driver(algorithm: Box<dyn AnyAlgorithm>, masked: bool, ranks: &Arc<dyn Communicator>) -> Driver {
    let mut driver = Driver::new(Cpu::with_threads(1).unwrap().shared(), algorithm);
    if masked {
        let group = driver.add_group(|name| name == "p0", &[]).unwrap();
        driver.set_momentum_mask(group, Some(MomentumMask::Rows(0..MASKED))).unwrap();
    }
    driver.with_ranks(Arc::clone(ranks))
}

fn adam() -> Box<dyn AnyAlgorithm> {
    Box::new(Linked::<OnebitAdam, Native>::new(HYPER.clone()).unwrap())
}

pub fn lamb() -> OnebitLamb {
    let OnebitAdam { lr, freeze_step, betas, eps, weight_decay, .. } = HYPER;
    OnebitLamb { lr, freeze_step, betas, eps, weight_decay, ..OnebitLamb::default() }
}

pub fn zero_one() -> ZeroOneAdam {
    INTERVALS.clone()
}

fn boxed(name: &str) -> Box<dyn AnyAlgorithm> {
    match name {
        "OnebitAdam" => adam(),
        "OnebitLamb" => Box::new(Linked::<OnebitLamb, Native>::new(lamb()).unwrap()),
        _ => Box::new(Linked::<ZeroOneAdam, Native>::new(zero_one()).unwrap()),
    }
}

pub fn names() -> [String; 3] {
    [0, 1, 2].map(|tensor| format!("p{tensor}"))
}

fn step(ranks: &dyn Communicator, optimizer: &mut Driver, params: &mut [Vec<f32>], t: usize) {
    let (rank, world) = (ranks.rank(), ranks.world_size());
    let averaged = |tensor: usize| -> Vec<f32> {
        let all: Vec<Vec<f32>> = (0..world).map(|rank| gradient(rank, t, tensor)).collect();
        let mean = |i: usize| (all.iter().fold(0.0, |sum, g| sum + f64::from(g[i])) / world as f64) as f32;
        (0..LENGTHS[tensor]).map(mean).collect()
    };
    let own: Vec<Vec<f32>> = (0..3)
        .map(|tensor| if optimizer.averages() { averaged(tensor) } else { gradient(rank, t, tensor) })
        .collect();
    if optimizer.name() != "ZeroOneAdam" {
        assert_eq!(optimizer.averages(), world == 1 || t <= HYPER.freeze_step as usize, "step {t}");
    }
    let names = names();
    let mut bindings: Vec<_> =
        names.iter().zip(params).zip(&own).map(|((name, p), g)| param(name, p, g)).collect();
    optimizer.step(&mut bindings).unwrap();
}

/// All steps are the literal algorithm's, with a stop, a checkpoint and another driver in between, with a mask and
/// without.
pub fn trajectory(ranks: &Arc<dyn Communicator>) {
    [false, true].into_iter().for_each(|masked| run(ranks, masked));
}

fn run(ranks: &Arc<dyn Communicator>, masked: bool) {
    let (rank, world) = (ranks.rank(), ranks.world_size());
    if world == 1 {
        return;
    }
    let mut literal = [0, 1, 2].map(|tensor| Literal::new(tensor, world));
    let mut optimizer = driver(adam(), masked, ranks);
    let mut params: Vec<Vec<f32>> = (0..3).map(start).collect();
    for t in 1..=STEPS {
        step(&**ranks, &mut optimizer, &mut params, t);
        for (tensor, literal) in literal.iter_mut().enumerate() {
            literal.step(t, tensor, world, masked);
            assert_eq!(params[tensor], literal.param, "step {t}, tensor {tensor}, rank {rank} of {world}");
            let state = |name| optimizer.state(&names()[tensor], name).unwrap().unwrap();
            let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
            assert_eq!(state("m"), wide(&literal.m));
            assert_eq!(state("v"), wide(&literal.v));
        }
        if t == 8 {
            // Everybody writes the same file, with the errors of all, and goes on from it bit for bit.
            let bytes = optimizer.save().unwrap().to_bytes().unwrap();
            let mut first = bytes.clone();
            ranks.broadcast(0, &mut first).unwrap();
            assert!(first == bytes, "rank {rank} saves something else than rank 0");
            optimizer = driver(adam(), masked, ranks);
            optimizer.load(&Checkpoint::from_bytes(&bytes).unwrap()).unwrap();
        }
    }
}

/// The numbers of DeepSpeed's code on one rank and on two ([`tests/golden/onebit.py`]), with the compression errors
/// of each rank.
///
/// A step rounds the parameter three times and its direction some ten times. The scale of 304 elements is a norm
/// that torch sums up in another order. These 320 roundings of lr times a direction below 10, over 12 steps, are
/// 2.5e-5. A sign that differs moves an element by 2 lr |scale| / (√v + ε), more than 1e-3 here.
pub fn golden(ranks: &Arc<dyn Communicator>) {
    const NUMBERS: &[u8] = include_bytes!("../../../tests/golden/onebit_ranks.safetensors");
    const TOLERANCE: f64 = 3e-5;
    let (rank, world) = (ranks.rank(), ranks.world_size());
    if world > 2 {
        return;
    }
    let numbers = SafeTensors::deserialize(NUMBERS).unwrap();
    let wide = |file: &SafeTensors<'_>, key: &str| -> Vec<f64> {
        let data = file.tensor(key).unwrap_or_else(|error| panic!("{key}: {error}")).data().to_vec();
        data.chunks_exact(4).map(|x| f64::from(f32::from_le_bytes(x.try_into().unwrap()))).collect()
    };
    let cases: [(&str, &[&str], usize); 3] = [
        ("OnebitAdam", &["m", "v"], STEPS),
        ("OnebitLamb", &["m", "v", "v_fresh"], STEPS),
        ("ZeroOneAdam", &["m", "v", "u"], 22),
    ];
    for ((source, states, steps), masked) in cases.into_iter().flat_map(|case| [(case, false), (case, true)])
    {
        let case = format!("{source}{}/{world}", if masked { "-masked" } else { "" });
        // Those of ZeroOneAdam have parameters and momenta of their own.
        let whose = if source == "ZeroOneAdam" { rank } else { 0 };
        let mut optimizer = driver(boxed(source), masked, ranks);
        let compare = |got: Vec<f64>, key: String| {
            let key = format!("{case}/{key}");
            let expected = wide(&numbers, &key);
            assert_eq!(got.len(), expected.len(), "{key}");
            for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                assert!((got - expected).abs() <= TOLERANCE, "{key}[{i}] on {rank}: {got}, {expected}");
            }
        };
        let mut params: Vec<Vec<f32>> = (0..3).map(start).collect();
        for t in 1..=steps {
            step(&**ranks, &mut optimizer, &mut params, t);
            for (tensor, name) in names().iter().enumerate().filter(|_| !masked || t == steps) {
                let got = params[tensor].iter().map(|&x| f64::from(x)).collect();
                compare(got, format!("expected/{t}/{name}/{whose}"));
            }
        }
        for name in names() {
            for state in states {
                let got = optimizer.state(&name, state).unwrap().unwrap();
                compare(got, format!("expected_state/{name}/{state}/{whose}"));
            }
        }
        let bytes = optimizer.save().unwrap().to_bytes().unwrap();
        let saved = SafeTensors::deserialize(&bytes).unwrap();
        if source == "ZeroOneAdam" {
            let scalars = ["var_interval", "var_counter", "local_step_interval", "local_step_counter", "lrs"];
            for (name, scalar) in names().iter().flat_map(|name| scalars.map(|scalar| (name, scalar))) {
                let number = |file: &SafeTensors<'_>, key: &str| {
                    f64::from_le_bytes(file.tensor(key).unwrap().data().try_into().unwrap())
                };
                let expected = number(&numbers, &format!("{case}/expected_memory/{name}/{scalar}"));
                // Up to four rates were added up.
                let got = number(&saved, &format!("state/{name}/{scalar}"));
                assert!((got - expected).abs() <= 1e-15, "{case}, {name}: {scalar} is {got}, not {expected}");
            }
        }
        if world == 1 {
            continue;
        }
        for (of, name) in (0..world).flat_map(|of| names().map(|name| (of, name))) {
            for error in ["worker_error", "server_error"] {
                let key = format!("rank/{of}/{name}/{error}");
                // Those of OnebitLamb are of all parameters together.
                if source != "OnebitLamb" || name == "p0" {
                    compare(wide(&saved, &key), format!("{error}/{of}/{name}"));
                } else {
                    assert!(saved.tensor(&key).is_err(), "{key}");
                }
            }
        }
    }
}

/// OnebitLamb resumes from a checkpoint bit for bit, with all its compression errors, and all ranks hold the same
/// parameters. With another number of ranks it resumes without the errors.
pub fn lamb_resumes(ranks: &Arc<dyn Communicator>) {
    let (mut optimizer, mut params) =
        (driver(boxed("OnebitLamb"), false, ranks), (0..3).map(start).collect::<Vec<_>>());
    (1..=7).for_each(|t| step(&**ranks, &mut optimizer, &mut params, t));
    let saved = Checkpoint::from_bytes(&optimizer.save().unwrap().to_bytes().unwrap()).unwrap();
    let (mut resumed, mut again) = (driver(boxed("OnebitLamb"), false, ranks), params.clone());
    resumed.load(&saved).unwrap();
    for t in 8..=STEPS {
        step(&**ranks, &mut optimizer, &mut params, t);
        step(&**ranks, &mut resumed, &mut again, t);
        assert_eq!(params, again, "step {t}");
        let bytes: Vec<u8> = params.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
        let mut first = bytes.clone();
        ranks.broadcast(0, &mut first).unwrap();
        assert!(first == bytes, "rank {} has other parameters than rank 0", ranks.rank());
    }
    assert!(optimizer.save().unwrap() == resumed.save().unwrap());
    let alone: Arc<dyn Communicator> = Arc::new(SelfComm);
    let mut one = driver(boxed("OnebitLamb"), false, &alone);
    one.load(&saved).unwrap();
    step(&*alone, &mut one, &mut params, STEPS + 1);
}

/// Bytes in the compressed phase: a thirty-second of what averaging sends, and for every tensor two scales.
pub fn traffic(ranks: &Arc<dyn Communicator>) {
    let (rank, world) = (ranks.rank(), ranks.world_size() as u64);
    if world == 1 {
        return;
    }
    let counting = Arc::new(CountingComm::new(Arc::clone(ranks)));
    let counted: Arc<dyn Communicator> = counting.clone();
    let mut optimizer = driver(adam(), false, &counted);
    let n = 1 << 16;
    let mut values = vec![0.5_f32; n];
    let mut bytes = 0;
    for t in 0..7 {
        let grad: Vec<f32> = (0..n).map(|i| ((i + t + rank) % 9) as f32 - 4.0).collect();
        let before = counting.traffic().bytes;
        optimizer.step(&mut [param("w", &mut values, &grad)]).unwrap();
        bytes = counting.traffic().bytes - before;
    }
    assert!(!optimizer.averages());
    let full = 2 * 4 * n as u64 * (world - 1) / world;
    assert!(25 * bytes <= full, "{bytes} of {full}");
}
