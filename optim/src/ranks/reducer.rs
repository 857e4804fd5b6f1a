//! Gradients of several ranks, averaged in buckets while the next ones are computed.

use super::{Buffer, Communicator, RankError, Reduction, check_equal};
use crate::{GradRef, Result};
use core::ops::Range;
use fallline_core::host::{Slice, SliceMut};
use fallline_core::{Format, Shape};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// As torch's DistributedDataParallel has it by default.
const BUCKET_BYTES: usize = 25 << 20;

/// Makes one gradient of those that the ranks have computed.
///
/// In every step all ranks [push](GradientReducer::push) the gradients of the same parameters in the same order. It is the
/// order of backward, from the last layer to the first. A background thread all-reduces full buckets while the
/// training loop computes the next ones; [`wait`](GradientReducer::wait) waits for the last. The first step exchanges
/// nothing before its end, when all ranks have compared names, shapes and types.
///
/// Gradients are sums over the ranks in the order of [`ranks`](fallline_core::ranks). Each is multiplied by its
/// weight first, in the gradient's type: the fraction of the global batch that the rank computed its mean over.
/// Nothing else may be exchanged on the same communicator between the first `push` and `wait`.
///
/// ```
/// use fallline_optim::ranks::{GradientReducer, Communicator, threads};
/// std::thread::scope(|scope| {
///     for rank in threads(2, std::time::Duration::from_secs(10)) {
///         scope.spawn(move || {
///             let own = [rank.rank() as f32; 3];
///             let mut reducer = GradientReducer::new(std::sync::Arc::new(rank)).unwrap();
///             reducer.push("fc.weight", &own, 0.5).unwrap();
///             let averaged = reducer.wait().unwrap();
///             assert_eq!(averaged.get("fc.weight").unwrap().get(0), 0.5);
///         });
///     }
/// });
/// ```
#[derive(Debug)]
pub struct GradientReducer {
    ranks: Arc<dyn Communicator>,
    bucket_bytes: usize,
    /// Gradients in the order in which they are given, since the first step.
    layout: Vec<Layout>,
    agreed: bool,
    /// How many this step has given.
    given: usize,
    open: Option<Bucket>,
    /// Buckets that wait for the end of the first step.
    held: Vec<Bucket>,
    sent: usize,
    /// The last step's, in order.
    done: Vec<Bucket>,
    free: Vec<Bucket>,
    places: HashMap<String, (usize, usize)>,
    worker: Worker,
}

#[derive(Debug, PartialEq)]
struct Layout {
    name: String,
    shape: Shape,
    format: Format,
}

/// Some gradients of one format, one after another, and behind them for each a number that is not 0 where a rank has it.
#[derive(Debug, Default)]
struct Bucket {
    values: Buffer,
    parts: Vec<Range<usize>>,
    /// Where they are in the layout.
    first: usize,
    present: Vec<bool>,
}

/// The thread that exchanges.
#[derive(Debug)]
struct Worker {
    to: Sender<Bucket>,
    back: Receiver<Result<Bucket, RankError>>,
}

impl GradientReducer {
    /// Creates an averager with buckets of 25 MiB.
    ///
    /// # Errors
    /// [`RankError::Failed`] when there is no thread to be had.
    pub fn new(ranks: Arc<dyn Communicator>) -> Result<GradientReducer> {
        GradientReducer::with_buckets(ranks, BUCKET_BYTES)
    }

    /// Returns an averager whose buckets are exchanged once they have so many bytes. The same on all ranks.
    ///
    /// # Errors
    /// [`RankError::Failed`] when there is no thread to be had.
    pub fn with_buckets(ranks: Arc<dyn Communicator>, bucket_bytes: usize) -> Result<GradientReducer> {
        let worker = Worker::start(Arc::clone(&ranks))?;
        let (layout, held, done, free, places) = Default::default();
        Ok(GradientReducer {
            ranks,
            bucket_bytes,
            layout,
            agreed: false,
            given: 0,
            open: None,
            held,
            sent: 0,
            done,
            free,
            places,
            worker,
        })
    }

