//! Files that are whole or not there.

use std::io::Write;
use std::path::Path;

/// How the names of files being written begin.
const TEMPORARY: &str = ".fallline-";

/// Removes what [`write_atomically`] left in a folder when it was killed. Call it only where nothing else
/// is writing.
///
/// # Errors
/// Those of the file system.
pub fn remove_temporaries(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) && entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Writes a file beside its place, flushes it to the disk and renames it, so that nobody ever sees a part
/// of it. Returns the file, open at its end.
///
/// # Errors
/// Those of the file system; an older file is then still whole.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<std::fs::File> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    // What any new file would get: the process's mask takes its part away.
    #[cfg(unix)]
    let everyone = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666);
    #[cfg(unix)]
    builder.permissions(everyone);
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    let file = file.persist(path).map_err(|error| error.error)?;
    // The rename itself reaches the disk with the folder; where folders cannot be opened, that is all.
    if let Ok(folder) = std::fs::File::open(folder) {
        folder.sync_all().ok();
    }
    Ok(file)
}
