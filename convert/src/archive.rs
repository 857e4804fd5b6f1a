//! Files of `torch.save`: a zip archive around a pickle, whose entries are stored, never compressed. Before torch
//! 1.6 a file was pickles and storages one behind the other (`legacy`).

mod legacy;

use crate::limits::Limits;
use crate::pickle;
use crate::value::Value;
use crate::{Error, Result};
use fallline_core::fallible;
use std::collections::HashMap;
use std::io::{Cursor, Read, Write};
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

pub use crate::pickle::Storages;

/// Returns whether bytes begin as a zip archive does.
pub fn is_archive(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

/// Returns whether bytes begin as a file of `torch.save` does, of any version.
pub fn is_torch(bytes: &[u8]) -> bool {
    is_archive(bytes) || legacy::is_legacy(bytes)
}

/// Reads a file of `torch.save`.
///
/// # Errors
/// [`Error`] says what is wrong with it, or what it has that is not read.
pub fn read<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Value<'a>> {
    if legacy::is_legacy(bytes) {
        return legacy::read(bytes, limits);
    }
    if !is_archive(bytes) {
        return Err(Error::NotTorch(
            "it is not a file of torch.save: it does not begin as a zip archive, nor as those from before torch 1.6"
                .into(),
        ));
    }
    let mut archive = Archive::open(bytes, limits)?;
    let pickle = archive.entry(&format!("{}/data.pkl", archive.root))?;
    pickle::read(pickle, &mut archive, limits)
}

/// An archive whose names and sizes have been looked at.
struct Archive<'a> {
    bytes: &'a [u8],
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// The folder that everything is in.
    root: String,
    /// Entries that have been read already: their sums were right.
    known: HashMap<String, &'a [u8]>,
}

/// What an entry takes in an archive, apart from its contents: headers, its name twice, and what aligns it.
const ENTRY: usize = 512;

fn wrong(problem: impl ToString) -> Error {
    Error::Archive(problem.to_string())
}

/// Returns how many entries an archive says that it has, at its very end. Checked before anything is allocated.
fn entries(bytes: &[u8]) -> Result<u64> {
    fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
        bytes.get(at..)?.get(..N)?.try_into().ok()
    }
    let cut = || wrong("it does not end as an archive does: it may have been cut short");
    let end = bytes.len().checked_sub(22).ok_or_else(cut)?;
    if !bytes[end..].starts_with(b"PK\x05\x06") {
        return Err(cut());
    }
    let small = u16::from_le_bytes(number(bytes, end + 10).ok_or_else(cut)?);
    if small != u16::MAX {
        return Ok(small.into());
    }
    // The larger form: a locator is before the end, and says where the record with the number is.
    let locator = end.checked_sub(20).filter(|&at| bytes[at..].starts_with(b"PK\x06\x07"));
    let Some(locator) = locator else { return Ok(small.into()) };
    let record = usize::try_from(u64::from_le_bytes(number(bytes, locator + 8).ok_or_else(cut)?)).ok();
    let count = record.and_then(|record| number(bytes, record.checked_add(32)?)).ok_or_else(cut)?;
    Ok(u64::from_le_bytes(count))
}

