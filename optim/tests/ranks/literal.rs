//! OnebitLamb and ZeroOneAdam over ranks against the algorithms written out, slowly, in `f64` on `ndarray`: all ranks at
//! once, as DeepSpeed 0.14.4 steps them.

use crate::onebit::{LENGTHS, MASKED, driver, gradient, lamb, names, start, zero_one};
use fallline_core::ranks::Communicator;
use fallline_cpu::Native;
use fallline_optim::algorithms::{OnebitLamb, ZeroOneAdam};
use fallline_optim::{AnyAlgorithm, Binding, Checkpoint, Driver, Linked, Optimizer, frozen, param};
use ndarray::{Array1, s};
use std::sync::Arc;

const STEPS: usize = 26;

/// Numbers below 10 are rounded some thirty times a step in 26 steps (1e-16 of them each). What is rebuilt from a
/// momentum is that over 1 − β₁ = 0.1: below 1e-11. A sign that differs moves an element by more than 1e-4.
const TOLERANCE: f64 = 1e-11;

/// Returns whether a tensor has no gradient in a step, on any rank.
fn absent(step: usize, tensor: usize) -> bool {
    [(3, 1), (6, 2), (8, 0), (14, 1), (19, 0)].contains(&(step, tensor))
}

fn own_gradient(rank: usize, step: usize, tensor: usize) -> Array1<f64> {
    gradient(rank, step, tensor).into_iter().map(f64::from).collect()
}

fn mean(world: usize, step: usize, tensor: usize) -> Array1<f64> {
    let all = (0..world).map(|rank| own_gradient(rank, step, tensor));
    all.reduce(|sum, other| sum + other).unwrap() / world as f64
}

fn norm(x: &Array1<f64>) -> f64 {
    x.mapv(|x| x * x).sum().sqrt()
}

fn mask(tensor: usize, masked: bool) -> Array1<f64> {
    let own = |i: usize| f64::from(u8::from(!masked || tensor > 0 || i < MASKED));
    (0..LENGTHS[tensor]).map(own).collect()
}

/// What the compressions of a buffer have left out on each rank, as a worker and as a server.
struct Errors {
    worker: Vec<Array1<f64>>,
    server: Vec<Array1<f64>>,
}

impl Errors {
    fn new(n: usize, world: usize) -> Errors {
        let divider = (1..).map(|k| k * 8).find(|k| k % world == 0).unwrap();
        let padded = n.next_multiple_of(world * divider);
        let of = |n: usize| vec![Array1::zeros(n); world];
        Errors { worker: of(padded), server: of(padded / world) }
    }

    fn compress(x: &Array1<f64>, error: &mut Array1<f64>) -> Array1<f64> {
        let x = x + &*error;
        let scale = norm(&x) / (x.len() as f64).sqrt();
        let sent = x.mapv(|x| if x < 0.0 { -scale } else { scale });
        *error = x - &sent;
        sent
    }

    /// Returns the mean of the ranks' buffers as all get it; one rank sends nothing.
    fn exchange(&mut self, all: &[Array1<f64>]) -> Array1<f64> {
        let (world, n) = (all.len(), all[0].len());
        if world == 1 {
            return all[0].clone();
        }
        let (padded, chunk) = (self.worker[0].len(), self.server[0].len());
        let filled = |x: &Array1<f64>| {
            let mut filled = Array1::zeros(padded);
            filled.slice_mut(s![..n]).assign(x);
            filled
        };
        let sent: Vec<_> =
            all.iter().zip(&mut self.worker).map(|(x, error)| Errors::compress(&filled(x), error)).collect();
        let mut result = Array1::zeros(padded);
        for (server, error) in self.server.iter_mut().enumerate() {
            let part = s![server * chunk..(server + 1) * chunk];
            let parts = sent.iter().map(|x| x.slice(part).to_owned() / world as f64);
            let sum = parts.reduce(|sum, other| sum + other).unwrap();
            result.slice_mut(part).assign(&Errors::compress(&sum, error));
        }
        result.slice(s![..n]).to_owned()
    }
}

