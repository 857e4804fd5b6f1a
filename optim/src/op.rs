//! Operations between passes: what is not element by element.

mod largest;
mod slices;

use crate::compression::Errors;
use core::any::{Any, TypeId};
use core::cell::{Cell, OnceCell, RefCell};
use core::fmt;
use fallline_core::backend::{
    Computed, MatMul, Matrix, Pass, PassQueue, Placed, Plan, Queued, SharedNumbers, TensorPass, View, Views,
};
use fallline_core::between::Numbers;
use fallline_core::ranks::Communicator;
use fallline_core::{Backend, Compute, Error, Format, Kernel, Link, Result, Shape, Storage, TensorAt};
pub(crate) use slices::Slices;

/// An operation on one tensor: Newton–Schulz, factored moments, a compressed all-reduce.
pub trait TensorOp: 'static {
    /// The hyperparameters that it takes.
    type Hyper: 'static;
    /// Its name.
    const NAME: &'static str;
    /// What it does, for people: a formula or sentence a line.
    const FORMULAS: &'static [&'static str] = &[];
    /// The states that it works on and no rule has as an operand.
    const STATES: &'static [&'static str] = &[];

    /// The rules that it runs itself.
    fn rules<K: Link>() -> Vec<&'static Kernel> {
        Vec::new()
    }

    /// Works on one tensor.
    ///
    /// # Errors
    /// When the backend fails.
    fn run<K: Link>(hyper: &Self::Hyper, at: &mut OpAt<'_>) -> Result<()>;
}

/// An operation on all tensors of an optimizer together.
pub trait CollectiveOp: 'static {
    /// The hyperparameters that it takes: those of the first group.
    type Hyper: 'static;
    /// Its name.
    const NAME: &'static str;
    /// What it does, for people: a formula or sentence a line.
    const FORMULAS: &'static [&'static str] = &[];

    /// The rules that it runs itself.
    fn rules<K: Link>() -> Vec<&'static Kernel> {
        Vec::new()
    }

    /// Works on all tensors.
    ///
    /// # Errors
    /// When the backend or an exchange with other ranks fails.
    fn run<K: Link>(hyper: &Self::Hyper, at: &mut CollectiveAt<'_>) -> Result<()>;
}

/// An operation as plain data, made once for each [`Link`].
pub struct Op {
    /// Its name.
    pub name: &'static str,
    /// What it does, for people.
    pub formulas: &'static [&'static str],
    /// The states that it works on and no rule has as an operand.
    pub states: &'static [&'static str],
    id: fn() -> TypeId,
    rules: fn() -> Vec<&'static Kernel>,
    run: Run,
}

