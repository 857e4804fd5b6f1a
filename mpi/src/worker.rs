//! MPI's calls, made by one thread that owns its world.
//!
//! MPI's blocking calls have no time limit, and one that waits for a dead rank never returns. So they are made by a
//! thread of their own, which owns the buffers too: whoever asked waits for it no longer than the limit. It is also the
//! only thread that ever calls MPI, which every installation allows.

use fallline_core::ranks::{Communicator, RankError, chunk, known, receive, same_length, shared_lengths};
use fallline_core::{Error, Result};
use mpi::datatype::PartitionMut;
use mpi::environment::Universe;
use mpi::traits::{Communicator as _, CommunicatorCollectives as _, Root as _};
use mpi::{Count, Threading};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The largest message of one call: MPI counts in 32 bits.
const LARGEST: usize = 1 << 30;

/// This process as a rank of MPI's world.
///
/// Call [`finish`](Mpi::finish) when all is done. A process that ends without it counts as failed, and the launcher
/// ends the others. That is meant for errors, since leaving MPI's world waits for all ranks.
#[derive(Debug)]
pub struct Mpi {
    rank: usize,
    world: usize,
    limit: Duration,
    /// One exchange at a time.
    jobs: Mutex<Jobs>,
}

#[derive(Debug)]
struct Jobs {
    to: Sender<(Job, Sender<Vec<u8>>)>,
    /// Why no more are taken.
    broken: Option<String>,
}

/// What the thread is asked to do. What was received comes back through the channel that is sent with it.
enum Job {
    AllToAll { send: Vec<u8>, piece: usize },
    AllGather { send: Vec<u8> },
    Share { send: Vec<u8>, lengths: Vec<usize> },
    Broadcast { root: usize, bytes: Vec<u8> },
    Barrier,
    Finish,
}

impl Mpi {
    /// Joins MPI's world, which a process can do once. An exchange that is not finished within `limit` fails.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when MPI was started in this process before, [`Error::Ranks`] when it does not start
    /// within the limit.
    pub fn start(limit: Duration) -> Result<Mpi> {
        let (to, jobs) = channel();
        let (started, start) = channel();
        let work = move || {
            let universe = mpi::initialize_with_threading(Threading::Funneled).map(|(universe, _)| universe);
            let Some(universe) = universe else { return };
            let world = universe.world();
            let told = started.send((world.rank() as usize, world.size() as usize));
            if told.is_ok() {
                serve(universe, &jobs);
            } else {
                // Nobody waits any more: as with any failure, the world is not left.
                core::mem::forget(universe);
            }
        };
        let named = thread::Builder::new().name("mpi".into()).spawn(work);
        named.map_err(|error| Error::Unavailable(format!("no thread for MPI: {error}")))?;
        match receive(&start, limit) {
            Ok((rank, world)) => Ok(Mpi { rank, world, limit, jobs: Mutex::new(Jobs { to, broken: None }) }),
            Err(RecvTimeoutError::Timeout) => {
                let (operation, missing) = ("starting MPI", Vec::new());
                Err(RankError::TimedOut { rank: 0, operation, limit, missing }.into())
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(Error::Unavailable("MPI was started in this process already".into()))
            }
        }
    }

    /// Leaves MPI's world together with all other ranks. Nothing can be exchanged afterwards.
    ///
    /// # Errors
    /// [`RankError`] when not all came, or an exchange failed before.
    pub fn finish(&self) -> Result<(), RankError> {
        self.ask("finish", Job::Finish)?;
        self.lock().broken = Some("this rank has left MPI's world".into());
        Ok(())
    }