/// All ranks, tensor by tensor.
trait Literal {
    fn step(&mut self, t: usize);
    /// Returns what a rank has of a tensor, and the names of the states that are compared.
    fn of(&self, rank: usize, tensor: usize) -> Vec<(&'static str, &Array1<f64>)>;
}

struct LambTensor {
    p: Array1<f64>,
    m: Array1<f64>,
    v: Array1<f64>,
    fresh: Array1<f64>,
    steps: u64,
    coefficient: f64,
    factor: f64,
    scaling: f64,
    mask: Array1<f64>,
}

struct Lamb {
    o: OnebitLamb,
    world: usize,
    tensors: Vec<LambTensor>,
    errors: Errors,
    initialized: bool,
    frozen: bool,
}

impl Lamb {
    fn new(world: usize, masked: bool) -> Lamb {
        let tensor = |tensor: usize| {
            let zero = Array1::zeros(LENGTHS[tensor]);
            LambTensor {
                p: start(tensor).into_iter().map(f64::from).collect(),
                m: zero.clone(),
                v: zero.clone(),
                fresh: zero,
                steps: 0,
                coefficient: 0.0,
                factor: 1.0,
                scaling: 0.0,
                mask: mask(tensor, masked),
            }
        };
        let errors = Errors::new(LENGTHS.iter().sum(), world);
        let tensors = (0..3).map(tensor).collect();
        Lamb { o: lamb(), world, tensors, errors, initialized: false, frozen: false }
    }

    /// Returns the momenta of all tensors in one piece, each rank's with its own gradient.
    fn momenta(&mut self, t: usize) -> Vec<Array1<f64>> {
        let (world, betas) = (self.world, self.o.betas);
        if self.tensors[0].scaling == 0.0 {
            let scales: Vec<f64> =
                self.tensors.iter().map(|x| norm(&x.m) / (x.m.len() as f64).sqrt()).collect();
            let united = scales.iter().sum::<f64>() / scales.len() as f64;
            self.tensors.iter_mut().zip(scales).for_each(|(x, scale)| x.scaling = united / scale);
        }
        let own = |rank: usize| {
            let of = |(tensor, x): (usize, &LambTensor)| {
                (&x.m * betas.0 + own_gradient(rank, t, tensor) * (1.0 - betas.0)) * x.scaling
            };
            self.tensors.iter().enumerate().flat_map(|x| of(x).to_vec()).collect()
        };
        (0..world).map(own).collect()
    }
}

impl Literal for Lamb {
    fn step(&mut self, t: usize) {
        let (o, frozen) = (self.o.clone(), self.frozen);
        let last: Vec<Array1<f64>> = self.tensors.iter().map(|x| x.m.clone()).collect();
        if frozen {
            let momenta = self.momenta(t);
            let united = self.errors.exchange(&momenta);
            let mut from = 0;
            for x in &mut self.tensors {
                x.m = united.slice(s![from..from + x.m.len()]).to_owned() / x.scaling * &x.mask;
                from += x.m.len();
            }
        }
        for (tensor, (x, last)) in self.tensors.iter_mut().zip(last).enumerate() {
            x.steps += 1;
            if !self.initialized {
                continue;
            }
            if frozen {
                let rebuilt = (&x.m - last * o.betas.0) / (1.0 - o.betas.0);
                x.fresh = &x.fresh * o.betas.1 + &rebuilt * &rebuilt * (1.0 - o.betas.1);
            } else {
                let g = mean(self.world, t, tensor);
                x.m = &x.m * o.betas.0 + &g * (1.0 - o.betas.0);
                x.v = &x.v * o.betas.1 + &g * &g * (1.0 - o.betas.1);
                if x.steps == o.freeze_step {
                    x.fresh = x.v.clone();
                }
            }
            let denominator = x.v.mapv(f64::sqrt) + o.eps;
            let direction = &x.m / &denominator;
            let update = &direction + &(&x.p * o.weight_decay);
            let coefficient = if frozen {
                let ratios = &denominator / &(x.fresh.mapv(f64::sqrt) + o.eps);
                let share = (norm(&direction) / norm(&update)).min(1.0);
                let factor = ratios.fold(f64::MIN, |most, &x| most.max(x)) * share + (1.0 - share);
                let factor = factor.min(o.factor_max).max(o.factor_min);
                let (least, most) =
                    (x.factor * (1.0 - o.factor_threshold), x.factor * (1.0 + o.factor_threshold));
                x.factor = factor.min(most).max(least);
                x.coefficient * x.factor
            } else {
                let ratio = (norm(&x.p) / norm(&update)).min(o.max_coeff).max(o.min_coeff);
                x.coefficient = o.coeff_beta * x.coefficient + (1.0 - o.coeff_beta) * ratio;
                ratio
            };
            x.p = &x.p - &(update * (o.lr * coefficient));
        }
        self.frozen |= self.initialized && self.tensors[2].steps >= o.freeze_step;
        self.initialized = true;
    }

