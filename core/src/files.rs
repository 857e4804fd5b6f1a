//! Files that a user names, read with a limit.
//!
//! A path may lead to a pipe that nobody writes to, or to a device without an end. So what a path is gets checked before
//! it is opened, and no more is read than is stated for its kind. Standard input by its name (`/dev/stdin`, `/dev/fd/N`)
//! is open already: it is read where it is a file, a pipe or a socket.

use std::fs::{File, Metadata};
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// The longest file of tensors that is read: 1 TiB.
pub const MAX_TENSORS: u64 = 1 << 40;
/// The longest text that is read, and the longest pipe: 64 MiB.
pub const MAX_TEXT: u64 = 64 << 20;
/// The longest header of safetensors, as its own library has it.
const MAX_HEADER: u64 = 100_000_000;

/// Reads a file of at most so many bytes.
///
/// # Errors
/// Where the path is no file (a folder, a pipe, a device, a socket), where the file is longer, and those of the file
/// system. What does not fit into memory is an error, too.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let (mut file, most, length) = open(path, most)?;
    read_from(&mut file, Vec::new(), length, most)
}

/// Reads a file of tensors: safetensors, or one of torch's. What begins as neither is a text at most.
///
/// # Errors
/// Those of [`read`].
pub fn read_tensors(path: &Path) -> Result<Vec<u8>> {
    let (mut file, most, length) = open(path, MAX_TENSORS)?;
    let mut begin = Vec::new();
    file.by_ref().take(8).read_to_end(&mut begin)?;
    let is_known = match begin[..] {
        // An archive, or a bare pickle.
        [b'P', b'K', ..] | [0x80, ..] => true,
        _ => {
            let header = <[u8; 8]>::try_from(&begin[..]).map(u64::from_le_bytes);
            header.is_ok_and(|header| header <= MAX_HEADER && length.is_none_or(|length| header < length))
        }
    };
    let most = if is_known { most } else { most.min(MAX_TEXT) };
    if let Some(length) = length.filter(|length| *length > most) {
        return Err(too_long(Some(length), most));
    }
    read_from(&mut file, begin, length, most)
}

/// Opens what may be read, and returns how many bytes at most, and how many it says it has.
fn open(path: &Path, most: u64) -> Result<(File, u64, Option<u64>)> {
    // A pipe without a writer would be waited for when it is opened.
    let is_stream = is_standard_input(path);
    if !is_stream {
        check(&std::fs::metadata(path)?)?;
    }
    let file = File::open(path)?;
    let there = file.metadata()?;
    if there.is_file() {
        return match there.len() {
            length if length > most => Err(too_long(Some(length), most)),
            length => Ok((file, most, Some(length))),
        };
    }
    match what(&there) {
        "a pipe" | "a socket" if is_stream => Ok((file, most.min(MAX_TEXT), None)),
        // Another file may have taken its place since it was looked at.
        _ => check(&there).map(|()| (file, most, None)),
    }
}

/// Refuses what is not a file.
fn check(there: &Metadata) -> Result<()> {
    match what(there) {
        _ if there.is_file() => Ok(()),
        "a folder" => Err(Error::new(ErrorKind::IsADirectory, "it is a folder, where a file is needed")),
        kind => {
            Err(Error::new(ErrorKind::InvalidInput, format!("it is {kind}, where a regular file is needed")))
        }
    }
}

/// Returns what is there, by name.
fn what(there: &Metadata) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = there.file_type();
        if kind.is_fifo() {
            return "a pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
    }
    if there.is_dir() { "a folder" } else { "no file" }
}

/// Returns whether a path names what this process has open.
fn is_standard_input(path: &Path) -> bool {
    cfg!(unix)
        && (path == Path::new("/dev/stdin")
            || path.starts_with("/dev/fd")
            || path.starts_with("/proc/self/fd"))
}

/// Reads the rest of a file. A file may be longer than it says, as those of `/proc` are.
fn read_from(file: &mut File, begin: Vec<u8>, length: Option<u64>, most: u64) -> Result<Vec<u8>> {
    let mut bytes = begin;
    let missing = length.unwrap_or(0).saturating_sub(bytes.len() as u64);
    let missing = usize::try_from(missing).map_err(|_| ErrorKind::OutOfMemory)?;
    bytes.try_reserve_exact(missing).map_err(|_| ErrorKind::OutOfMemory)?;
    let left = most - (bytes.len() as u64).min(most);
    file.take(left.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(too_long(None, most)),
        false => Ok(bytes),
    }
}

fn too_long(length: Option<u64>, most: u64) -> Error {
    let has = length.map_or("more".to_owned(), |length| format!("{length} bytes"));
    Error::new(ErrorKind::FileTooLarge, format!("it has {has}, and at most {most} bytes are read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_end_at_their_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, [7; 10]).unwrap();
        assert_eq!(read(&path, 10).unwrap(), [7; 10]);
        assert!(read(&path, 9).unwrap_err().to_string().contains("10 bytes, and at most 9"));
        assert_eq!(read(folder.path(), 10).unwrap_err().kind(), ErrorKind::IsADirectory);
        assert_eq!(read(&folder.path().join("none"), 10).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(read_tensors(&path).unwrap(), [7; 10]);
        // Only what begins as tensors do may be long. This one is holes, which take no room.
        for (begin, is_known) in [([0; 8], true), (*b"PK\x03\x04zip!", true), ([0xff; 8], false)] {
            std::fs::write(&path, begin).unwrap();
            File::options().write(true).open(&path).unwrap().set_len(MAX_TEXT + 1).unwrap();
            let told = read_tensors(&path).map_err(|error| error.kind());
            assert_eq!(
                told.map(|bytes| bytes.len() as u64).ok(),
                is_known.then_some(MAX_TEXT + 1),
                "{begin:?}"
            );
        }
        File::options().write(true).open(&path).unwrap().set_len(MAX_TENSORS + 1).unwrap();
        assert_eq!(read_tensors(&path).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }

    #[cfg(unix)]
    #[test]
    fn pipes_and_devices_are_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let socket = folder.path().join("socket");
        let _bound = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, kind) in [
            (&*pipe, "a pipe"),
            (&socket, "a socket"),
            (Path::new("/dev/zero"), "a device"),
            (Path::new("/dev/null"), "a device"),
        ] {
            for told in [read(path, 10), read_tensors(path)] {
                assert!(
                    told.unwrap_err().to_string().contains(&format!("it is {kind}")),
                    "{}",
                    path.display()
                );
            }
        }
    }
}
