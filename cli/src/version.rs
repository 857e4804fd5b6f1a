//! `--version`: what this build is.

use fallline::Isa;
use std::sync::LazyLock;

/// The commit that it was built from; empty where that is not known.
const COMMIT: &str = env!("FALLLINE_COMMIT");

/// The version in one line, for `-V`.
pub static SHORT: LazyLock<String> = LazyLock::new(short);
/// The version with what it was built with and what it runs on, for `--version`.
pub static LONG: LazyLock<String> = LazyLock::new(long);

fn short() -> String {
    let version = env!("CARGO_PKG_VERSION");
    if COMMIT.is_empty() { version.to_owned() } else { format!("{version} ({COMMIT})") }
}

fn long() -> String {
    let mut features = vec!["convert", "cuda"];
    features.extend(cfg!(feature = "mpi").then_some("mpi"));
    let isa = match Isa::from_environment() {
        Ok(isa) => isa.name().to_owned(),
        Err(error) => error.to_string(),
    };
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let features = features.join(", ");
    format!("{}\nfeatures: {features}\ninstruction set: {isa}\nplatform: {os} {arch}", short())
}