    fn of(&self, _rank: usize, tensor: usize) -> Vec<(&'static str, &Array1<f64>)> {
        let x = &self.tensors[tensor];
        vec![("", &x.p), ("m", &x.m), ("v", &x.v), ("v_fresh", &x.fresh)]
    }
}

/// A tensor of ZeroOneAdam: parameters and momenta are each rank's.
struct ZeroOneTensor {
    p: Vec<Array1<f64>>,
    m: Vec<Array1<f64>>,
    u: Vec<Array1<f64>>,
    v: Array1<f64>,
    steps: u64,
    variance: (u64, u64),
    local: (u64, u64),
    rates: f64,
    errors: Errors,
    mask: Array1<f64>,
}

struct ZeroOne {
    o: ZeroOneAdam,
    world: usize,
    tensors: Vec<ZeroOneTensor>,
    initialized: bool,
    frozen: bool,
    averages: bool,
}

impl ZeroOne {
    fn new(world: usize, masked: bool) -> ZeroOne {
        let tensor = |tensor: usize| {
            let zeros = vec![Array1::zeros(LENGTHS[tensor]); world];
            ZeroOneTensor {
                p: vec![start(tensor).into_iter().map(f64::from).collect(); world],
                m: zeros.clone(),
                v: zeros[0].clone(),
                u: zeros,
                steps: 0,
                variance: (1, 0),
                local: (1, 0),
                rates: 0.0,
                errors: Errors::new(LENGTHS[tensor], world),
                mask: mask(tensor, masked),
            }
        };
        let tensors = (0..3).map(tensor).collect();
        ZeroOne { o: zero_one(), world, tensors, initialized: false, frozen: false, averages: true }
    }

    fn is_parted(&self, tensor: usize) -> bool {
        self.world > 1 && self.tensors[tensor].rates > 0.0
    }
}

impl Literal for ZeroOne {
    fn step(&mut self, t: usize) {
        let (o, world) = (self.o.clone(), self.world);
        let mut last = None;
        for (tensor, x) in self.tensors.iter_mut().enumerate().filter(|(i, _)| !absent(t, *i)) {
            x.steps += 1;
            if !self.initialized {
                continue;
            }
            let given = |rank: usize| match self.averages || world == 1 {
                true => mean(world, t, tensor),
                false => own_gradient(rank, t, tensor),
            };
            let gradients: Vec<_> = (0..world).map(given).collect();
            let takes = |m: &Array1<f64>, g: &Array1<f64>| m * o.betas.0 + g * (1.0 - o.betas.0);
            let adapts = x.steps.is_multiple_of(x.variance.0) && (self.averages || world == 1);
            if !self.frozen && adapts {
                let g = &gradients[0];
                x.m.iter_mut().for_each(|m| *m = takes(m, g));
                x.v = &x.v * o.betas.1 + g * g * (1.0 - o.betas.1);
                x.variance.1 += 1;
                if x.variance.1 == o.var_update_scaler {
                    x.variance = (2 * x.variance.0, 0);
                }
            } else if !self.frozen && world > 1 {
                let g = x.errors.exchange(&gradients) * &x.mask;
                x.m.iter_mut().for_each(|m| *m = takes(m, &g));
            } else if self.frozen {
                x.m.iter_mut().zip(&gradients).for_each(|(m, g)| *m = takes(m, g));
                x.rates += o.lr;
            }
            let root = x.v.mapv(f64::sqrt) + o.eps;
            for ((p, m), u) in x.p.iter_mut().zip(&x.m).zip(&mut x.u) {
                let d = (m / &root + &*p * o.weight_decay) * o.lr;
                *p -= &d;
                if self.frozen {
                    *u -= &d;
                }
            }
            if self.frozen {
                if x.steps.is_multiple_of(x.local.0) {
                    let sent: Vec<_> = x.u.iter().map(|u| u * &root).collect();
                    let mut back = x.errors.exchange(&sent);
                    if world > 1 {
                        back *= &x.mask;
                    }
                    for ((p, m), u) in x.p.iter_mut().zip(&mut x.m).zip(&mut x.u) {
                        *p = &*p - &*u + &back / &root;
                        *m = &back / -x.rates;
                        u.fill(0.0);
                    }
                    x.rates = 0.0;
                }
                x.local.1 += 1;
                if x.local.1 == o.local_step_scaler {
                    x.local = ((2 * x.local.0).min(o.local_step_clipper), 0);
                }
            }
            last = Some((x.steps + 1).is_multiple_of(x.variance.0));
        }
        self.averages = last.unwrap_or(self.averages);
        let first = self.tensors.iter().enumerate().find(|(i, _)| !absent(t, *i)).unwrap().1;
        if self.initialized && !self.frozen && first.steps > o.var_freeze_step {
            self.frozen = true;
            self.tensors.iter_mut().enumerate().for_each(|(i, x)| x.errors = Errors::new(LENGTHS[i], world));
        }
        self.averages &= !self.frozen;
        self.initialized = true;
    }