    /// Takes the next gradient of this rank. Its values are copied, so the training loop may use the memory again.
    /// `weight` is the part of the batch that it is the mean over, `1 / world` where the batch is split evenly.
    /// [`None`] takes part as zeros, for a parameter that has no gradient on this rank; its shape is known after a
    /// step that had one.
    ///
    /// # Errors
    /// When it is not the gradient that the first step had at this place; a gradient on a device that the host does not
    /// reach.
    pub fn push<'g>(&mut self, name: &str, grad: impl Into<GradRef<'g>>, weight: f64) -> Result<()> {
        let grad = grad.into();
        let found = match &grad {
            GradRef::Host(slice, shape) => {
                Some((*slice, shape.clone().unwrap_or_else(|| Shape::from([slice.len()]))))
            }
            GradRef::Tensor(tensor) => match tensor.storage().memory().host() {
                Some(slice) => Some((slice, tensor.shape().clone())),
                None => {
                    return Err(self.wrong(format!("the gradient of {name:?} is not in the host's memory")));
                }
            },
            GradRef::Lent(_) => {
                return Err(self.wrong(format!("the gradient of {name:?} is not in the host's memory")));
            }
            #[cfg(feature = "ndarray")]
            GradRef::Strided(view) => Some((view.buffer(), view.shape().clone())),
            GradRef::Rows(_) => {
                let problem = format!("the gradient of {name:?} is row-sparse: ranks average whole ones");
                return Err(self.wrong(problem));
            }
            GradRef::None | GradRef::Window(_) | GradRef::Misshaped(_) => None,
        };
        let place = self.given;
        match (self.layout.get(place), &found) {
            (None, Some((slice, shape))) if !self.agreed => {
                let layout = Layout { name: name.to_owned(), shape: shape.clone(), format: slice.format() };
                self.layout.push(layout);
            }
            (None, None) if !self.agreed => {
                return Err(self
                    .wrong(format!("{name:?} has no gradient in the first step, so its shape is unknown")));
            }
            (None, _) => return Err(self.wrong(format!("{name:?} was not given in the first step"))),
            (Some(known), _) if known.name != name => {
                let problem = format!("{name:?} is given where the first step had {:?}", known.name);
                return Err(self.wrong(problem));
            }
            (Some(known), Some((slice, shape)))
                if known.shape != *shape || known.format != slice.format() =>
            {
                let (was, is) = ((&known.shape, known.format), (shape, slice.format()));
                let problem = format!(
                    "the gradient of {name:?} has shape {} in {}, the first had {} in {}",
                    is.0, is.1, was.0, was.1
                );
                return Err(self.wrong(problem));
            }
            _ => {}
        }
        let (format, elements) = (self.layout[place].format, self.layout[place].shape.elements());
        if self.open.as_ref().is_some_and(|open| open.values.format() != format) {
            self.close()?;
        }
        let mut bucket = self.open.take().unwrap_or_else(|| {
            let mut bucket = self.free.pop().unwrap_or_default();
            bucket.parts.clear();
            bucket.present.clear();
            bucket.first = place;
            bucket.values.resize(format, 0);
            bucket
        });
        let start = bucket.values.len();
        bucket.values.resize(format, start + elements);
        bucket.parts.push(start..start + elements);
        bucket.present.push(found.is_some());
        scale_into(&mut bucket.values, start, found.map(|(slice, _)| slice), weight);
        let full = bucket.values.len() * format.bytes() >= self.bucket_bytes;
        self.open = Some(bucket);
        self.given += 1;
        if full { self.close() } else { Ok(()) }
    }

    /// Waits for this step's gradients. They stay until the next `push`.
    ///
    /// # Errors
    /// [`RankError`]; when fewer gradients were given than in the first step.
    pub fn wait(&mut self) -> Result<Averaged<'_>> {
        if let Some(missing) = self.layout.get(self.given) {
            return Err(self.wrong(format!(
                "{:?} was not given: give None for a gradient that is not there",
                missing.name
            )));
        }
        self.close()?;
        if !self.agreed {
            let line = |l: &Layout| format!("{:?} of shape {} in {}", l.name, l.shape, l.format);
            let lines: Vec<String> = self.layout.iter().map(line).collect();
            check_equal(&*self.ranks, "the gradients", &lines).map_err(fallline_core::Error::from)?;
            self.agreed = true;
            for bucket in core::mem::take(&mut self.held) {
                self.send(bucket)?;
            }
        }
        self.free.append(&mut self.done);
        for _ in 0..self.sent {
            let bucket = self.worker.back.recv().map_err(|_| self.ended())?;
            self.done.push(bucket.map_err(fallline_core::Error::from)?);
        }
        (self.sent, self.given) = (0, 0);
        self.places.clear();
        for (number, bucket) in self.done.iter().enumerate() {
            for part in 0..bucket.parts.len() {
                self.places.insert(self.layout[bucket.first + part].name.clone(), (number, part));
            }
        }
        Ok(Averaged { reducer: self })
    }

    /// Returns the communicator.
    pub fn ranks(&self) -> &Arc<dyn Communicator> {
        &self.ranks
    }

    /// Sends the bucket that is being filled, or holds it back in the first step.
    fn close(&mut self) -> Result<()> {
        let Some(mut bucket) = self.open.take() else { return Ok(()) };
        let (format, start) = (bucket.values.format(), bucket.values.len());
        bucket.values.resize(format, start + bucket.present.len());
        let mut values = bucket.values.slice_mut();
        for (i, present) in bucket.present.iter().enumerate() {
            values.set(start + i, f64::from(u8::from(*present)));
        }
        if self.agreed {
            return self.send(bucket);
        }
        self.held.push(bucket);
        Ok(())
    }

    fn send(&mut self, bucket: Bucket) -> Result<()> {
        self.worker.to.send(bucket).map_err(|_| self.ended())?;
        self.sent += 1;
        Ok(())
    }

    fn ended(&self) -> crate::Error {
        self.wrong("the thread that averages gradients has ended".into())
    }

    fn wrong(&self, problem: String) -> crate::Error {
        fallline_core::Error::from(RankError::Failed { rank: self.ranks.rank(), problem }).into()
    }
}

