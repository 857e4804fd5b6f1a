//! A little NCCL: ranks that are threads of one process, each with a stream of a device.
//!
//! What the real one queues is done here at the call, which waits for the stream first and for the other ranks. Every
//! rank takes part in every group; one that calls something else, or with other lengths, is refused.
#![allow(unsafe_code, non_snake_case)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_void};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::machine::stream::Op;
use crate::machine::{device, machine};

/// Codes of NCCL.
const UNHANDLED_CUDA_ERROR: i32 = 1;
const INTERNAL_ERROR: i32 = 3;
const INVALID_ARGUMENT: i32 = 4;
const INVALID_USAGE: i32 = 5;
const REMOTE_ERROR: i32 = 6;

type Outcome<T = ()> = Result<T, i32>;

/// The id that ranks have in common.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId([u8; 128]);

/// One rank's part of an exchange: what it has for each rank, and where what they have for it goes.
#[derive(Clone, Debug, Default, PartialEq)]
struct Part {
    sends: Vec<(usize, u64, usize)>,
    receives: Vec<(usize, u64, usize)>,
}

/// Where the ranks of an id meet.
#[derive(Default)]
struct Table {
    world: usize,
    joined: usize,
    parts: Vec<Option<Part>>,
    /// How many have copied what is theirs; the last clears the parts.
    done: usize,
    aborted: bool,
}

#[derive(Default)]
struct Meeting {
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Clone)]
struct Comm {
    meeting: Arc<Meeting>,
    rank: usize,
    device: u32,
}

#[derive(Default)]
struct World {
    ids: u64,
    meetings: HashMap<u64, Arc<Meeting>>,
    comms: HashMap<usize, Comm>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn world() -> MutexGuard<'static, World> {
    static WORLD: OnceLock<Mutex<World>> = OnceLock::new();
    lock(WORLD.get_or_init(Mutex::default))
}

/// What this thread has called since its group began.
#[derive(Default)]
struct Group {
    depth: usize,
    /// The communicator and the stream of all of it.
    of: Option<(usize, usize)>,
    part: Part,
}

thread_local! {
    static GROUP: RefCell<Group> = RefCell::default();
}

fn entry(name: &'static str, body: impl FnOnce() -> Outcome) -> i32 {
    let run = || {
        let counted = machine().count(name, true);
        counted.map_err(|_| UNHANDLED_CUDA_ERROR)?;
        body()
    };
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    done.map_or(INTERNAL_ERROR, |out| out.err().unwrap_or(0))
}

impl Meeting {
    /// Waits until `ready`, or until a rank breaks off.
    fn wait<'t>(
        &self,
        mut table: MutexGuard<'t, Table>,
        ready: impl Fn(&Table) -> bool,
    ) -> Outcome<MutexGuard<'t, Table>> {
        loop {
            if table.aborted {
                return Err(REMOTE_ERROR);
            }
            if ready(&table) {
                return Ok(table);
            }
            table = self.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn abort(&self) {
        lock(&self.table).aborted = true;
        self.changed.notify_all();
    }
}

