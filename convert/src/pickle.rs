//! Torch's pickles, read by a restricted unpickler that knows the opcodes and names that they need, and runs
//! nothing.
//!
//! A pickle is a program. [`read`] carries out the opcodes of protocols 0 to 5 on plain data. A class or function
//! is only ever a name: "calling" one of a fixed list (`globals`) means what the list says. What any other makes is
//! never built. It is a [`Value::Opaque`] with its name, whatever it is called with and whatever is put into it.
//! Values may refer to each other. The tree that they make up is built at the end, within [`Limits`], and a value
//! that contains itself is refused.

mod globals;
mod numpy;
mod opcodes;
mod storages;
mod tree;
mod vm;
mod write;

use crate::limits::Limits;
use crate::value::Value;
use crate::{Error, Result};
use std::collections::HashMap;
use std::sync::Arc;

pub use storages::Storages;

/// Reads a pickle.
///
/// # Errors
/// [`Error::Pickle`] names the opcode or global and its place; [`Error::Limit`].
pub fn read<'a>(bytes: &[u8], storages: &mut dyn Storages<'a>, limits: &Limits) -> Result<Value<'a>> {
    if bytes.len() > limits.pickle_bytes {
        return Err(Error::Limit { what: "bytes of pickle", limit: limits.pickle_bytes });
    }
    tree::build(&vm::run(bytes, storages, limits)?, limits)
}

/// Returns how many bytes an element of each storage has that a pickle asks for; none where its class is unknown. No
/// storage is read.
pub(crate) fn widths(bytes: &[u8], limits: &Limits) -> Result<HashMap<Arc<str>, Option<usize>>> {
    vm::widths(bytes, limits)
}

/// Returns how long the pickle is that bytes begin with, which is not carried out; none if it does not end within the
/// limits.
pub(crate) fn length(bytes: &[u8], limits: &Limits) -> Option<usize> {
    let bytes = &bytes[..bytes.len().min(limits.pickle_bytes)];
    let mut place = 0;
    loop {
        let code = *bytes.get(place)?;
        place += 1;
        match opcodes::argument(code)? {
            opcodes::Argument::Fixed(length) => place = place.checked_add(length)?,
            opcodes::Argument::Lines(count) => {
                for _ in 0..count {
                    place += bytes.get(place..)?.iter().position(|&byte| byte == b'\n')? + 1;
                }
            }
            opcodes::Argument::Counted(width) => {
                let mut number = [0; 8];
                number[..width].copy_from_slice(bytes.get(place..place.checked_add(width)?)?);
                let length = usize::try_from(u64::from_le_bytes(number)).ok()?;
                place = place.checked_add(width)?.checked_add(length)?;
            }
        }
        if code == b'.' {
            return (place <= bytes.len()).then_some(place);
        }
    }
}

pub(crate) use write::write;
