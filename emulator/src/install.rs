//! Putting the emulator in the place of CUDA inside a running test.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The names under which CUDA's libraries are searched.
const NAMES: [&str; 6] =
    ["libcuda.so", "libcuda.so.1", "libcublas.so", "libcublas.so.12", "libnccl.so", "libnccl.so.2"];

/// Why the emulator could not be put in place.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InstallError {
    /// The library is not where Cargo puts it.
    #[error(
        "libfallline_emulator.so is not in {0:?}: add fallline-emulator to the dev-dependencies, or name it in FALLLINE_EMULATOR_LIBRARY"
    )]
    NotBuilt(Vec<PathBuf>),
    /// A folder or a link could not be made.
    #[error("{0}: {1}")]
    Files(PathBuf, String),
    /// The loader refused.
    #[error("cannot load the emulator: {0}")]
    Loader(String),
}

/// The loaded emulator.
#[derive(Debug, Clone, Copy)]
pub struct Emulator {
    configure: unsafe extern "C" fn(*const c_char) -> i32,
    last_fault: unsafe extern "C" fn(*mut u8, usize) -> usize,
    failed: unsafe extern "C" fn(*mut u8, usize) -> usize,
    calls: unsafe extern "C" fn(*const c_char) -> u64,
    allocations: unsafe extern "C" fn() -> u64,
    reset: unsafe extern "C" fn(),
}

/// Puts the emulator in the place of CUDA in this process. Call it before anything of cudarc; a second call gives
/// what the first gave. Where the emulator is already in place (`tests/emulated-cuda`), it is that one.
pub fn install() -> Result<&'static Emulator, InstallError> {
    static INSTALLED: OnceLock<Result<Emulator, InstallError>> = OnceLock::new();
    INSTALLED.get_or_init(load).as_ref().map_err(Clone::clone)
}

fn load() -> Result<Emulator, InstallError> {
    let library = match open(c"libcuda.so")
        .and_then(|handle| symbol(handle, c"fallline_emulator_adopt").map(|_| handle))
    {
        Ok(handle) => handle,
        Err(_) => open(&in_folder()?)?,
    };
    let adopt = symbol(library, c"fallline_emulator_adopt")?;
    // SAFETY: this is the type of that function in `control`.
    let adopt: unsafe extern "C" fn() -> i32 = unsafe { std::mem::transmute(adopt) };
    // SAFETY: it has no conditions.
    let adopted = unsafe { adopt() };
    if adopted < NAMES.len() as i32 {
        return Err(InstallError::Loader(format!("only {adopted} of the names {NAMES:?} were taken")));
    }
    let find = |name| symbol(library, name);
    // SAFETY: these are the types of those functions in `control`.
    unsafe {
        Ok(Emulator {
            configure: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_char) -> i32>(find(
                c"fallline_emulator_configure",
            )?),
            last_fault: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut u8, usize) -> usize>(
                find(c"fallline_emulator_last_fault")?,
            ),
            failed: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut u8, usize) -> usize>(find(
                c"fallline_emulator_failed",
            )?),
            calls: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_char) -> u64>(find(
                c"fallline_emulator_calls",
            )?),
            allocations: std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> u64>(find(
                c"fallline_emulator_allocations",
            )?),
            reset: std::mem::transmute::<*mut c_void, unsafe extern "C" fn()>(find(
                c"fallline_emulator_reset",
            )?),
        })
    }
}

/// Returns where Cargo puts the library of a dev-dependency: next to the test, or in `deps` next to the binary.
fn built() -> Result<PathBuf, InstallError> {
    if let Some(path) = std::env::var_os("FALLLINE_EMULATOR_LIBRARY") {
        return Ok(path.into());
    }
    let exe = std::env::current_exe().unwrap_or_default();
    let here = exe.parent().unwrap_or(Path::new("."));
    let folders = [here.to_path_buf(), here.join("deps"), here.join("../deps"), here.join("..")];
    let found = folders.iter().map(|f| f.join("libfallline_emulator.so")).find(|p| p.exists());
    found.ok_or_else(|| InstallError::NotBuilt(folders.to_vec()))
}