/// Runs what a rank has asked for, together with all others.
fn exchange(comm: usize, stream: usize, part: Part) -> Outcome {
    let found = world().comms.get(&comm).cloned();
    let Comm { meeting, rank, device } = found.ok_or(INVALID_ARGUMENT)?;
    let failed = |_| UNHANDLED_CUDA_ERROR;
    let stream = {
        let mut machine = machine();
        let stream = machine.stream(stream, device).map_err(|_| INVALID_ARGUMENT)?;
        machine.drain(stream, u64::MAX).map_err(failed)?;
        stream
    };
    let table = meeting.wait(lock(&meeting.table), |table| table.parts[rank].is_none())?;
    let mut table = table;
    table.parts[rank] = Some(part.clone());
    meeting.changed.notify_all();
    let table = meeting.wait(table, |table| table.parts.iter().all(Option::is_some))?;
    // What each rank has for this one, in the order in which it is taken.
    let mut copies = Vec::new();
    let mut taken = vec![0; table.world];
    for &(from, to, bytes) in &part.receives {
        let theirs = table.parts[from].iter().flat_map(|part| &part.sends).filter(|send| send.0 == rank);
        let send = theirs.clone().nth(taken[from]).filter(|send| send.2 == bytes);
        taken[from] += 1;
        match send {
            Some(&(_, at, _)) => copies.push((at, to, bytes)),
            None => {
                drop(table);
                meeting.abort();
                return Err(INVALID_USAGE);
            }
        }
    }
    drop(table);
    let copied = copies.into_iter().filter(|(_, _, bytes)| *bytes > 0).try_for_each(|(from, to, len)| {
        if from == to {
            return Ok(());
        }
        machine().push(stream, Op::Copy { to, from, len }).map_err(failed)
    });
    let drained = copied.and_then(|()| machine().drain(stream, u64::MAX).map_err(failed));
    if let Err(code) = drained {
        meeting.abort();
        return Err(code);
    }
    // Nobody's memory is used again before all have copied.
    let mut table = lock(&meeting.table);
    table.done += 1;
    if table.done == table.world {
        table.done = 0;
        table.parts.fill(None);
        meeting.changed.notify_all();
        return Ok(());
    }
    let number = rank;
    meeting.wait(table, |table| table.parts[number].is_none()).map(drop)
}

/// Adds to the group, or runs at once where there is none.
fn queue(comm: usize, stream: usize, add: impl FnOnce(&mut Part)) -> Outcome {
    let alone = GROUP.with_borrow_mut(|group| {
        if group.depth == 0 {
            return Ok(true);
        }
        if *group.of.get_or_insert((comm, stream)) != (comm, stream) {
            return Err(INVALID_USAGE);
        }
        Ok(false)
    })?;
    if alone {
        let mut part = Part::default();
        add(&mut part);
        return exchange(comm, stream, part);
    }
    GROUP.with_borrow_mut(|group| add(&mut group.part));
    Ok(())
}

fn ranks_of(comm: usize) -> Outcome<(usize, usize)> {
    let found = world().comms.get(&comm).cloned().ok_or(INVALID_ARGUMENT)?;
    let world = lock(&found.meeting.table).world;
    Ok((found.rank, world))
}

/// Returns the bytes of so many elements.
fn bytes(count: usize, kind: c_int) -> Outcome<usize> {
    let size = match kind {
        0 | 1 => 1,
        2 | 3 | 7 => 4,
        4 | 5 | 8 => 8,
        6 | 9 => 2,
        _ => return Err(INVALID_ARGUMENT),
    };
    count.checked_mul(size).ok_or(INVALID_ARGUMENT)
}

fn peer(rank: c_int, world: usize) -> Outcome<usize> {
    usize::try_from(rank).ok().filter(|rank| *rank < world).ok_or(INVALID_ARGUMENT)
}

macro_rules! exported {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) $body:block)*) => {
        $(
            #[unsafe(no_mangle)]
            #[allow(clippy::too_many_arguments)]
            pub unsafe extern "C" fn $name($($arg: $ty),*) -> i32 {
                entry(stringify!($name), || $body)
            }
        )*
    };
}

