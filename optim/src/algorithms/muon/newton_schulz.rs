//! The Newton–Schulz iteration of Muon, in the form that costs least.

use super::MuonMomentumRule;
use super::pair::{MuonPairRule, Pair};
use crate::op::{OpAt, Runner, Workspace};
use core::any::Any;
use core::mem::swap;
use fallline_core::backend::{Gemm, Matrix, View};
use fallline_core::{Format, Kernel, Link, Result, Storage, rule};

/// Iterations of the Gram form between two returns to the matrix, in `f32` and `f64`, and in `bf16`. Q grows by up to
/// a in each, and what is rounded off it with it, so that `f32` keeps five decimal digits over five.
const RESTART: (u64, u64) = (5, 3);

/// What Q may grow by between two returns where steps have coefficients of their own, in `f32` and `f64`, and in `bf16`.
/// Steep first steps, as Polar Express has them, leave an ill-conditioned matrix fewer digits than even ones do. So five of
/// its steps return once, as five of theirs would in `bf16`: 8.2 · 4.1 · 3.9 is 132, and 3.4445³ is 40.9.
const GROWTH: (f64, f64) = (150.0, 41.0);

/// The least norm that a matrix is divided by before the iteration, where it is no hyperparameter.
pub(in crate::algorithms) const LEAST_NORM: f64 = 1e-7;

/// The smaller side from which on two steps are taken as one: below, the pass in between costs what the product saves.
const WORTH_PAIRS: usize = 256;

/// What a matrix is divided by at least.
#[derive(Clone, Copy, Debug)]
pub struct LeastNorm {
    eps: f64,
}

impl LeastNorm {
    pub(super) fn new(eps: f64) -> LeastNorm {
        LeastNorm { eps }
    }

    pub(super) fn eps(&self) -> f64 {
        self.eps
    }
}

rule! {
    /// A matrix divided by its norm.
    pub MuonNormRule(h: LeastNorm, t) {}
    per_tensor(norm) reads MuonMomentumRule(norm2) {
        each(at) {
            let eps = h.eps;
        }
        tensor {
            let root = norm2.sqrt();
            // Not `max`: it would hide that the norm is not a number.
            let norm = N::select(root.lt(eps), eps, root);
        }
    }
    element(from: Scratch) -> (x: Scratch) {
        x = from / norm;
    }
}

rule! {
    /// A number added to a matrix's diagonal.
    pub MuonShiftRule(h: (), t) {}
    per_tensor(a)
    element() -> (x: Scratch) {
        x = x + a;
    }
}

/// Which form of the iteration is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::algorithms) enum Form {
    /// On the Gram matrix.
    Gram,
    /// On the matrix, as papers have it.
    Standard,
}

impl Form {
    /// Returns what `ns_method` says; of none, and of what [`check`](Form::check) refuses, the shape decides.
    pub(in crate::algorithms) fn named(name: Option<&str>) -> Option<Form> {
        match name? {
            "gram" | "gram_newton_schulz" => Some(Form::Gram),
            "standard" | "newton_schulz" => Some(Form::Standard),
            _ => None,
        }
    }

    /// Checks `ns_method`.
    pub(in crate::algorithms) fn check(name: Option<&str>) -> core::result::Result<(), String> {
        match name {
            Some(other) if Form::named(name).is_none() => {
                Err(format!("ns_method must be None, gram or standard, got {other:?}"))
            }
            _ => Ok(()),
        }
    }
}

/// `steps` times `X ← a X + (b A + c A²) X` with `A = X Xᵀ`, on matrices of this shape.
#[derive(Clone, Copy, Debug)]
pub(in crate::algorithms) struct NewtonSchulz<'a> {
    pub(in crate::algorithms) rows: usize,
    pub(in crate::algorithms) columns: usize,
    /// a, b, c of each step, the last ones also of all that follow.
    pub(in crate::algorithms) coefficients: &'a [(f64, f64, f64)],
    /// Whether the first ones come behind the last ones instead.
    pub(in crate::algorithms) cycles: bool,
    pub(in crate::algorithms) steps: u64,
    /// How X and the products are stored between two of them.
    pub(in crate::algorithms) format: Format,
    /// The form; without one the shape decides.
    pub(in crate::algorithms) form: Option<Form>,
}

