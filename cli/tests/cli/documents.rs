//! The commands that README and the pages in docs show: each is run as it stands there, in one folder a page.

use super::BINARY;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files that the pages take for granted, and what stands for them in tests/golden.
const GIVEN: [(&str, &str); 4] = [
    ("in.safetensors", "traces/f32.safetensors"),
    ("cpu.safetensors", "traces/f32.safetensors"),
    ("cuda.safetensors", "traces/f32.safetensors"),
    ("run.pth", "converted/mmengine.pth"),
];

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the lines of a page's shell blocks that need nothing but this binary, with what makes them quick.
fn commands(page: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut shell = false;
    for line in page.lines() {
        if let Some(language) = line.strip_prefix("```") {
            shell = language == "sh";
        } else if shell && (line.starts_with("fallline ") || line.starts_with("echo ")) {
            let line = line.split("  #").next().unwrap_or(line).trim_end();
            lines.push(line.to_owned());
        }
    }
    lines.retain(|line| !line.contains("--device cuda"));
    for line in &mut lines {
        if line.contains(" train ") {
            line.push_str(" --epochs 1");
        } else if line.contains(" bench ") {
            *line = line.replace(" --elements 67108864", "") + " --elements 65536";
        }
    }
    lines
}

/// Runs the commands of a page, and returns how many there were.
fn run(page: &Path) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let configs = folder.path().join("configs");
    std::fs::create_dir(&configs).unwrap();
    for config in std::fs::read_dir(project().join("configs")).unwrap() {
        let config = config.unwrap();
        std::fs::copy(config.path(), configs.join(config.file_name())).unwrap();
    }
    for (name, golden) in GIVEN {
        std::fs::copy(project().join("tests/golden").join(golden), folder.path().join(name)).unwrap();
    }
    let binaries = Path::new(BINARY).parent().unwrap().to_str().unwrap();
    let path = format!("{binaries}:{}", std::env::var("PATH").unwrap_or_default());
    let lines = commands(&std::fs::read_to_string(page).unwrap());
    for line in &lines {
        let mut shell = Command::new("sh");
        let told = shell.args(["-c", line]).current_dir(&folder).env("PATH", &path).output().unwrap();
        let error = String::from_utf8_lossy(&told.stderr);
        assert!(told.status.success(), "{}: {line}\n{error}", page.display());
    }
    lines.len()
}

#[test]
fn commands_of_the_documents_work() {
    let pages = ["command", "conversion", "cookbook", "ranks", "benchmarks/README"];
    let run: Vec<usize> = pages.map(|page| run(&project().join(format!("docs/{page}.md")))).to_vec();
    assert!(run.iter().all(|count| *count > 0) && run.iter().sum::<usize>() > 25, "{run:?}");
}

#[test]
fn commands_are_found_and_made_quick() {
    let page = "fallline no\n```sh\nfallline train --set a=1    # why\nfallline bench --device cuda\ncargo build\n```\n\
                ```text\nfallline no\n```\n```sh\nfallline bench --elements 67108864 AdamW\n```\n";
    assert_eq!(
        commands(page),
        ["fallline train --set a=1 --epochs 1", "fallline bench AdamW --elements 65536"]
    );
}
