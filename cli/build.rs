//! Tells the command which commit it is built from, where that is known.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let commit = of_package().or_else(of_repository).unwrap_or_default();
    println!("cargo:rustc-env=FALLLINE_COMMIT={commit}");
}

/// Returns the commit that a published package was made from.
fn of_package() -> Option<String> {
    let info = std::fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let hash = info.split("\"sha1\"").nth(1)?.split('"').nth(1)?;
    shortened(hash)
}

/// Returns the commit of the repository around, if it is this project's: its root is the folder above.
fn of_repository() -> Option<String> {
    let own = Path::new("..").canonicalize().ok()?;
    let root = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&root).canonicalize().ok()? != own {
        return None;
    }
    // What changes with a commit, also in a linked work tree.
    for path in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", path]).filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    shortened(&git(&["rev-parse", "HEAD"])?)
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

fn shortened(hash: &str) -> Option<String> {
    let is_hash = hash.len() >= 12 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| hash[..12].to_owned())
}