#[derive(Clone, Copy)]
enum Run {
    Tensor(fn(&dyn Any, &mut OpAt<'_>) -> Option<Result<()>>),
    Collective(fn(&dyn Any, &mut CollectiveAt<'_>) -> Option<Result<()>>),
}

impl Op {
    /// Erases an operation on one tensor.
    pub(crate) fn tensor<T: TensorOp, K: Link>() -> &'static Op {
        const {
            &Op {
                name: T::NAME,
                formulas: T::FORMULAS,
                states: T::STATES,
                id: TypeId::of::<T>,
                rules: T::rules::<K>,
                run: Run::Tensor(|hyper, at| Some(T::run::<K>(hyper.downcast_ref()?, at))),
            }
        }
    }

    /// Erases an operation on all tensors.
    pub(crate) fn collective<T: CollectiveOp, K: Link>() -> &'static Op {
        const {
            &Op {
                name: T::NAME,
                formulas: T::FORMULAS,
                states: &[],
                id: TypeId::of::<T>,
                rules: T::rules::<K>,
                run: Run::Collective(|hyper, at| Some(T::run::<K>(hyper.downcast_ref()?, at))),
            }
        }
    }

    /// The rules that it runs itself.
    pub fn rules(&self) -> Vec<&'static Kernel> {
        (self.rules)()
    }

    /// Whether all tensors take part in it together.
    pub fn is_collective(&self) -> bool {
        matches!(self.run, Run::Collective(_))
    }

    /// Works on one tensor; nothing, if it is an operation on all of them.
    pub(crate) fn run(&self, hyper: &dyn Any, at: &mut OpAt<'_>) -> Result<()> {
        match self.run {
            Run::Tensor(run) => run(hyper, at).unwrap_or_else(|| Err(self.stranger())),
            Run::Collective(_) => Ok(()),
        }
    }

    /// Works on all tensors; nothing, if it is an operation on one.
    pub(crate) fn run_on_all(&self, hyper: &dyn Any, at: &mut CollectiveAt<'_>) -> Result<()> {
        match self.run {
            Run::Tensor(_) => Ok(()),
            Run::Collective(run) => run(hyper, at).unwrap_or_else(|| Err(self.stranger())),
        }
    }

    fn stranger(&self) -> Error {
        Error::Unavailable(format!("{} was given the hyperparameters of another algorithm", self.name))
    }
}

impl PartialEq for Op {
    fn eq(&self, other: &Op) -> bool {
        (self.id)() == (other.id)()
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Op").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Storages by name.
#[derive(Debug)]
pub struct Named<'a>(pub(crate) &'a mut [(&'static str, Storage)]);

impl Named<'_> {
    /// The storage of a name.
    ///
    /// # Errors
    /// When the program has none of this name.
    pub fn get(&self, name: &str) -> Result<&Storage> {
        self.0
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, storage)| storage)
            .ok_or_else(|| missing(name))
    }

    /// The same, to write.
    ///
    /// # Errors
    /// As [`get`](Named::get).
    pub fn get_mut(&mut self, name: &str) -> Result<&mut Storage> {
        let found = self.0.iter_mut().find(|(known, _)| *known == name);
        found.map(|(_, storage)| storage).ok_or_else(|| missing(name))
    }

    /// Two of them, to write.
    ///
    /// # Errors
    /// As [`get`](Named::get); when both are the same.
    pub fn two(&mut self, names: [&str; 2]) -> Result<[&mut Storage; 2]> {
        let place =
            |name: &str| self.0.iter().position(|(known, _)| *known == name).ok_or_else(|| missing(name));
        let places = [place(names[0])?, place(names[1])?];
        let both = self.0.get_disjoint_mut(places).map_err(|_| missing(names[1]))?;
        Ok(both.map(|(_, storage)| storage))
    }
}

fn missing(name: &str) -> Error {
    Error::Unavailable(format!("the program of this algorithm has no state or scratch {name:?}"))
}

/// Returns the queue of a backend whose passes are queued.
///
/// # Errors
/// When it has none.
pub(crate) fn queue_of(backend: &dyn Backend) -> Result<&dyn PassQueue> {
    backend.require("a queued pass", backend.queue())
}

/// Where an operation runs its own passes and products.
#[derive(Clone, Copy, Debug)]
pub struct Runner<'a> {
    /// Where it is computed.
    pub backend: &'a dyn Backend,
    /// The type of states and scratch.
    pub compute: Compute,
    /// The step count, from 1.
    pub t: u64,
    pub(crate) plans: &'a Plans,
}

/// What the backend remembers for the passes of operations, in the order in which a step runs them: the next step runs
/// mostly the same.
#[derive(Default)]
pub(crate) struct Plans {
    all: RefCell<Vec<Plan>>,
    next: Cell<usize>,
}

impl Plans {
    /// Begins a step.
    pub(crate) fn begin(&self) {
        self.next.set(0);
    }