    fn of(&self, rank: usize, tensor: usize) -> Vec<(&'static str, &Array1<f64>)> {
        let x = &self.tensors[tensor];
        vec![("", &x.p[rank]), ("m", &x.m[rank]), ("v", &x.v), ("u", &x.u[rank])]
    }
}

/// Runs one step of the engine, on this rank.
fn step(ranks: &dyn Communicator, optimizer: &mut Driver, params: &mut [Vec<f64>], t: usize, gaps: bool) {
    let (rank, world) = (ranks.rank(), ranks.world_size());
    let of = |tensor: usize| match optimizer.averages() {
        true => mean(world, t, tensor).to_vec(),
        false => own_gradient(rank, t, tensor).to_vec(),
    };
    let grads: Vec<_> = (0..3).map(|i| (!gaps || !absent(t, i)).then(|| of(i))).collect();
    let names = names();
    let bound = names.iter().zip(params).zip(&grads);
    let mut bindings: Vec<Binding<'_>> = bound.map(|((name, p), g)| param(name, p, g.as_ref())).collect();
    optimizer.step(&mut bindings).unwrap();
}

fn restore(optimizer: &mut Driver, params: &mut [Vec<f64>]) {
    let names = names();
    let mut bindings: Vec<_> = names.iter().zip(params).map(|(name, p)| frozen(name, p)).collect();
    optimizer.restore_params(&mut bindings).unwrap();
}

fn close(got: &[f64], expected: &Array1<f64>, what: impl Fn() -> String) {
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() <= TOLERANCE, "{}[{i}]: {got} is not {expected}", what());
    }
}

fn build(name: &str, masked: bool, ranks: &Arc<dyn Communicator>) -> Driver {
    let algorithm: Box<dyn AnyAlgorithm> = match name {
        "OnebitLamb" => Box::new(Linked::<OnebitLamb, Native>::new(lamb()).unwrap()),
        _ => Box::new(Linked::<ZeroOneAdam, Native>::new(zero_one()).unwrap()),
    };
    driver(algorithm, masked, ranks)
}

/// Returns whether all ranks' bits are those of rank 0.
fn same_on_all(ranks: &dyn Communicator, bytes: &[u8]) -> bool {
    let mut first = bytes.to_vec();
    ranks.broadcast(0, &mut first).unwrap();
    first == bytes
}

fn bytes_of(params: &[Vec<f64>]) -> Vec<u8> {
    params.iter().flatten().flat_map(|x| x.to_le_bytes()).collect()
}

