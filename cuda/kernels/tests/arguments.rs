//! The command's arguments. That it is run here has it built with the tests, as `.ci/run` needs it.

use std::process::Command;

#[test]
fn what_is_wrong_is_said_before_anything_is_written() {
    let missing = tempfile::tempdir().unwrap();
    let folder = missing.path().to_str().unwrap();
    let cases = [
        (vec![], "--tools DIR: see cuda/install-ptxas"),
        (vec!["--tool", folder], "unknown argument --tool"),
        (vec!["--tools", folder, "--check"], "ptxas"),
    ];
    for (arguments, what) in cases {
        let done =
            Command::new(env!("CARGO_BIN_EXE_fallline-cuda-kernels")).args(&arguments).output().unwrap();
        let told = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.contains(what), "{arguments:?}: {told}");
    }
}