    /// Works with the next one.
    fn with<T>(&self, backend: &dyn Backend, work: impl FnOnce(&mut Plan) -> T) -> T {
        let place = self.next.replace(self.next.get() + 1);
        let mut all = self.all.borrow_mut();
        if all.len() <= place {
            all.push(backend.plan());
        }
        work(&mut all[place])
    }
}

impl fmt::Debug for Plans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plans").finish_non_exhaustive()
    }
}

/// The other ranks, for one tensor.
#[derive(Debug)]
pub struct Peers<'a> {
    /// The ranks that step together, where there are several.
    pub ranks: Option<&'a dyn Communicator>,
    /// What compressing for other ranks has left out so far of the parameter.
    pub errors: &'a mut Option<Errors>,
    /// What its momentum is multiplied by, where it has a [mask](crate::mask).
    pub mask: Option<&'a Storage>,
}

/// One tensor's part in an operation.
#[derive(Debug)]
pub struct OpAt<'a> {
    /// Where it runs passes and products.
    pub on: Runner<'a>,
    /// The parameter's extents.
    pub shape: &'a Shape,
    /// The parameter, as exactly as it is kept.
    pub param: Option<View<'a>>,
    /// The gradient, as it is stored.
    pub grad: Option<View<'a>>,
    /// What it is to be multiplied by.
    pub grad_scale: GradScale<'a>,
    /// The sums of the last pass before, by name.
    pub sums: Sums<'a>,
    /// What the algorithm remembers for the parameter, in the order of
    /// [`Algorithm::MEMORY`](crate::Algorithm::MEMORY).
    pub memory: &'a mut [f64],
    /// What it remembers for all parameters together, in the order of
    /// [`Algorithm::SHARED`](crate::Algorithm::SHARED).
    pub shared: &'a [f64],
    /// What it exchanges with other ranks.
    pub peers: Peers<'a>,
    /// The states.
    pub states: Named<'a>,
    /// The scratch.
    pub scratch: Named<'a>,
    /// Memory for the time of the operation.
    pub workspace: &'a mut Workspace,
}

/// One tensor's part in a [`CollectiveAt`].
#[derive(Debug)]
pub struct Member<'a> {
    /// The parameter's extents.
    pub shape: &'a Shape,
    /// As [`OpAt::memory`].
    pub memory: &'a mut [f64],
    /// The states.
    pub states: Named<'a>,
    /// As [`Peers::mask`].
    pub mask: Option<&'a Storage>,
}

/// All tensors' part in an operation that they take part in together, in the order of their names.
#[derive(Debug)]
pub struct CollectiveAt<'a> {
    /// Where they are.
    pub backend: &'a dyn Backend,
    /// The type of states.
    pub compute: Compute,
    /// As [`OpAt::shared`].
    pub shared: &'a [f64],
    /// The ranks that step together, where there are several.
    pub ranks: Option<&'a dyn Communicator>,
    /// What compressing all of them in one piece has left out so far.
    pub errors: &'a mut Option<Errors>,
    /// The tensors.
    pub tensors: Vec<Member<'a>>,
    /// Memory for the time of the operation.
    pub workspace: &'a mut Workspace,
}

/// Memory that operations borrow, kept between steps.
#[derive(Debug, Default)]
pub struct Workspace {
    free: Vec<Storage>,
    pub(crate) slices: Slices,
}

impl Workspace {
    /// Memory of this many elements, with anything in it.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn take(&mut self, backend: &dyn Backend, format: Format, elements: usize) -> Result<Storage> {
        let fits = |storage: &Storage| storage.len() == elements && storage.format() == format;
        // Always the same one, so that a step finds its memory where the one before had it.
        let fitting = (0..self.free.len()).filter(|&place| fits(&self.free[place]));
        match fitting.min_by_key(|&place| self.free[place].address()) {
            Some(place) => Ok(self.free.swap_remove(place)),
            None => Ok(backend.allocate(&[(format, elements)])?.remove(0)),
        }
    }

    /// Gives memory back for the next who takes some.
    pub fn give(&mut self, storages: impl IntoIterator<Item = Storage>) {
        self.free.extend(storages);
    }
}

