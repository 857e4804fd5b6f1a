//! What NVIDIA's assembler makes of the kernels that fallline prints.
//!
//! `fallline-cuda-kernels --tools DIR [--ptx DIR] [--check]` prints the element-wise kernel of every rule of every
//! registered algorithm, and the other kernels of the CUDA backend. It assembles each for four architectures, and
//! writes what it finds to `docs/cuda-kernels.md`. It fails where a kernel spills, moves less than 128 bits at a time
//! on its fast path, uses generic accesses or too many registers. With `--check` it writes nothing and fails where
//! the page is not what it would write. `--ptx` keeps the texts.
//!
//! `cuda/install-ptxas DIR` fetches the tools. No GPU is needed.

#![forbid(unsafe_code)]

mod page;
mod rules;
mod sass;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

struct Args {
    tools: PathBuf,
    ptx: Option<PathBuf>,
    check: bool,
}

fn args() -> Result<Args> {
    let (mut tools, mut ptx, mut check) = (None, None, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--tools" => tools = args.next().map(PathBuf::from),
            "--ptx" => ptx = args.next().map(PathBuf::from),
            "--check" => check = true,
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    Ok(Args { tools: tools.ok_or("--tools DIR: see cuda/install-ptxas")?, ptx, check })
}

fn run() -> Result<Vec<String>> {
    let args = args()?;
    let kernels = rules::kernels();
    if let Some(dir) = &args.ptx {
        std::fs::create_dir_all(dir)?;
        for kernel in &kernels {
            for ptx in &kernel.texts {
                let name = format!("{}.{}.ptx", kernel.file(), ptx.target.architecture());
                std::fs::write(dir.join(name), &ptx.text)?;
            }
        }
    }
    let found = tools::Tools::at(&args.tools)?.judge_all(&kernels)?;
    let mut problems = page::problems(&kernels, &found);
    let text = page::text(&kernels, &found);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cuda-kernels.md");
    if !args.check {
        std::fs::create_dir_all(page.parent().expect("a file has a folder"))?;
        std::fs::write(&page, text)?;
    } else if std::fs::read_to_string(&page)? != text {
        problems.push("docs/cuda-kernels.md is not what would be written: run again without --check".into());
    }
    Ok(problems)
}

fn main() -> ExitCode {
    match run() {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            problems.iter().for_each(|problem| eprintln!("{problem}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
