//! Pickles of torch's: read by a machine that knows the opcodes and names that they need, and runs nothing.
//!
//! A pickle is a program. What `torch.save` writes uses thirty of its opcodes, which [`read`] carries out on plain
//! data; any other ends the reading with its name. A class or function is only ever a name, from a fixed list
//! (`globals`): "calling" one means what the list says. Values may refer to each other. The tree that they represent
//! is built at the end, within [`Limits`], and a value that contains itself is refused.

mod globals;
mod opcodes;
mod storages;
mod tree;
mod vm;
mod write;

use crate::limits::Limits;
use crate::value::Value;
use crate::{Error, Result};

pub use storages::Storages;

/// Reads a pickle.
///
/// # Errors
/// [`Error::Pickle`] names the opcode or global and its place; [`Error::Limit`].
pub fn read<'a>(bytes: &[u8], storages: &mut dyn Storages<'a>, limits: &Limits) -> Result<Value<'a>> {
    if bytes.len() > limits.pickle_bytes {
        return Err(Error::Limit { what: "bytes of pickle", limit: limits.pickle_bytes });
    }
    let (nodes, root) = vm::run(bytes, storages, limits)?;
    tree::build(&nodes, root, limits)
}

pub(crate) use write::write;
