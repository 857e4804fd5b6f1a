//! The driver's functions under their C names. A pointer that is null is refused; any other is trusted, as by the
//! real driver.
#![allow(unsafe_code, non_snake_case)]

mod context;
mod copies;
mod launches;
mod memory;
mod modules;
mod streams;

use crate::machine::fault::Status;
use crate::machine::{Machine, Outcome, machine};

/// Runs the body of an exported function: counts the call, lets it fail if asked, keeps panics inside.
pub fn entry(name: &'static str, fails_too: bool, body: impl FnOnce(&mut Machine) -> Outcome) -> i32 {
    let run = || {
        let mut machine = machine();
        machine.count(name, fails_too)?;
        body(&mut machine)
    };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(Ok(())) => Status::SUCCESS.0,
        Ok(Err(status)) => status.0,
        Err(_) => Status::UNKNOWN.0,
    }
}

/// Defines exported functions: `fn` gives a fault of the device as its result, `always fn` does not.
macro_rules! exported {
    ($($(#[$doc:meta])* $kind:ident $name:ident($m:ident $(, $arg:ident: $ty:ty)*) $body:block)*) => {
        $(
            $(#[$doc])*
            #[unsafe(no_mangle)]
            #[allow(clippy::too_many_arguments)]
            pub unsafe extern "C" fn $name($($arg: $ty),*) -> i32 {
                let fails_too = stringify!($kind) == "usual";
                crate::driver_api::entry(stringify!($name), fails_too, |$m| {
                    let _ = &$m;
                    $body
                })
            }
        )*
    };
}
use exported;

/// Writes a result.
fn give<T>(to: *mut T, value: T) -> Outcome {
    if to.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: not null, and the caller of the driver promises a place for a `T`.
    unsafe { to.write(value) };
    Ok(())
}

/// Returns a string of the caller.
fn text<'a>(from: *const std::ffi::c_char) -> Outcome<&'a str> {
    if from.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: not null, and the caller of the driver promises a string that ends.
    unsafe { std::ffi::CStr::from_ptr(from) }.to_str().map_err(|_| Status::INVALID_VALUE)
}
