//! What `torch.save` wrote before torch 1.6, and still writes with `_use_new_zipfile_serialization=False`. A file
//! has a pickle with a magic number, one with a version, one about the machine, the value, and the storages' keys.
//! Then comes each storage behind the number of its elements.

use crate::limits::Limits;
use crate::pickle::{self, Storages};
use crate::value::Value;
use crate::{Error, Result};
use std::collections::HashMap;

/// The magic number, as a binary pickle and as protocol 0 have it.
const MAGIC: [&[u8]; 2] =
    [&[0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19], b"119547037146038801333356"];
/// The longest pickle with it.
const HEAD: usize = 64;
const VERSION: i64 = 1001;

/// Returns whether bytes begin as such a file does.
pub(super) fn is_legacy(bytes: &[u8]) -> bool {
    let head = Limits { pickle_bytes: HEAD, ..Limits::default() };
    let first = pickle::length(bytes, &head).map(|length| &bytes[..length]);
    let has = |first: &[u8], magic: &[u8]| first.windows(magic.len()).any(|at| at == magic);
    first.is_some_and(|first| MAGIC.into_iter().any(|magic| has(first, magic)))
}

/// Pickles one behind the other.
struct Pickles<'a, 'l> {
    rest: &'a [u8],
    limits: &'l Limits,
}

impl<'a> Pickles<'a, '_> {
    /// Returns the bytes of the next one.
    fn next(&mut self) -> Result<&'a [u8]> {
        let length = pickle::length(self.rest, self.limits);
        let length = length.ok_or_else(|| match self.rest.len() > self.limits.pickle_bytes {
            true => Error::Limit { what: "bytes of pickle", limit: self.limits.pickle_bytes },
            false => wrong("a pickle in it does not end: it may have been cut short"),
        })?;
        let (first, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(first)
    }
}

fn wrong(problem: impl Into<String>) -> Error {
    Error::NotTorch(problem.into())
}

/// Where the storages are.
struct Table<'a> {
    places: HashMap<String, &'a [u8]>,
}

impl<'a> Storages<'a> for Table<'a> {
    fn find(&mut self, key: &str) -> Result<&'a [u8]> {
        self.places.get(key).copied().ok_or_else(|| wrong(format!("its storage {key:?} is missing")))
    }
}

/// No storages.
struct Nothing;

impl<'a> Storages<'a> for Nothing {
    fn find(&mut self, _: &str) -> Result<&'a [u8]> {
        Err(wrong("a storage where there is none"))
    }
}

/// Reads such a file.
pub(super) fn read<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Value<'a>> {
    let mut pickles = Pickles { rest: bytes, limits };
    pickles.next()?;
    match pickle::read(pickles.next()?, &mut Nothing, limits)? {
        Value::Int(VERSION) => {}
        _ => return Err(wrong(format!("it is of another version than torch's {VERSION}"))),
    }
    let machine = pickle::read(pickles.next()?, &mut Nothing, limits)?;
    if machine.get("little_endian") == Some(&Value::Bool(false)) {
        return Err(wrong("its numbers are big-endian, which is not read"));
    }
    let value = pickles.next()?;
    let keys = pickle::read(pickles.next()?, &mut Nothing, limits)?;
    // How wide a storage's elements are stands in the value's pickle alone.
    let widths = pickle::widths(value, limits)?;
    let mut rest = pickles.rest;
    let mut places = HashMap::new();
    for key in keys.as_items("its storages' keys")? {
        let Value::Str(key) = key else {
            return Err(wrong("a key of a storage that is no text"));
        };
        let cut = || wrong(format!("it ends in the storage {key:?}: it may have been cut short"));
        let (count, after) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
        let count = usize::try_from(u64::from_le_bytes(*count)).map_err(|_| cut())?;
        let width = widths.get(key).copied().flatten();
        let width = width
            .ok_or_else(|| wrong(format!("how wide the elements of the storage {key:?} are is not known")))?;
        let length = count.checked_mul(width).filter(|&length| length <= after.len()).ok_or_else(cut)?;
        let (storage, after) = after.split_at(length);
        places.insert(key.to_string(), storage);
        rest = after;
    }
    pickle::read(value, &mut Table { places }, limits)
}