impl<'a> Archive<'a> {
    fn open(bytes: &'a [u8], limits: &Limits) -> Result<Archive<'a>> {
        let entries = entries(bytes)?;
        if entries > limits.entries as u64 {
            return Err(Error::Limit { what: "entries in its archive", limit: limits.entries });
        }
        let mut zip = ZipArchive::new(Cursor::new(bytes)).map_err(wrong)?;
        if zip.has_duplicate_names() {
            return Err(wrong("two entries have the same name"));
        }
        if zip.len() as u64 != entries {
            return Err(wrong("it has two ends"));
        }
        let root = Self::root(&mut zip)?;
        // Entries that share bytes would make more of them than the file has.
        if zip.has_overlapping_files().map_err(wrong)? {
            return Err(wrong("entries overlap"));
        }
        let mut archive = Archive { bytes, zip, root, known: HashMap::new() };
        let order = format!("{}/byteorder", archive.root);
        if archive.zip.index_for_name(&order).is_some() && archive.entry(&order)? != b"little" {
            return Err(wrong("its numbers are big-endian, which is not read"));
        }
        Ok(archive)
    }

    /// Returns the folder with `data.pkl` in it, once every name has been checked.
    fn root(zip: &mut ZipArchive<Cursor<&'a [u8]>>) -> Result<String> {
        let mut root = None;
        for i in 0..zip.len() {
            let entry = zip.by_index_raw(i).map_err(wrong)?;
            let name =
                core::str::from_utf8(entry.name_raw()).map_err(|_| wrong("a name that is not UTF-8"))?;
            let strange = name.starts_with('/')
                || name.contains(['\\', '\0', ':'])
                || name.split('/').any(|part| part == "..");
            if strange {
                return Err(wrong(format!("a name that leads elsewhere: {name:?}")));
            }
            if entry.compression() != CompressionMethod::Stored {
                return Err(wrong(format!("{name:?} is compressed, which torch.save never does")));
            }
            if entry.encrypted() {
                return Err(wrong(format!("{name:?} is encrypted")));
            }
            if let Some(folder) = name.strip_suffix("/data.pkl").filter(|folder| !folder.contains('/'))
                && root.replace(folder.to_owned()).is_some()
            {
                return Err(wrong("it has two data.pkl"));
            }
        }
        root.ok_or_else(|| wrong("it has no data.pkl: it is not of torch.save"))
    }

    /// Returns the bytes of an entry, whose sum is right.
    fn entry(&mut self, name: &str) -> Result<&'a [u8]> {
        if let Some(known) = self.known.get(name) {
            return Ok(known);
        }
        let index = self.zip.index_for_name(name).ok_or_else(|| wrong(format!("{name:?} is missing")))?;
        let mut entry = self.zip.by_index(index).map_err(|error| wrong(format!("{name:?}: {error}")))?;
        // Reading it to its end checks the sum.
        let mut buffer = [0; 1 << 14];
        loop {
            match entry.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(wrong(format!("{name:?}: {error}"))),
            }
        }
        let place = entry.data_start().and_then(|start| {
            let end = start.checked_add(entry.size())?;
            self.bytes.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
        });
        let found = place.ok_or_else(|| wrong(format!("{name:?} ends behind the file")))?;
        self.known.insert(name.to_owned(), found);
        Ok(found)
    }
}

impl<'a> Storages<'a> for Archive<'a> {
    fn find(&mut self, key: &str) -> Result<&'a [u8]> {
        self.entry(&format!("{}/data/{key}", self.root))
    }
}

/// Returns the bytes of a file that torch loads, with `weights_only=True` too. The same value gives the same bytes.
///
/// # Errors
/// When the archive cannot be written.
pub fn write(value: &Value<'_>) -> Result<Vec<u8>> {
    let (pickle, tensors) = pickle::write(value);
    let mut length = pickle.len().saturating_add(ENTRY);
    for tensor in &tensors {
        let bytes = tensor.elements().saturating_mul(tensor.dtype().bytes());
        length = length.saturating_add(bytes).saturating_add(ENTRY);
    }
    let mut zip = ZipWriter::new(Cursor::new(fallible::with_room(length, "the file")?));
    let mut add = |name: &str, bytes: &[u8]| -> Result<()> {
        let large = bytes.len() as u64 >= u32::MAX.into();
        // torch aligns storages so that it can map them into memory.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(zip::DateTime::default())
            .with_alignment(64)
            .large_file(large);
        zip.start_file(format!("archive/{name}"), options).map_err(wrong)?;
        zip.write_all(bytes).map_err(wrong)
    };
    add("data.pkl", &pickle)?;
    add(".format_version", b"1")?;
    add(".storage_alignment", b"64")?;
    add("byteorder", b"little")?;
    for (key, tensor) in tensors.iter().enumerate() {
        add(&format!("data/{key}"), &tensor.laid_out()?)?;
    }
    add("version", b"3\n")?;
    Ok(zip.finish().map_err(wrong)?.into_inner())
}
