//! NVIDIA's assembler and disassembler.

use crate::Result;
use crate::rules::{COUNTED, Printed};
use crate::sass::{self, Sass};
use fallline_cuda::ptx::{Ptx, Target};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the tools found out about a kernel.
#[derive(Clone, Default)]
pub struct Found {
    /// Registers of a thread, for each of the kernel's architectures.
    pub registers: Vec<u32>,
    /// Bytes that are spilled, for all architectures together.
    pub spilled: u32,
    /// The instructions for compute capability 9.0.
    pub sass: Sass,
}

/// Where the tools are, and what they said before.
pub struct Tools {
    dir: PathBuf,
}

impl Tools {
    /// Returns the tools in a folder.
    pub fn at(dir: &Path) -> Result<Tools> {
        for tool in ["ptxas", "nvdisasm"] {
            if !dir.join(tool).exists() {
                return Err(format!("{} is not in {}: see cuda/install-ptxas", tool, dir.display()).into());
            }
        }
        std::fs::create_dir_all(dir.join("cache"))?;
        Ok(Tools { dir: dir.canonicalize()? })
    }

    /// Asks about all kernels, as many at a time as there are processors.
    pub fn judge_all(&self, kernels: &[Printed]) -> Result<Vec<Found>> {
        let next = AtomicUsize::new(0);
        let found: Vec<OnceLock<Result<Found>>> = kernels.iter().map(|_| OnceLock::new()).collect();
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
                scope.spawn(|| {
                    loop {
                        let place = next.fetch_add(1, Ordering::Relaxed);
                        let Some(kernel) = kernels.get(place) else { break };
                        found[place].get_or_init(|| self.judge(kernel));
                    }
                });
            }
        });
        found.into_iter().map(|found| found.into_inner().expect("all were taken")).collect()
    }

    fn judge(&self, kernel: &Printed) -> Result<Found> {
        let mut found = Found::default();
        for &major in kernel.architectures {
            let target = Target::of_device(major, 0);
            let ptx = kernel.texts.iter().find(|ptx| Some(ptx.target) == target).ok_or("no such target")?;
            let (usage, sass) = self.assemble(ptx, major)?;
            found.registers.push(number_before(&usage, " registers").ok_or("ptxas told no registers")?);
            for kind in [" bytes spill stores", " bytes spill loads"] {
                found.spilled += number_before(&usage, kind).unwrap_or(0);
            }
            if major == COUNTED {
                found.sass = sass::read(&sass, kernel.element.is_some());
            }
        }
        Ok(found)
    }

    /// Returns what `ptxas -v` says and, for the counted architecture, the instructions.
    fn assemble(&self, ptx: &Ptx, major: u32) -> Result<(String, String)> {
        let mut hasher = DefaultHasher::new();
        (&ptx.text, major).hash(&mut hasher);
        let stem = self.dir.join("cache").join(format!("{:016x}", hasher.finish()));
        let file = |end: &str| stem.with_extension(end);
        if let (Ok(usage), Ok(sass)) =
            (std::fs::read_to_string(file("usage")), std::fs::read_to_string(file("sass")))
        {
            return Ok((usage, sass));
        }
        std::fs::write(file("ptx"), &ptx.text)?;
        let mut ptxas = Command::new(self.dir.join("ptxas"));
        ptxas.arg("-v").arg(format!("-arch=sm_{major}0")).arg(file("ptx")).arg("-o").arg(file("cubin"));
        let usage = self.output(&ptx.entry, ptxas)?;
        let mut sass = String::new();
        if major == COUNTED {
            let mut nvdisasm = Command::new(self.dir.join("nvdisasm"));
            nvdisasm.arg("-c").arg(file("cubin"));
            sass = self.output(&ptx.entry, nvdisasm)?;
        }
        std::fs::write(file("sass"), &sass)?;
        // Last: what is there whole was all there.
        std::fs::write(file("usage"), &usage)?;
        Ok((usage, sass))
    }

    /// Returns what a command prints, on both ways.
    fn output(&self, entry: &str, mut command: Command) -> Result<String> {
        let output = command.output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = text(&output.stdout) + &text(&output.stderr);
        match output.status.success() {
            true => Ok(said),
            false => Err(format!("{entry}: {command:?} failed:\n{said}").into()),
        }
    }
}

/// Returns the number in front of `words`, as in `Used 67 registers`.
fn number_before(text: &str, words: &str) -> Option<u32> {
    let before = &text[..text.find(words)?];
    before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