exported! {
    fn ncclGetVersion(to: *mut c_int) {
        // SAFETY: the caller gives a place for the version, or nothing.
        unsafe { to.as_mut() }.map(|to| *to = 22_000).ok_or(INVALID_ARGUMENT)
    }
    fn ncclGetUniqueId(to: *mut UniqueId) {
        let mut id = UniqueId([0; 128]);
        let mut world = world();
        world.ids += 1;
        id.0[..8].copy_from_slice(&world.ids.to_le_bytes());
        // SAFETY: the caller gives a place for the id, or nothing.
        unsafe { to.as_mut() }.map(|to| *to = id).ok_or(INVALID_ARGUMENT)
    }
    fn ncclCommInitRank(to: *mut usize, count: c_int, id: UniqueId, rank: c_int) {
        let count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or(INVALID_ARGUMENT)?;
        let rank = peer(rank, count)?;
        let device = device().map_err(|_| UNHANDLED_CUDA_ERROR)?;
        let id = u64::from_le_bytes(id.0[..8].try_into().unwrap_or_default());
        let meeting = Arc::clone(world().meetings.entry(id).or_default());
        let mut table = lock(&meeting.table);
        if table.world == 0 {
            table.world = count;
            table.parts = vec![None; count];
        }
        if table.world != count {
            return Err(INVALID_ARGUMENT);
        }
        table.joined += 1;
        meeting.changed.notify_all();
        drop(meeting.wait(table, |table| table.joined >= count)?);
        let handle = machine().handle();
        world().comms.insert(handle, Comm { meeting, rank, device });
        // SAFETY: the caller gives a place for the communicator, or nothing.
        unsafe { to.as_mut() }.map(|to| *to = handle).ok_or(INVALID_ARGUMENT)
    }
    fn ncclCommDestroy(comm: usize) { world().comms.remove(&comm).map(|_| ()).ok_or(INVALID_ARGUMENT) }
    fn ncclCommAbort(comm: usize) {
        let found = world().comms.get(&comm).cloned();
        found.map(|comm| comm.meeting.abort()).ok_or(INVALID_ARGUMENT)
    }
    fn ncclCommGetAsyncError(comm: usize, to: *mut c_int) {
        ranks_of(comm)?;
        // SAFETY: the caller gives a place for the code, or nothing.
        unsafe { to.as_mut() }.map(|to| *to = 0).ok_or(INVALID_ARGUMENT)
    }
    fn ncclGroupStart() {
        GROUP.with_borrow_mut(|group| group.depth += 1);
        Ok(())
    }
    fn ncclGroupEnd() {
        let end = |group: &mut Group| -> Outcome<Option<Group>> {
            group.depth = group.depth.checked_sub(1).ok_or(INVALID_USAGE)?;
            Ok(if group.depth == 0 { Some(std::mem::take(group)) } else { None })
        };
        let ended = GROUP.with_borrow_mut(end)?;
        match ended {
            Some(Group { of: Some((comm, stream)), part, .. }) => exchange(comm, stream, part),
            _ => Ok(()),
        }
    }
    fn ncclSend(from: *const c_void, count: usize, kind: c_int, to: c_int, comm: usize, stream: usize) {
        let (to, bytes) = (peer(to, ranks_of(comm)?.1)?, bytes(count, kind)?);
        queue(comm, stream, |part| part.sends.push((to, from.addr() as u64, bytes)))
    }
    fn ncclRecv(to: *mut c_void, count: usize, kind: c_int, from: c_int, comm: usize, stream: usize) {
        let (from, bytes) = (peer(from, ranks_of(comm)?.1)?, bytes(count, kind)?);
        queue(comm, stream, |part| part.receives.push((from, to.addr() as u64, bytes)))
    }
    fn ncclAllGather(from: *const c_void, to: *mut c_void, count: usize, kind: c_int, comm: usize, stream: usize) {
        let ((_, world), bytes) = (ranks_of(comm)?, bytes(count, kind)?);
        queue(comm, stream, |part| {
            part.sends.extend((0..world).map(|rank| (rank, from.addr() as u64, bytes)));
            part.receives.extend((0..world).map(|rank| (rank, (to.addr() + rank * bytes) as u64, bytes)));
        })
    }
    fn ncclBroadcast(from: *const c_void, to: *mut c_void, count: usize, kind: c_int, root: c_int, comm: usize, stream: usize) {
        let ((own, world), bytes) = (ranks_of(comm)?, bytes(count, kind)?);
        let root = peer(root, world)?;
        queue(comm, stream, |part| {
            if own == root {
                part.sends.extend((0..world).map(|rank| (rank, from.addr() as u64, bytes)));
            }
            part.receives.push((root, to.addr() as u64, bytes));
        })
    }
}

/// Returns what a code means.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetErrorString(code: c_int) -> *const c_char {
    let text = match code {
        0 => c"no error",
        UNHANDLED_CUDA_ERROR => c"unhandled cuda error",
        INVALID_ARGUMENT => c"invalid argument",
        INVALID_USAGE => c"invalid usage",
        REMOTE_ERROR => c"remote process exited or there was a network error",
        _ => c"internal error",
    };
    text.as_ptr()
}