/// The matrices over whose last two dimensions an operation works: how many, with how many rows and columns.
pub fn matrices(shape: &Shape) -> (usize, usize, usize) {
    match shape.extents() {
        [] => (1, 1, 1),
        [columns] => (1, 1, *columns),
        [batch @ .., rows, columns] => (batch.iter().product(), *rows, *columns),
    }
}

impl<'a> OpAt<'a> {
    /// Memory of this many elements, with anything in it.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn take(&mut self, elements: usize) -> Result<Storage> {
        self.take_as(self.on.compute.format(), elements)
    }

    /// What [`Runner::run_reading`] reads.
    pub fn reading(&self) -> Reading<'a> {
        Reading { sums: self.sums, scale: self.grad_scale, shape: self.shape }
    }

    /// The same, stored in another way than it is computed.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn take_as(&mut self, format: Format, elements: usize) -> Result<Storage> {
        self.workspace.take(self.on.backend, format, elements)
    }

    /// The first of every so many elements of the parameter and of its gradient, as computed, in two scratches.
    ///
    /// # Errors
    /// As [`Indexing::sum_rows`](fallline_core::backend::Indexing::sum_rows).
    pub fn take_slices(&mut self, every: usize, [param, grad]: [&str; 2]) -> Result<()> {
        for (from, to) in [(&self.param, param), (&self.grad, grad)] {
            let Some(from) = from else { continue };
            self.workspace.slices.take(self.on.backend, from.again(), every, self.scratch.get_mut(to)?)?;
        }
        Ok(())
    }
}

/// What an operation multiplies a gradient by.
#[derive(Clone, Copy, Debug)]
pub struct GradScale<'a> {
    pub(crate) known: f64,
    /// What is multiplied by that on the device.
    pub(crate) factor: Option<(&'a Storage, usize)>,
    pub(crate) backend: &'a dyn Backend,
}

impl GradScale<'_> {
    /// The number. Where gradients are clipped on a device this waits for it.
    ///
    /// # Errors
    /// When the device fails.
    pub fn get(&self) -> Result<f64> {
        Ok(self.known * self.factor()?)
    }

    /// What of it the host knows: all of it, but for a factor on the device.
    pub fn known(&self) -> f64 {
        self.known
    }

    /// What of it is on the device, fetched; 1 where nothing is.
    fn factor(&self) -> Result<f64> {
        let Some((storage, place)) = self.factor else { return Ok(1.0) };
        let mut values = vec![0.0; storage.len()];
        self.backend.read(storage, values.as_mut_slice().into())?;
        Ok(values[place])
    }
}

/// What the scalars of an operation's rule may follow from.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    sums: Sums<'a>,
    scale: GradScale<'a>,
    shape: &'a Shape,
}

/// Sums of the last pass, by name.
#[derive(Clone, Copy)]
pub struct Sums<'a> {
    pub(crate) names: &'static [&'static str],
    /// Which of the pass's tensors they are of, and of how many.
    pub(crate) tensor: usize,
    pub(crate) of: usize,
    pub(crate) found: Found<'a>,
    pub(crate) backend: &'a dyn Backend,
    /// All tensors' sums, once they were fetched.
    pub(crate) fetched: &'a OnceCell<Vec<f64>>,
}

