//! Completions, manual pages, versions, and what `--help` says.

use super::{COMMANDS, bad, fallline, good};

#[test]
fn completions_name_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = good(&["completions", shell]);
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    bad(fallline().args(["completions", "csh"]), 2, &["csh", "bash"]);
}

/// bash itself completes a command.
#[cfg(unix)]
#[test]
fn bash_takes_its_completions() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("fallline.bash");
    std::fs::write(&script, good(&["completions", "bash"])).unwrap();
    let ask = "source \"$1\"; COMP_WORDS=(fallline sche); COMP_CWORD=1; _fallline fallline sche fallline; echo \"${COMPREPLY[@]}\"";
    let Ok(output) = std::process::Command::new("bash").args(["-c", ask, "bash"]).arg(&script).output()
    else {
        eprintln!("there is no bash here: skipped");
        return;
    };
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(told.split_whitespace().collect::<Vec<_>>(), ["schedule", "schema"], "{output:?}");
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let page = good(&["man"]);
    assert!(
        page.contains(".TH fallline 1") && page.contains("Exit codes") && page.contains("FALLLINE_ISA"),
        "{page}"
    );
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    let told = good(&["man", pages.to_str().unwrap()]);
    assert!(told.ends_with(&format!("{} pages\n", COMMANDS.len() + 1)), "{told}");
    for command in COMMANDS {
        let page = std::fs::read_to_string(pages.join(format!("fallline-{command}.1"))).unwrap();
        assert!(page.contains("Example"), "{command}: {page}");
    }
    assert_eq!(std::fs::read_to_string(pages.join("fallline.1")).unwrap(), page);
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    bad(fallline().arg("man").arg(&file), 1, &["file", "is not a folder"]);
}

#[test]
fn versions_say_what_is_built() {
    let short = good(&["-V"]);
    assert!(
        short.starts_with(concat!("fallline ", env!("CARGO_PKG_VERSION"))) && short.lines().count() == 1,
        "{short}"
    );
    let long = good(&["--version"]);
    assert!(long.starts_with(short.trim_end()), "{long}");
    for part in ["features: convert, cuda", "instruction set: ", "platform: "] {
        assert!(long.contains(part), "{part}: {long}");
    }
    let forced = fallline().env("FALLLINE_ISA", "scalar").arg("--version").output().unwrap();
    assert!(String::from_utf8_lossy(&forced.stdout).contains("instruction set: scalar"));
}

#[test]
fn help_names_variables_and_exit_codes() {
    let help = good(&["--help"]);
    for part in ["FALLLINE_ISA", "FALLLINE_EMULATOR", "NO_COLOR", "Exit codes", "130", "--color", "--quiet"] {
        assert!(help.contains(part), "{part}: {help}");
    }
}