/// Copies a gradient times its share behind the others, or zeros.
fn scale_into(values: &mut Buffer, start: usize, grad: Option<Slice<'_>>, weight: f64) {
    macro_rules! copy {
        ($to:expr, $from:expr, $scale:expr) => {{
            let to = &mut $to[start..];
            match $from {
                Some(from) => to.iter_mut().zip(from).for_each(|(to, from)| *to = $scale(*from)),
                None => to.fill(Default::default()),
            }
        }};
    }
    let single = weight as f32;
    match values.slice_mut() {
        SliceMut::F64(to) => copy!(to, grad.and_then(|g| g.as_slice::<f64>()), |x: f64| x * weight),
        SliceMut::F32(to) => copy!(to, grad.and_then(|g| g.as_slice::<f32>()), |x: f32| x * single),
        mut to => {
            for i in start..to.len() {
                to.set(i, grad.map_or(0.0, |grad| grad.get(i - start) * weight));
            }
        }
    }
}

impl Worker {
    fn start(ranks: Arc<dyn Communicator>) -> Result<Worker> {
        let (to, buckets) = channel::<Bucket>();
        let (done, back) = channel();
        let rank = ranks.rank();
        let work = move || {
            while let Ok(mut bucket) = buckets.recv() {
                let reduced = ranks.all_reduce(bucket.values.slice_mut(), Reduction::Sum);
                let failed = reduced.is_err();
                if done.send(reduced.map(|()| bucket)).is_err() || failed {
                    return;
                }
            }
        };
        let spawned = thread::Builder::new().name("average".into()).spawn(work);
        let failed =
            |error| RankError::Failed { rank, problem: format!("no thread to average gradients: {error}") };
        spawned.map_err(|error| fallline_core::Error::from(failed(error)))?;
        Ok(Worker { to, back })
    }
}

/// The gradients of a step, from [`GradientReducer::wait`].
#[derive(Clone, Copy, Debug)]
pub struct Averaged<'a> {
    reducer: &'a GradientReducer,
}

impl<'a> Averaged<'a> {
    /// Returns the gradient of a parameter, to be bound; `None` where no rank had one.
    ///
    /// ```no_run
    /// # fn step(averaged: fallline_optim::ranks::Averaged<'_>, weight: &mut [f32]) {
    /// let binding = fallline_optim::param("fc.weight", weight, averaged.get("fc.weight"));
    /// # }
    /// ```
    pub fn get(&self, name: &str) -> Option<Slice<'a>> {
        let &(bucket, part) = self.reducer.places.get(name)?;
        let bucket = &self.reducer.done[bucket];
        let values = bucket.values.slice();
        let presence = values.len() - bucket.parts.len() + part;
        (values.get(presence) > 0.0).then(|| slice_of(values, bucket.parts[part].clone()))
    }
}

fn slice_of(values: Slice<'_>, range: Range<usize>) -> Slice<'_> {
    match values {
        Slice::F64(values) => Slice::F64(&values[range]),
        Slice::F32(values) => Slice::F32(&values[range]),
        Slice::Bf16(values) => Slice::Bf16(&values[range]),
        Slice::F16(values) => Slice::F16(&values[range]),
        other => unreachable!("no gradient is stored as {}", other.format()),
    }
}