/// Where sums are.
#[derive(Clone, Copy)]
pub(crate) enum Found<'a> {
    /// On the host: a row for each tensor.
    Known(&'a [f64]),
    /// Where the pass, if there was one, has left them on its device.
    Kept(Option<&'a Plan>),
}

impl fmt::Debug for Sums<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sums").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Sums<'_> {
    /// Which of the sums has a name.
    fn place(&self, name: &str) -> Result<usize> {
        let place = self.names.iter().position(|known| *known == name);
        place.ok_or_else(|| Error::Unavailable(format!("the pass before returns no sum {name:?}")))
    }

    /// A sum. On a device that keeps them this waits for it: where a rule's own scalar follows from it,
    /// [`run_reading`](Runner::run_reading) does not.
    ///
    /// # Errors
    /// When the pass before returns none of this name, or the device fails.
    pub fn get(&self, name: &str) -> Result<f64> {
        let missing = || Error::Unavailable(format!("the pass before returns no sum {name:?}"));
        let width = self.names.len();
        let place = self.place(name)?;
        let all = match self.found {
            Found::Known(all) => all,
            Found::Kept(plan) => match self.fetched.get() {
                Some(all) => all,
                None => {
                    let mut all = vec![0.0; self.of * width];
                    queue_of(self.backend)?.sums(plan.ok_or_else(missing)?, &mut all)?;
                    self.fetched.get_or_init(|| all)
                }
            },
        };
        all.get(self.tensor * width + place).copied().ok_or_else(missing)
    }
}

