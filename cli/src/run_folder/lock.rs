//! One process at a time writes in a run's folder.

use crate::common::warn;
use crate::error::{Error, Result};
use fallline::core::files;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The name of the lock in a run's folder.
pub const LOCK: &str = ".lock";
/// The longest number of a process, with room to spare.
const LONGEST: u64 = 64;

/// The lock of a run's folder: while this process has it, no other one writes there.
///
/// The system releases it when the process ends, however it ends. A file that a killed process leaves is no obstacle.
#[derive(Debug)]
pub struct FolderLock {
    /// None where the file system has no locks.
    file: Option<File>,
    path: PathBuf,
}

impl FolderLock {
    /// Locks a folder, for the sake of an argument.
    ///
    /// # Errors
    /// [`Error::Usage`] where another process has the lock: it says which, and what to do. Those of the file system.
    pub fn take(folder: &Path, argument: &str) -> Result<FolderLock> {
        let path = folder.join(LOCK);
        loop {
            // What a link leads to is not ours to write to.
            if fs::symlink_metadata(&path).is_ok_and(|there| !there.is_file()) {
                return Err(Error::Malformed {
                    path,
                    problem: "it is no file, where the folder's lock is to be".into(),
                });
            }
            let mut options = File::options();
            let mut file = options
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(Error::io(&path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(in_use(folder, argument, &path)),
                Err(TryLockError::Error(error)) => {
                    let shown = folder.display();
                    warn(&format!(
                        "{shown} cannot be locked ({error}): see to it that no other process writes there"
                    ));
                    drop(file);
                    fs::remove_file(&path).ok();
                    return Ok(FolderLock { file: None, path });
                }
            }
            // The process that had it may have removed it just now.
            if is_at(&file, &path) {
                // For people: a lock holds without.
                let told = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
                told.map_err(Error::io(&path))?;
                return Ok(FolderLock { file: Some(file), path });
            }
        }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // While it is locked: whoever waits with the removed file open looks whether it is there still. Elsewhere that
        // cannot be told, and the file stays.
        if cfg!(unix) && self.file.is_some() {
            fs::remove_file(&self.path).ok();
        }
    }
}

/// Returns what is told where another process writes in a folder.
fn in_use(folder: &Path, argument: &str, lock: &Path) -> Error {
    let text = files::read(lock, LONGEST).unwrap_or_default();
    let id = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let who = id.map_or("another process".to_owned(), |id| format!("process {id}"));
    let folder = folder.display();
    Error::Usage(format!(
        "{argument}: {who} writes in {folder}: wait for its end or stop it, or name another folder"
    ))
}

/// Returns whether a file is the one at a path.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |there: fs::Metadata| (there.dev(), there.ino());
    let own = file.metadata().map(identity);
    fs::metadata(path).map(identity).is_ok_and(|there| own.is_ok_and(|own| own == there))
}

/// Returns whether a file is the one at a path: no process removes it.
#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        // What a process that was killed leaves.
        fs::write(folder.join(LOCK), "99999999 and more").unwrap();
        let first = FolderLock::take(folder, "--out").unwrap();
        let refused = FolderLock::take(folder, "--out").unwrap_err();
        assert_eq!(refused.code(), 2);
        let told = refused.to_string();
        if cfg!(unix) {
            assert!(told.starts_with(&format!("--out: process {} writes in ", std::process::id())), "{told}");
        }
        drop(first);
        assert!(!cfg!(unix) || !folder.join(LOCK).exists());
        FolderLock::take(folder, "--out").unwrap();
    }

    /// Of many that come and go at once, one has it at any time.
    #[test]
    fn no_two_have_it() {
        let temporary = tempfile::tempdir().unwrap();
        let taken = std::sync::atomic::AtomicUsize::new(0);
        let count = std::sync::atomic::AtomicUsize::new(0);
        let order = std::sync::atomic::Ordering::SeqCst;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        if let Ok(_lock) = FolderLock::take(temporary.path(), "--out") {
                            assert_eq!(taken.fetch_add(1, order), 0, "two have it");
                            count.fetch_add(1, order);
                            taken.fetch_sub(1, order);
                        }
                    }
                });
            }
        });
        assert!(count.load(order) > 0);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed() {
        let temporary = tempfile::tempdir().unwrap();
        let precious = temporary.path().join("precious");
        fs::write(&precious, "text").unwrap();
        std::os::unix::fs::symlink(&precious, temporary.path().join(LOCK)).unwrap();
        assert!(FolderLock::take(temporary.path(), "--out").unwrap_err().to_string().contains(LOCK));
        assert_eq!(fs::read(&precious).unwrap(), b"text");
    }
}
