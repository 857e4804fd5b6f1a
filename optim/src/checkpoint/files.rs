//! Files that are written atomically.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// How the names of files being written begin.
const TEMPORARY: &str = ".fallline-";
/// How old an empty file must be before its writer counts as dead.
const STARTING: Duration = Duration::from_secs(60);

/// Returns whether a name is one of those that [`write_atomically`] gives a file until it is whole.
pub fn is_temporary(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes())
}

/// Removes what [`write_atomically`] left in a folder when it was killed. Files of processes that are at work stay: each
/// locks its own.
///
/// Where the file system has no locks, everything stays.
///
/// # Errors
/// Those of the file system.
pub fn remove_temporaries(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if is_temporary(&entry.file_name()) && entry.file_type()?.is_file() && is_abandoned(&entry.path()) {
            match std::fs::remove_file(entry.path()) {
                // Its writer has finished meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
    }
    Ok(())
}

/// Returns whether the process that wrote a file has ended before it was whole.
fn is_abandoned(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    if file.try_lock().is_err() {
        return false;
    }
    // Its writer may be about to lock it, and writes nothing before.
    let old = |age: std::time::SystemTime| age.elapsed().is_ok_and(|age| age > STARTING);
    file.metadata().is_ok_and(|there| there.len() > 0 || there.modified().is_ok_and(old))
}

/// Writes a file atomically: to a temporary file next to it, which is flushed to the disk and renamed. So nobody ever
/// sees a part of it. Returns the file, open at its end.
///
/// A symbolic link stays, and the file that it names is replaced. A device or a pipe (`/dev/null`, `/dev/stdout`) is
/// written to as it is.
///
/// # Errors
/// Those of the file system; an older file is then still whole.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<std::fs::File> {
    let there = std::fs::metadata(path);
    if there.is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        let mut device = std::fs::OpenOptions::new().write(true).open(path)?;
        device.write_all(bytes)?;
        return Ok(device);
    }
    let target = path.is_symlink().then(|| path.canonicalize().ok()).flatten();
    replace(target.as_deref().unwrap_or(path), bytes)
}

fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<std::fs::File> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.try_exists()? {
        let missing = format!("there is no folder {}", folder.display());
        return Err(std::io::Error::new(std::io::ErrorKind::NotFound, missing));
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    // What any new file would get: the process's mask takes its part away.
    #[cfg(unix)]
    let everyone = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666);
    #[cfg(unix)]
    builder.permissions(everyone);
    // Of the error without the temporary name, which means nothing to who named the target.
    let unnamed = |error: std::io::Error| {
        let cause = error.get_ref().and_then(|named| named.source()).map(ToString::to_string);
        match cause {
            Some(cause) => std::io::Error::new(error.kind(), cause),
            None => error,
        }
    };
    let mut file = builder.tempfile_in(folder).map_err(unnamed)?;
    // While it is locked, it is not taken for what a killed process left. Some file systems have no locks.
    let is_locked = file.as_file().lock().is_ok();
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    let file = file.persist(path).map_err(|error| error.error)?;
    if is_locked {
        file.unlock().ok();
    }
    // The rename itself reaches the disk with the folder; where folders cannot be opened, that is all.
    if let Ok(folder) = std::fs::File::open(folder) {
        folder.sync_all().ok();
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only what no process is writing any more is removed.
    #[test]
    fn files_of_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let [at_work, starting, dead, other] =
            [".fallline-a", ".fallline-b", ".fallline-c", "c"].map(|name| folder.path().join(name));
        for path in [&at_work, &dead, &other] {
            std::fs::write(path, "part").unwrap();
        }
        let starting = (File::create(&starting).unwrap(), starting);
        let locked = File::open(&at_work).unwrap();
        locked.lock().unwrap();
        remove_temporaries(folder.path()).unwrap();
        let left = || [&at_work, &starting.1, &dead, &other].map(|path| path.exists());
        assert_eq!(left(), [true, true, false, true]);
        drop(locked);
        starting.0.set_modified(std::time::SystemTime::now() - 2 * STARTING).unwrap();
        remove_temporaries(folder.path()).unwrap();
        assert_eq!(left(), [false, false, false, true]);
        assert!(is_temporary(at_work.file_name().unwrap()) && !is_temporary(other.file_name().unwrap()));
    }

    #[test]
    fn a_missing_folder_is_named_and_an_older_file_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one/two");
        let error = write_atomically(&path, b"new").unwrap_err();
        assert!(error.to_string().ends_with("/one"), "{error}");
        let path = folder.path().join("file");
        std::fs::write(&path, "a longer one").unwrap();
        write_atomically(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert!(write_atomically(folder.path(), b"new").is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_and_devices_too() {
        use std::os::unix::fs::{FileTypeExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let [file, link, device] = ["there/file", "link", "device"].map(|name| folder.path().join(name));
        std::fs::create_dir(folder.path().join("there")).unwrap();
        std::fs::write(&file, "old").unwrap();
        symlink("there/file", &link).unwrap();
        write_atomically(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        symlink("/dev/null", &device).unwrap();
        write_atomically(&device, b"new").unwrap();
        assert!(device.is_symlink());
        assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }
}
