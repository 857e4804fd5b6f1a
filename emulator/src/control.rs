//! What a test asks of the emulator in addition to CUDA. It is exported, as the test's copy of this crate is not
//! the one that cudarc loads.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};

use crate::machine::machine;

fn guarded<T: Default>(body: impl FnOnce() -> T) -> T {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or_default()
}

/// Copies a text into a buffer and gives its whole length.
fn hand_out(text: &str, to: *mut u8, room: usize) -> usize {
    if !to.is_null() {
        // SAFETY: the caller gives `room` bytes at `to`, and no more are written.
        unsafe { to.copy_from(text.as_ptr(), text.len().min(room)) };
    }
    text.len()
}

/// Applies options; gives 0, or 1 and the reason in the buffer's place of the last fault.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallline_emulator_configure(text: *const c_char) -> i32 {
    guarded(|| {
        if text.is_null() {
            return 1;
        }
        // SAFETY: not null, and the caller gives a string that ends.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
        let mut machine = machine();
        match machine.configure(&text) {
            Ok(()) => 0,
            Err(reason) => {
                machine.last_fault = Some(reason);
                1
            }
        }
    })
}

/// Returns the text of the last fault, refusal or leak; empty if there was none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallline_emulator_last_fault(to: *mut u8, room: usize) -> usize {
    guarded(|| hand_out(machine().last_fault.as_deref().unwrap_or(""), to, room))
}

/// Returns how often a function was called; all of them together for null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallline_emulator_calls(name: *const c_char) -> u64 {
    guarded(|| {
        let machine = machine();
        if name.is_null() {
            return machine.calls.values().sum();
        }
        // SAFETY: not null, and the caller gives a string that ends.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        machine.calls.get(&*name).copied().unwrap_or(0)
    })
}

/// Returns the function whose call was last made to fail; empty if none was.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallline_emulator_failed(to: *mut u8, room: usize) -> usize {
    guarded(|| hand_out(machine().failed.unwrap_or(""), to, room))
}

/// Returns the allocations that are alive, those of modules apart.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallline_emulator_allocations() -> u64 {
    guarded(|| machine().leaks(None).len() as u64)
}

/// Forgets counters, injections, the fault and its text; allocations and options stay.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallline_emulator_reset() {
    guarded(|| {
        let mut machine = machine();
        machine.calls.clear();
        machine.injections.clear();
        (machine.failed, machine.fault, machine.last_fault) = (None, None, None);
    });
}

/// Makes this library the one that is found under the names of CUDA.
///
/// The C library compares a name that is loaded with those under which its libraries are known. A library gets a
/// further name when it is opened by that. Only code of this library can open its folder's files by bare names: its
/// run path is `$ORIGIN`. Gives how many of the names it now has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallline_emulator_adopt() -> i32 {
    let mut adopted = 0;
    for name in
        [c"libcuda.so", c"libcuda.so.1", c"libcublas.so", c"libcublas.so.12", c"libnccl.so", c"libnccl.so.2"]
    {
        // SAFETY: the library is this one, which is loaded: no initialiser runs.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        adopted += i32::from(!handle.is_null());
    }
    adopted
}