    fn ask(&self, operation: &'static str, job: Job) -> Result<Vec<u8>, RankError> {
        let rank = self.rank;
        let mut jobs = self.lock();
        if let Some(cause) = &jobs.broken {
            return Err(RankError::Broken { rank, operation, cause: cause.clone() });
        }
        let (to, answer) = channel();
        let error = match jobs.to.send((job, to)) {
            Ok(()) => match receive(&answer, self.limit) {
                Ok(received) => return Ok(received),
                Err(RecvTimeoutError::Timeout) => {
                    RankError::TimedOut { rank, operation, limit: self.limit, missing: Vec::new() }
                }
                Err(RecvTimeoutError::Disconnected) => ended(rank),
            },
            Err(_) => ended(rank),
        };
        jobs.broken = Some(error.to_string());
        Err(error)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ended(rank: usize) -> RankError {
    RankError::Failed { rank, problem: "the thread that calls MPI has ended".into() }
}

/// Does what is asked until the end.
fn serve(universe: Universe, jobs: &Receiver<(Job, Sender<Vec<u8>>)>) {
    let world = universe.world();
    let size = world.size() as usize;
    while let Ok((job, answer)) = jobs.recv() {
        let received = match job {
            // An empty vector's address is 1, which Open MPI takes for 'in place'.
            Job::AllToAll { send, .. } | Job::AllGather { send } if send.is_empty() => send,
            Job::AllToAll { send, piece } => {
                let mut received = vec![0; send.len()];
                in_parts(&send, &mut received, (size, piece), |send, received| {
                    world.all_to_all_into(send, received);
                });
                received
            }
            Job::AllGather { send } => {
                let mut received = vec![0; send.len() * size];
                let length = send.len();
                if length * size <= LARGEST {
                    world.all_gather_into(&send[..], &mut received[..]);
                } else {
                    for (root, part) in received.chunks_exact_mut(length).enumerate() {
                        if root == world.rank() as usize {
                            part.copy_from_slice(&send);
                        }
                        let root = world.process_at_rank(root as Count);
                        part.chunks_mut(LARGEST).for_each(|part| root.broadcast_into(part));
                    }
                }
                received
            }
            Job::Share { mut send, lengths } => {
                // Not empty: see above.
                let given = send.len();
                send.push(0);
                let (mut received, own) = (vec![0; lengths.iter().sum()], world.rank() as usize);
                if received.len() <= LARGEST {
                    let counts: Vec<Count> = lengths.iter().map(|length| *length as Count).collect();
                    let starts = counts.iter().scan(0, |next, count| {
                        *next += count;
                        Some(*next - count)
                    });
                    let starts: Vec<Count> = starts.collect();
                    let mut parts = PartitionMut::new(&mut received[..], counts, starts);
                    world.all_gather_varcount_into(&send[..given], &mut parts);
                } else {
                    let mut rest = &mut received[..];
                    for (root, length) in lengths.into_iter().enumerate() {
                        let part;
                        (part, rest) = rest.split_at_mut(length);
                        if root == own {
                            part.copy_from_slice(&send[..given]);
                        }
                        let root = world.process_at_rank(root as Count);
                        part.chunks_mut(LARGEST).for_each(|part| root.broadcast_into(part));
                    }
                }
                received
            }
            Job::Broadcast { root, mut bytes } => {
                let root = world.process_at_rank(root as Count);
                bytes.chunks_mut(LARGEST).for_each(|part| root.broadcast_into(part));
                bytes
            }
            Job::Barrier => {
                world.barrier();
                Vec::new()
            }
            Job::Finish => {
                drop(universe);
                answer.send(Vec::new()).ok();
                return;
            }
        };
        answer.send(received).ok();
    }
    // Whoever owned this rank ended without `finish`: the launcher is to see a failure.
    core::mem::forget(universe);
}

/// Runs an exchange of one piece with each rank, cut where the pieces together are too long for one call.
fn in_parts(
    send: &[u8],
    received: &mut [u8],
    (world, piece): (usize, usize),
    mut exchange: impl FnMut(&[u8], &mut [u8]),
) {
    let most = LARGEST / world;
    if piece <= most {
        return exchange(send, received);
    }
    for start in (0..piece).step_by(most) {
        let length = most.min(piece - start);
        let parts = send.chunks_exact(piece).flat_map(|piece| &piece[start..][..length]);
        let (part, mut got) = (parts.copied().collect::<Vec<u8>>(), vec![0; length * world]);
        exchange(&part, &mut got);
        for (to, from) in received.chunks_exact_mut(piece).zip(got.chunks_exact(length)) {
            to[start..][..length].copy_from_slice(from);
        }
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world
    }

    fn describe(&self) -> String {
        format!("{} ranks over MPI", self.world)
    }

    fn all_to_all(&self, send: &[u8], receive: &mut [u8]) -> Result<(), RankError> {
        let operation = "all_to_all";
        same_length(operation, "the receive buffer", send.len(), receive.len())?;
        let piece = chunk(operation, send.len(), self.world)?;
        receive.copy_from_slice(&self.ask(operation, Job::AllToAll { send: send.to_vec(), piece })?);
        Ok(())
    }

    fn all_gather(&self, send: &[u8], receive: &mut [u8]) -> Result<(), RankError> {
        let operation = "all_gather";
        same_length(operation, "the receive buffer", send.len() * self.world, receive.len())?;
        receive.copy_from_slice(&self.ask(operation, Job::AllGather { send: send.to_vec() })?);
        Ok(())
    }

    fn broadcast(&self, root: usize, bytes: &mut [u8]) -> Result<(), RankError> {
        known("broadcast", root, self.world)?;
        let received = self.ask("broadcast", Job::Broadcast { root, bytes: bytes.to_vec() })?;
        bytes.copy_from_slice(&received);
        Ok(())
    }

    fn all_gather_v(
        &self,
        own: &[&[u8]],
        lengths: &[usize],
        take: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), RankError> {
        shared_lengths(self, own, lengths)?;
        if lengths.iter().all(|length| *length == 0) {
            return Ok(());
        }
        let received =
            self.ask("all_gather_v", Job::Share { send: own.concat(), lengths: lengths.to_vec() })?;
        let mut rest = &received[..];
        for (from, length) in lengths.iter().enumerate() {
            let bytes;
            (bytes, rest) = rest.split_at(*length);
            if from != self.rank {
                take(from, bytes);
            }
        }
        Ok(())
    }

    fn barrier(&self) -> Result<(), RankError> {
        self.ask("barrier", Job::Barrier).map(|_| ())
    }
}
