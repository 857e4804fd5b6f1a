//! Files whose bytes are memory.

use memmap2::MmapMut;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;

/// A file that is mapped to be read and written in place. It stays locked for other users of this type until it is
/// dropped.
///
/// The operating system writes changes to the file at its own time, [`flush`](MappedFile::flush) at once. While a file is
/// mapped nobody else may change or shorten it: what does not respect locks is not held off.
#[derive(Debug)]
pub struct MappedFile {
    map: MmapMut,
    /// Holds the lock.
    _file: File,
}

impl MappedFile {
    /// Maps a file as it is.
    ///
    /// # Errors
    /// Those of the file system: also where the file is no regular one, or somebody else has locked it.
    pub fn open(path: impl AsRef<Path>) -> Result<MappedFile> {
        let path = path.as_ref();
        // A pipe would be waited for when it is opened.
        if !std::fs::metadata(path)?.is_file() {
            return Err(Error::new(ErrorKind::InvalidInput, "it is no regular file"));
        }
        let file = File::options().read(true).write(true).open(path)?;
        file.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => {
                Error::new(ErrorKind::WouldBlock, "it is in use: another process or mapping has locked it")
            }
            std::fs::TryLockError::Error(error) => error,
        })?;
        // SAFETY: the file is locked as long as it is mapped, and the documentation forbids changes by others.
        let map = unsafe { MmapMut::map_mut(&file)? };
        Ok(MappedFile { map, _file: file })
    }

    /// Returns the bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Returns the bytes of the file, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }

    /// Writes all changes to the disk.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn flush(&self) -> Result<()> {
        self.map.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_memory_and_locked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, b"abc").unwrap();
        let mut mapped = MappedFile::open(&path).unwrap();
        assert_eq!(mapped.bytes(), b"abc");
        assert!(MappedFile::open(&path).unwrap_err().to_string().contains("in use"));
        mapped.bytes_mut()[1] = b'x';
        mapped.flush().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"axc");
        drop(mapped);
        assert_eq!(MappedFile::open(&path).unwrap().bytes(), b"axc");
        assert!(MappedFile::open(folder.path()).unwrap_err().to_string().contains("no regular file"));
        assert_eq!(MappedFile::open(folder.path().join("b")).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
