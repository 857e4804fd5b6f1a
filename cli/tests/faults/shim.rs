//! Makes the k-th system call of a run fail. `main.rs` compiles this file alone, and has it preloaded.
//!
//! `SHIM_NTH` says which call fails, from 1, and `SHIM_MODE` how: `error` (`EIO`), `full` (`ENOSPC`, and for a file that
//! is opened `EMFILE`), `lasting` (this and all that follow), `short` (half of what is read or written), `interrupted`
//! (`EINTR`). `SHIM_COUNT` names a file for the number of calls. Calls on standard streams and on absolute paths are not
//! counted: those are the program's own.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const EINTR: c_int = 4;
const EIO: c_int = 5;
const EMFILE: c_int = 24;
const ENOSPC: c_int = 28;
/// The next library's symbol of a name.
const RTLD_NEXT: *mut c_void = -1isize as *mut c_void;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn __errno_location() -> *mut c_int;
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Error,
    Full,
    Lasting,
    Short,
    Interrupted,
}

static CALLS: AtomicU64 = AtomicU64::new(0);

fn plan() -> &'static (u64, Mode) {
    static PLAN: OnceLock<(u64, Mode)> = OnceLock::new();
    PLAN.get_or_init(|| {
        let nth = std::env::var("SHIM_NTH").ok().and_then(|nth| nth.parse().ok()).unwrap_or(u64::MAX);
        let mode = match std::env::var("SHIM_MODE").as_deref() {
            Ok("full") => Mode::Full,
            Ok("lasting") => Mode::Lasting,
            Ok("short") => Mode::Short,
            Ok("interrupted") => Mode::Interrupted,
            _ => Mode::Error,
        };
        (nth, mode)
    })
}

/// Counts a call, and says how it fails, if it does.
fn fault() -> Option<Mode> {
    let (nth, mode) = *plan();
    let call = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    (call == nth || (mode == Mode::Lasting && call > nth)).then_some(mode)
}

fn fail(errno: c_int) -> c_int {
    // SAFETY: it is the address of this thread's `errno`.
    unsafe { *__errno_location() = errno };
    -1
}

/// What a call fails with that is neither repeated nor shortened.
fn errno(mode: Mode, full: c_int) -> c_int {
    if mode == Mode::Full { full } else { EIO }
}

/// The function of this name that the program would have called, as a function of the type `F`.
///
/// # Safety
/// `F` is that function's type.
unsafe fn real<F>(name: &CStr) -> F {
    // SAFETY: the name ends with a zero byte.
    let address = unsafe { dlsym(RTLD_NEXT, name.as_ptr()) };
    assert!(!address.is_null());
    // SAFETY: the caller says so; a function's address is as large as a pointer.
    unsafe { core::mem::transmute_copy(&address) }
}

fn is_relative(path: *const c_char) -> bool {
    // SAFETY: a path is a text that ends with a zero byte.
    !path.is_null() && unsafe { *path } != b'/' as c_char
}

/// What is left of a transfer of this many bytes, or the error's number.
fn transfer(fd: c_int, bytes: usize, full: c_int) -> Result<usize, c_int> {
    match (fd > 2).then(fault).flatten() {
        None => Ok(bytes),
        Some(Mode::Short) => Ok(if bytes > 1 { bytes / 2 } else { bytes }),
        Some(Mode::Interrupted) => Err(EINTR),
        Some(mode) => Err(errno(mode, full)),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, from: *const c_void, bytes: usize) -> isize {
    match transfer(fd, bytes, ENOSPC) {
        // SAFETY: the caller's arguments are passed on, with fewer bytes at most.
        Ok(bytes) => unsafe {
            real::<unsafe extern "C" fn(c_int, *const c_void, usize) -> isize>(c"write")(fd, from, bytes)
        },
        Err(errno) => fail(errno) as isize,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn read(fd: c_int, to: *mut c_void, bytes: usize) -> isize {
    match transfer(fd, bytes, EIO) {
        // SAFETY: as in `write`.
        Ok(bytes) => unsafe {
            real::<unsafe extern "C" fn(c_int, *mut c_void, usize) -> isize>(c"read")(fd, to, bytes)
        },
        Err(errno) => fail(errno) as isize,
    }
}

/// A function that may fail and is otherwise called as it is. One that is not to be counted has a condition.
macro_rules! may_fail {
    ($name:ident, $text:literal, ($($arg:ident: $type:ty),*), $counted:expr, $full:expr) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $type),*) -> c_int {
            match $counted.then(fault).flatten() {
                Some(mode) if mode != Mode::Short && mode != Mode::Interrupted => fail(errno(mode, $full)),
                // SAFETY: the caller's arguments are passed on.
                _ => unsafe { real::<unsafe extern "C" fn($($type),*) -> c_int>($text)($($arg),*) },
            }
        }
    };
}

may_fail!(fsync, c"fsync", (fd: c_int), true, ENOSPC);
may_fail!(fdatasync, c"fdatasync", (fd: c_int), true, ENOSPC);
may_fail!(ftruncate64, c"ftruncate64", (fd: c_int, length: c_long), true, ENOSPC);
may_fail!(flock, c"flock", (fd: c_int, operation: c_int), true, EIO);
may_fail!(rename, c"rename", (from: *const c_char, to: *const c_char), true, ENOSPC);
may_fail!(unlink, c"unlink", (path: *const c_char), true, ENOSPC);
may_fail!(mkdir, c"mkdir", (path: *const c_char, mode: c_uint), true, ENOSPC);
// Their last argument is one of a variable number, which on Linux is passed like any other.
may_fail!(open, c"open", (path: *const c_char, flags: c_int, mode: c_uint), is_relative(path), EMFILE);
may_fail!(open64, c"open64", (path: *const c_char, flags: c_int, mode: c_uint), is_relative(path), EMFILE);

extern "C" fn tell() {
    if let Ok(path) = std::env::var("SHIM_COUNT") {
        let _ = std::fs::write(path, CALLS.load(Ordering::Relaxed).to_string());
    }
}

/// Called when the program ends.
#[used]
#[unsafe(link_section = ".fini_array")]
static AT_THE_END: extern "C" fn() = tell;
