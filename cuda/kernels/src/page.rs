//! The page of the manual, and what it must not show.

use crate::rules::Printed;
use crate::tools::Found;
use std::fmt::Write;

const HEAD: &str = "\
# CUDA kernels

`cargo run --release -p fallline-cuda-kernels -- --tools DIR` writes this page. `cuda/install-ptxas DIR` fetches NVIDIA's
tools; no GPU is needed. The program prints every rule of every registered algorithm as PTX, and ptxas 12.9 assembles it.

It fails on

- spilled registers,
- a fast path without 128-bit accesses,
- accesses without a state space,
- more than 72 registers for a rule in f32 without sums.

A kernel keeps 8 terms and 2 accumulators of each sum in registers. A rule with more than four operands in f32 takes a step in
two halves.

| column | meaning |
|---|---|
| registers | of a thread, for compute capability 7.0 / 8.0 / 9.0 / 10.0; of storage formats for 9.0 alone |
| instructions | of the machine (9.0), for one element in one lane, on the fast path: a whole, aligned step of 256 elements |
| bytes | moved for one element |
| loads, stores | 128-bit accesses of a lane in one step of 8 elements |
";

const OTHERS: &str = "
## Others

`wide` counts 128-bit accesses in the machine's instructions (9.0). These kernels access single values: the final reduction
reads values that lie apart, and one side of `symmetrize` does. Column sums, short rows and indexed rows take one value a lane.

| kernel | registers | spilled | wide |
|---|---|---|---|
";

/// Returns the page.
pub fn text(kernels: &[Printed], found: &[Found]) -> String {
    let mut text = String::from(HEAD);
    text += "\n## Rules\n\n";
    text += "| rule | formats | registers | spilled | instructions | bytes | loads | stores |\n";
    text += "|---|---|---|---|---|---|---|---|\n";
    let registers = |found: &Found| {
        let numbers: Vec<String> = found.registers.iter().map(u32::to_string).collect();
        numbers.join(" / ")
    };
    let both = || kernels.iter().zip(found);
    for (kernel, found) in both() {
        let Some(wanted) = &kernel.element else { continue };
        let sass = &found.sass;
        writeln!(
            text,
            "| `{}` | {} | {} | {} | {:.1} | {} | {} | {} |",
            kernel.name,
            kernel.formats,
            registers(found),
            found.spilled,
            sass.turn as f64 / 8.0,
            wanted.bytes,
            sass.wide_loads,
            sass.wide_stores,
        )
        .expect("strings take all text");
    }
    text += OTHERS;
    for (kernel, found) in both().filter(|(kernel, _)| kernel.element.is_none()) {
        writeln!(
            text,
            "| {} | {} | {} | {} |",
            kernel.name,
            registers(found),
            found.spilled,
            found.sass.wide
        )
        .expect("strings take all text");
    }
    text
}

/// Returns what is wrong with the kernels.
pub fn problems(kernels: &[Printed], found: &[Found]) -> Vec<String> {
    let mut problems = Vec::new();
    for (kernel, found) in kernels.iter().zip(found) {
        let mut problem = |what: String| problems.push(format!("{} {}: {what}", kernel.name, kernel.formats));
        if found.spilled > 0 {
            problem(format!("{} bytes are spilled", found.spilled));
        }
        if found.sass.generic > 0 {
            problem(format!("{} accesses have no state space", found.sass.generic));
        }
        if kernel.wide && found.sass.wide == 0 {
            problem("no access has 128 bits".into());
        }
        let Some(wanted) = &kernel.element else { continue };
        let (loads, stores) = (found.sass.wide_loads, found.sass.wide_stores);
        if (loads, stores) != (wanted.loads, wanted.stores) {
            let expected = format!("{} and {} were expected", wanted.loads, wanted.stores);
            problem(format!("{loads} loads and {stores} stores have 128 bits where {expected}"));
        }
        for (major, &registers) in kernel.architectures.iter().zip(&found.registers) {
            if let Some(most) = wanted.registers.filter(|most| registers > *most) {
                problem(format!("{registers} registers for {major}.0, more than {most}"));
            }
        }
    }
    problems
}