/// All steps are the literal algorithm's. After each of them the run is saved, and what is loaded resumes bit for
/// bit.
pub fn trajectories(ranks: &Arc<dyn Communicator>) {
    let (rank, world) = (ranks.rank(), ranks.world_size());
    for (name, masked) in
        [("OnebitLamb", false), ("OnebitLamb", true), ("ZeroOneAdam", false), ("ZeroOneAdam", true)]
    {
        // OnebitLamb's source does not take gaps.
        let gaps = name == "ZeroOneAdam";
        let mut zero_one = ZeroOne::new(world, masked);
        let mut lamb = Lamb::new(world, masked);
        let mut optimizer = build(name, masked, ranks);
        let mut params: Vec<Vec<f64>> =
            (0..3).map(|i| start(i).into_iter().map(f64::from).collect()).collect();
        let (mut alone, mut averaged) = (0, 0);
        for t in 1..=STEPS {
            let place = || format!("{name}, masked: {masked}, step {t}, rank {rank} of {world}");
            averaged += usize::from(optimizer.averages());
            step(&**ranks, &mut optimizer, &mut params, t, gaps);
            let literal: &mut dyn Literal = if gaps { &mut zero_one } else { &mut lamb };
            literal.step(t);
            for (i, tensor) in names().iter().enumerate() {
                for (state, expected) in literal.of(rank, i) {
                    let what = || format!("{}: {tensor}/{state}", place());
                    match state {
                        "" => close(&params[i], expected, what),
                        _ => close(&optimizer.state(tensor, state).unwrap().unwrap(), expected, what),
                    }
                }
            }
            let mut given = params.clone();
            for (i, tensor) in names().iter().enumerate() {
                let diverged = gaps && zero_one.is_parted(i);
                assert_eq!(optimizer.has_diverged(tensor), diverged, "{}: {tensor}", place());
                alone += usize::from(diverged);
                if diverged {
                    given[i].iter_mut().for_each(|x| *x += 1.0);
                } else {
                    assert!(same_on_all(&**ranks, &bytes_of(&params[i..=i])), "{}: other bits", place());
                }
            }

            // All ranks save the same file, from which a rank gets its own back.
            let saved = optimizer.save().unwrap().to_bytes().unwrap();
            assert!(same_on_all(&**ranks, &saved), "{}: another checkpoint", place());
            let mut resumed = build(name, masked, ranks);
            resumed.load(&Checkpoint::from_bytes(&saved).unwrap()).unwrap();
            restore(&mut resumed, &mut given);
            assert!(bytes_of(&given) == bytes_of(&params), "{}: other parameters", place());
            assert!(resumed.save().unwrap().to_bytes().unwrap() == saved, "{}: saved as loaded", place());
            if t % 3 == 0 {
                optimizer = resumed;
            }
        }
        assert!(!gaps || world == 1 || (alone > 5 && averaged > 4), "{alone} {averaged}");
    }
}

/// Checkpoints of ZeroOneAdam between two exchanges, and other numbers of ranks: everybody begins from the mean.
pub fn other_worlds(ranks: &Arc<dyn Communicator>) {
    let (rank, world) = (ranks.rank(), ranks.world_size());
    let single: Arc<dyn Communicator> = Arc::new(fallline_core::ranks::SelfComm);
    let begin = || (0..3).map(|i| start(i).into_iter().map(f64::from).collect()).collect::<Vec<Vec<f64>>>();
    // As far as two steps behind an exchange.
    const AT: usize = 18;
    let (mut optimizer, mut params) = (build("ZeroOneAdam", false, ranks), begin());
    (1..=AT).for_each(|t| step(&**ranks, &mut optimizer, &mut params, t, false));
    assert_eq!(optimizer.has_diverged("p0"), world > 1);
    let saved = optimizer.save().unwrap();

    // One rank.
    let mut mean = params.clone();
    for values in &mut mean {
        ranks.all_reduce(values.as_mut_slice().into(), fallline_core::ranks::Reduction::Mean).unwrap();
    }
    let (mut one, mut own) = (build("ZeroOneAdam", false, &single), mean.clone());
    one.load(&saved).unwrap();
    restore(&mut one, &mut own);
    assert_eq!(own, mean);
    let at_one = one.save().unwrap();
    step(&*single, &mut one, &mut own, AT + 1, false);
    if world == 1 {
        return;
    }

    // A step on anything else than what was saved is refused.
    let mut forgotten = build("ZeroOneAdam", false, ranks);
    forgotten.load(&saved).unwrap();
    let error = forgotten.step(&mut []).unwrap_err().to_string();
    assert!(error.contains("restore_params"), "{error}");
    let error = forgotten.restore_params(&mut []).unwrap_err().to_string();
    assert!(error.contains("\"p0\" is to be restored, but is not bound"), "{error}");

    // All ranks from the checkpoint of one, and from that of another number: the same parameters, momenta and steps.
    let mut manifest = saved.clone();
    manifest.manifest.ranks = Some(world + 1);
    for (checkpoint, whose) in [(&at_one, "one"), (&manifest, "another number")] {
        let (mut several, mut theirs) = (build("ZeroOneAdam", false, ranks), mean.clone());
        several.load(checkpoint).unwrap();
        restore(&mut several, &mut theirs);
        for (got, mean) in theirs.iter().zip(&mean) {
            close(got, &Array1::from(mean.clone()), || format!("from {whose}, rank {rank} of {world}"));
        }
        assert!(same_on_all(&**ranks, &bytes_of(&theirs)), "from {whose}: other bits");
        for t in AT + 1..=AT + 2 {
            step(&**ranks, &mut several, &mut theirs, t, false);
        }
        assert!(
            !several.has_diverged("p0") && same_on_all(&**ranks, &bytes_of(&theirs)),
            "from {whose}: later"
        );
    }
}
