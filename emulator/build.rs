//! Lets the library open its own links by bare names (see `fallline_emulator_adopt`).

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-rpath,$ORIGIN");
    println!("cargo:rerun-if-changed=build.rs");
}