/// Returns a folder next to the library with a link of each name; its `libcuda.so`.
fn in_folder() -> Result<CString, InstallError> {
    let library = built()?;
    let library = library.canonicalize().map_err(|e| InstallError::Files(library.clone(), e.to_string()))?;
    let folder = library.with_file_name("emulated-cuda");
    let failed = |path: &Path, error: std::io::Error| InstallError::Files(path.into(), error.to_string());
    std::fs::create_dir_all(&folder).map_err(|e| failed(&folder, e))?;
    for name in NAMES {
        let link = folder.join(name);
        if link.canonicalize().is_ok_and(|target| target == library) {
            continue;
        }
        // Tests run at the same time: the link is made under a name of this process and moved into place.
        let own = folder.join(format!("{name}.{}", std::process::id()));
        let _ = std::fs::remove_file(&own);
        std::os::unix::fs::symlink(&library, &own).map_err(|e| failed(&own, e))?;
        std::fs::rename(&own, &link).map_err(|e| failed(&link, e))?;
    }
    let path = folder.join(NAMES[0]);
    CString::new(path.into_os_string().into_encoded_bytes()).map_err(|e| InstallError::Loader(e.to_string()))
}

fn loader_error() -> InstallError {
    // SAFETY: `dlerror` gives null or a string that lives until the next call of this thread.
    let text = unsafe { libc::dlerror() };
    let text = if text.is_null() {
        c"no reason was given"
    } else {
        // SAFETY: not null; see above.
        unsafe { CStr::from_ptr(text) }
    };
    InstallError::Loader(text.to_string_lossy().into_owned())
}

fn open(path: &CStr) -> Result<*mut c_void, InstallError> {
    // SAFETY: the emulator has no initialisers of its own; a real driver is loaded as cudarc would load it.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if handle.is_null() { Err(loader_error()) } else { Ok(handle) }
}

fn symbol(library: *mut c_void, name: &CStr) -> Result<*mut c_void, InstallError> {
    // SAFETY: the handle came from `dlopen` and is never closed.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    if found.is_null() { Err(loader_error()) } else { Ok(found) }
}

/// Returns a string of the emulator's, if it is not empty.
fn text(hand_out: unsafe extern "C" fn(*mut u8, usize) -> usize) -> Option<String> {
    let mut bytes = vec![0; 4096];
    // SAFETY: the buffer has as many bytes as are said.
    let len = unsafe { hand_out(bytes.as_mut_ptr(), bytes.len()) };
    bytes.truncate(len);
    (len > 0).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

impl Emulator {
    /// Applies options: `checked`, `unchecked`, `lazy`, `eager`, `seed=3`, `devices=2`, `memory=BYTES`, `steps=N`,
    /// `peers`, `fail=CALL:NTH:CODE`, `fail-alloc=NTH`, separated by commas.
    ///
    /// # Panics
    /// On an unknown option: it is a mistake of the test.
    pub fn configure(&self, options: &str) {
        let text = CString::new(options).expect("options have no zero byte");
        // SAFETY: a string that ends.
        let code = unsafe { (self.configure)(text.as_ptr()) };
        assert!(code == 0, "{}", self.last_fault().unwrap_or_default());
    }

    /// Returns what the last fault, refused module or leak was.
    pub fn last_fault(&self) -> Option<String> {
        text(self.last_fault)
    }

    /// Returns the function whose call was last made to fail (`fail=…`) since the last reset.
    pub fn failed(&self) -> Option<String> {
        text(self.failed)
    }

    /// Returns how often a function of the driver was called since the last reset.
    pub fn calls(&self, name: &str) -> u64 {
        let name = CString::new(name).expect("a name has no zero byte");
        // SAFETY: a string that ends.
        unsafe { (self.calls)(name.as_ptr()) }
    }

    /// Returns how many calls there were of all functions.
    pub fn all_calls(&self) -> u64 {
        // SAFETY: null asks for all.
        unsafe { (self.calls)(std::ptr::null()) }
    }

    /// Allocations of devices and of page-locked memory that are alive.
    pub fn allocations(&self) -> u64 {
        // SAFETY: it has no conditions.
        unsafe { (self.allocations)() }
    }

    /// Forgets counters, injections and the last fault.
    pub fn reset(&self) {
        // SAFETY: it has no conditions.
        unsafe { (self.reset)() }
    }
}