impl Runner<'_> {
    /// `c = alpha a b + beta c`, where c starts at element `c_start` of its storage.
    ///
    /// # Errors
    /// As [`LinearAlgebra::matmul`](fallline_core::backend::LinearAlgebra::matmul).
    pub fn multiply(
        &self,
        alpha: f64,
        (a, b): (Matrix<'_>, Matrix<'_>),
        beta: f64,
        c: &mut Storage,
        c_start: usize,
    ) -> Result<()> {
        self.backend.linalg().matmul(MatMul { alpha, beta, c_start, ..MatMul::new(a, b, c) })
    }

    /// Runs a rule over `views`, one for each operand of its, with the tensor's own scalars. Returns its sums.
    ///
    /// # Errors
    /// As [`Backend::run`].
    pub fn run(
        &self,
        kernel: &'static Kernel,
        hyper: &dyn Any,
        own: &[f64],
        views: &mut [Option<View<'_>>],
    ) -> Result<Vec<f64>> {
        let elements = views.first().and_then(Option::as_ref).map_or(0, View::len);
        let mut left = Some(views);
        self.pass(kernel, hyper, own, &mut |places| {
            for (place, view) in places.iter_mut().zip(left.take()?) {
                *place = view.take();
            }
            Some(TensorPass { elements, row: 0 })
        })
    }

    /// As [`run`](Runner::run), of a rule whose scalars follow from sums of the program's pass before the operation, from
    /// the gradient's scale ([`OpAt::grad_scale`], which it names `shared(factor)` and multiplies by what
    /// [`GradScale::known`] gives), from `hyper` and the parameter's extents: on a device that computes numbers nothing
    /// waits for them.
    ///
    /// # Errors
    /// When that pass returns no sum that the rule reads; as [`Backend::run`].
    pub fn run_reading<'v>(
        &self,
        Reading { sums, scale, shape }: Reading<'_>,
        kernel: &'static Kernel,
        hyper: &dyn Any,
        views: &mut [Option<View<'v>>],
    ) -> Result<()> {
        let between = &kernel.between;
        let declared = &between.declared;
        let mut each = vec![0.0; declared.each.len()];
        let (t, compute, memory, shared) = (self.t, self.compute, &mut [], &[]);
        let mut at = TensorAt { t, compute, shape, by_row: false, memory, shared, world: 1 };
        between.each(hyper, &mut at, &[], &mut each);
        let elements = views.first().and_then(Option::as_ref).map_or(0, View::len);
        let mut left = Some(views);
        let mut tensors = |places: &mut Views<'v>| {
            for (place, view) in places.iter_mut().zip(left.take()?) {
                *place = view.take();
            }
            Some(TensorPass { elements, row: 0 })
        };
        if declared.shared.len() > 1 {
            return Err(Error::Unavailable(format!(
                "{}: an operation's rule knows `factor` alone",
                kernel.name
            )));
        }
        // Without a factor on the device it is 1, which the device has nowhere.
        let known = declared.shared.is_empty() || scale.factor.is_some();
        if let (Found::Kept(before), true) = (sums.found, known) {
            let reads: Vec<usize> =
                declared.reads.iter().map(|name| sums.place(name)).collect::<Result<_>>()?;
            let places = [scale.factor.map_or(0, |(_, place)| place)];
            let computed = Computed {
                before,
                first: sums.tensor,
                reads: &reads,
                order: &[Placed { tensor: 0, group: 0 }],
                groups: 1,
                once: &[],
                each: &each,
                shared: scale.factor.map(|(storage, _)| SharedNumbers::Read(storage)),
                shared_places: &places[..declared.shared.len()],
                most: 0,
            };
            let queued = Queued { computed: Some(computed), factor: None };
            return self.pass_with(kernel, hyper, (&[], &mut []), Some(queued), &mut tensors);
        }
        let sums: Vec<f64> = declared.reads.iter().map(|name| sums.get(name)).collect::<Result<_>>()?;
        let mut own = vec![0.0; kernel.tensor_scalars.len()];
        let factor = [if declared.shared.is_empty() { 1.0 } else { scale.factor()? }];
        let shared = &factor[..declared.shared.len()];
        let from = Numbers { once: &[], each: &each, sums: &sums, totals: &[], shared };
        between.tensor(&from, &mut [], &mut own);
        self.pass_with(kernel, hyper, (&own, &mut []), None, &mut tensors)
    }

    /// Runs a rule of one operand over the diagonal of a `size × size` matrix.
    ///
    /// # Errors
    /// As [`Backend::run`].
    pub fn run_on_diagonal(
        &self,
        kernel: &'static Kernel,
        hyper: &dyn Any,
        own: &[f64],
        matrix: &mut Storage,
        size: usize,
    ) -> Result<()> {
        let own = own.repeat(size);
        // Every element is a tensor of its own, a row and one more apart.
        let (mut rest, mut skipped) = (Some(View::write(matrix)), 0);
        let mut left = size;
        self.pass(kernel, hyper, &own, &mut |places| {
            left = left.checked_sub(1)?;
            let (element, others) = rest.take()?.split(skipped).1.split(1);
            (places[0], rest, skipped) = (Some(element), Some(others), size);
            Some(TensorPass { elements: 1, row: 0 })
        })?;
        Ok(())
    }

    /// A pass over the tensors that a function gives, of a rule that is run on one tensor or has no sums.
    fn pass<'v>(
        &self,
        kernel: &'static Kernel,
        hyper: &dyn Any,
        own: &[f64],
        tensors: &mut dyn FnMut(&mut Views<'v>) -> Option<TensorPass>,
    ) -> Result<Vec<f64>> {
        let mut sums = vec![0.0; kernel.sums.len()];
        self.pass_with(kernel, hyper, (own, &mut sums), None, tensors)?;
        Ok(sums)
    }

    /// The same, perhaps with numbers that the device computes.
    fn pass_with<'v>(
        &self,
        kernel: &'static Kernel,
        hyper: &dyn Any,
        (own, sums): (&[f64], &mut [f64]),
        queued: Option<Queued<'_>>,
        tensors: &mut dyn FnMut(&mut Views<'v>) -> Option<TensorPass>,
    ) -> Result<()> {
        let mut row = vec![1.0; 1 + kernel.scalars.len()];
        kernel.compute_scalars(hyper, self.t, &mut row[1..]);
        self.plans.with(self.backend, |plan| {
            let pass = Pass {
                kernel,
                compute: self.compute,
                tensors,
                rows: &row,
                tensor_scalars: own,
                plan,
                sums,
                beside: &[],
            };
            match queued {
                Some(queued) => queue_of(self.backend)?.run_queued(pass, queued),
                None => self.backend.run(pass),
            }
        })
    }
}