impl NewtonSchulz<'_> {
    /// Returns the rules that it runs.
    pub(in crate::algorithms) fn rules<K: Link>() -> Vec<&'static Kernel> {
        vec![K::kernel::<MuonNormRule>(), K::kernel::<MuonShiftRule>(), K::kernel::<MuonPairRule>()]
    }

    /// Iterates on the scratch, divided by its norm or `eps` to begin with, and puts the result there.
    pub(in crate::algorithms) fn run<K: Link>(&self, at: &mut OpAt<'_>, eps: f64) -> Result<()> {
        let elements = self.rows * self.columns;
        if elements == 0 {
            return Ok(());
        }
        let on = at.on;
        let narrow = self.format != on.compute.format();
        let mut x = at.take_as(self.format, elements)?;
        let mut other = if narrow { Some(at.take_as(self.format, elements)?) } else { None };
        let reading = at.reading();
        let scratch = at.scratch.get_mut("x")?;
        let (divide, least) = (K::kernel::<MuonNormRule>(), LeastNorm { eps });
        let views = &mut [Some(View::write(&mut x)), Some(View::read(scratch))];
        on.run_reading(reading, divide, &least, views)?;
        // What was divided is of no more use.
        let y = other.as_mut().unwrap_or(scratch);
        self.iterate::<K>(on, at.workspace, &mut x, y)?;
        let scratch = at.scratch.get_mut("x")?;
        if narrow {
            let views = &mut [Some(View::write(scratch)), Some(View::read(&x))];
            on.run(divide, &least, &[1.0], views)?;
        } else {
            swap(scratch, &mut x);
        }
        at.workspace.release([x].into_iter().chain(other));
        Ok(())
    }

    /// Iterates on x, with y for what is between.
    pub(super) fn iterate<K: Link>(
        &self,
        on: Runner<'_>,
        workspace: &mut Workspace,
        x: &mut Storage,
        y: &mut Storage,
    ) -> Result<()> {
        let pair = self.pair();
        let gram = match self.form {
            Some(form) => form == Form::Gram,
            None => self.prefers_gram(pair.is_some()),
        };
        match gram {
            true => self.gram_form::<K>(on, workspace, x, y),
            false => self.plain::<K>(on, workspace, pair, [x, y]),
        }
    }

    fn small(&self) -> usize {
        self.rows.min(self.columns)
    }

    /// Returns the coefficients of a step, from 0.
    fn of_step(&self, step: u64) -> (f64, f64, f64) {
        let last = self.coefficients.len().saturating_sub(1);
        let place = usize::try_from(step).map_or(last, |step| match self.cycles {
            true => step % (last + 1),
            false => step.min(last),
        });
        self.coefficients.get(place).copied().unwrap_or((1.0, 0.0, 0.0))
    }

    /// Returns how many steps, from this one on, the Gram form takes before it returns to the matrix.
    fn until_restart(&self, first: u64) -> u64 {
        let (most, limit) =
            if self.format == Format::Bf16 { (RESTART.1, GROWTH.1) } else { (RESTART.0, GROWTH.0) };
        // Where the shape chooses, earlier versions count alone, and their bits stay.
        let counts = self.coefficients.len() < 2 || (self.form.is_none() && self.format != Format::Bf16);
        let mut growth = 1.0;
        let fits = |&step: &u64| {
            growth *= self.of_step(first + step).0;
            counts || step == 0 || growth <= limit
        };
        (0..most).take_while(fits).count() as u64
    }

    /// Returns two steps as one, where all have the same coefficients. `bf16` has not the digits that this takes,
    /// and `f64` is for those who want all of them.
    fn pair(&self) -> Option<Pair> {
        let wanted = self.format == Format::F32 && self.steps >= 2 && self.small() >= WORTH_PAIRS;
        match self.coefficients {
            &[coefficients] if wanted => Pair::of(coefficients),
            _ => None,
        }
    }

    /// Returns whether the iteration on the Gram matrix is taken. In products of m × m matrices, of which symmetric
    /// ones cost half, five steps on m × rm cost 7.5 r + 2.5 in the plain form. They cost 4.5 r + 4.5 with two of
    /// them as one, and 1.5 r + 8.5 in the other form. That is the less exact one, so it must be worth it.
    fn prefers_gram(&self, pairs: bool) -> bool {
        let (large, small) = (self.rows.max(self.columns), self.small());
        if pairs { 2 * large >= 3 * small } else { 4 * large >= 5 * small }
    }

    /// Computes `c = X Xᵀ`; of tall matrices `Xᵀ X`, which does the same from the other side.
    fn gram(&self, on: Runner<'_>, x: &Storage, c: &mut Storage) -> Result<()> {
        let x = Matrix::new(x, self.rows, self.columns);
        let (a, b) = if self.rows > self.columns { (x.transpose(), x) } else { (x, x.transpose()) };
        on.backend.linalg().gemm(Gemm { symmetric: true, ..Gemm::new(a, b, c) })
    }

    /// Computes `c = factor · product + scale · add` of m × m matrices that commute: all of them are polynomials of
    /// one symmetric matrix, so their products are symmetric too.
    fn symmetric(
        &self,
        on: Runner<'_>,
        (factor, a, b): (f64, &Storage, &Storage),
        (scale, add): (f64, Option<&Storage>),
        c: &mut Storage,
    ) -> Result<()> {
        let square = |storage| Matrix::new(storage, self.small(), self.small());
        // The left one as its own transpose: its columns are contiguous, as are the right one's, and one that is both
        // is packed once.
        let product = Gemm::new(square(a).transpose(), square(b), c);
        let add = add.map(square);
        on.backend.linalg().gemm(Gemm { alpha: factor, beta: scale, c_in: add, symmetric: true, ..product })
    }

    /// Computes `y = F X + scale · X`; of tall matrices `X F + scale · X`.
    fn apply(
        &self,
        on: Runner<'_>,
        factor: &Storage,
        scale: f64,
        x: &Storage,
        y: &mut Storage,
    ) -> Result<()> {
        let x = Matrix::new(x, self.rows, self.columns);
        let factor = Matrix::new(factor, self.small(), self.small());
        let (a, b) = if self.rows > self.columns { (x, factor) } else { (factor.transpose(), x) };
        on.backend.linalg().gemm(Gemm { beta: scale, c_in: Some(x), ..Gemm::new(a, b, y) })
    }

    /// Runs the iteration as the paper has it, two steps at once where there is a pair.
    fn plain<K: Link>(
        &self,
        on: Runner<'_>,
        workspace: &mut Workspace,
        pair: Option<Pair>,
        [x, y]: [&mut Storage; 2],
    ) -> Result<()> {
        let size = self.small() * self.small();
        let mut take = || workspace.acquire(on.backend, self.format, size);
        let (mut gram, mut polynomial) = (take()?, take()?);
        let mut powers =
            pair.map(|pair| Ok::<_, fallline_core::Error>((pair, take()?, take()?))).transpose()?;
        let mut left = self.steps;
        while left > 0 {
            self.gram(on, x, &mut gram)?;
            let constant = match &mut powers {
                Some((pair, n, k)) if left > 1 => {
                    self.pair_of::<K>(on, pair, &mut gram, [&mut polynomial, n, k])?;
                    swap(&mut gram, &mut polynomial);
                    left -= 2;
                    pair.constant
                }
                _ => {
                    let (a, b, c) = self.of_step(self.steps - left);
                    self.symmetric(on, (c, &gram, &gram), (b, Some(&gram)), &mut polynomial)?;
                    left -= 1;
                    a
                }
            };
            self.apply(on, &polynomial, constant, x, y)?;
            swap(x, y);
        }
        workspace
            .release([gram, polynomial].into_iter().chain(powers.into_iter().flat_map(|(_, n, k)| [n, k])));
        Ok(())
    }

    /// Computes the polynomial of two steps in place of the Gram matrix, but for its constant.
    fn pair_of<K: Link>(
        &self,
        on: Runner<'_>,
        pair: &Pair,
        gram: &mut Storage,
        [m, n, k]: [&mut Storage; 3],
    ) -> Result<()> {
        let [alpha, beta, gamma] = pair.powers;
        self.symmetric(on, (alpha, gram, gram), (beta, Some(gram)), m)?;
        self.symmetric(on, (1.0, gram, m), (gamma, Some(gram)), n)?;
        self.symmetric(on, (1.0, n, n), (0.0, None), k)?;
        let mut views = [View::write(m), View::write(n), View::write(k), View::read(gram)].map(Some);
        on.run(K::kernel::<MuonPairRule>(), &() as &dyn Any, &pair.combined, &mut views)?;
        self.symmetric(on, (1.0, k, n), (1.0, Some(m)), gram)
    }

    /// Runs the iteration on the Gram matrix. With `Z = b A + c A²` a step is `X ← (a I + Z) X`, so that
    ///
    /// ```text
    /// A ← (a I + Z) A (a I + Z) = a S + S Z        with S = a A + A Z
    /// Q ← Q (a I + Z)
    /// X ← Q X                                      once, in the end
    /// ```
    ///
    /// All of them commute. In `bf16` a Q of norm q is off by q · 2⁻⁹. That shows where it takes all of a direction's
    /// size away, and in all elements alike. So a matrix of equal entries may be a third too small or too large.
    fn gram_form<K: Link>(
        &self,
        on: Runner<'_>,
        workspace: &mut Workspace,
        x: &mut Storage,
        y: &mut Storage,
    ) -> Result<()> {
        let size = self.small();
        let mut take = || workspace.acquire(on.backend, self.format, size * size);
        let (mut gram, mut z, mut q, mut s) = (take()?, take()?, take()?, take()?);
        let mut left = self.steps;
        while left > 0 {
            let steps = left.min(self.until_restart(self.steps - left));
            self.gram(on, x, &mut gram)?;
            for k in 1..=steps {
                let (a, b, c) = self.of_step(self.steps - left + k - 1);
                self.symmetric(on, (c, &gram, &gram), (b, Some(&gram)), &mut z)?;
                if k < steps {
                    self.symmetric(on, (1.0, &gram, &z), (a, Some(&gram)), &mut s)?;
                    self.symmetric(on, (1.0, &s, &z), (a, Some(&s)), &mut gram)?;
                }
                if k == 1 {
                    swap(&mut q, &mut z);
                    on.run_on_diagonal(K::kernel::<MuonShiftRule>(), &() as &dyn Any, &[a], &mut q, size)?;
                } else {
                    self.symmetric(on, (1.0, &q, &z), (a, Some(&q)), &mut s)?;
                    swap(&mut q, &mut s);
                }
            }
            self.apply(on, &q, 0.0, x, y)?;
            swap(x, y);
            left -= steps;
        }
        workspace.release([gram, z, q, s]);
        Ok(())
    }
}
