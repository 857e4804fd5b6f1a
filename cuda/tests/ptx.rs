//! What every printed kernel must be like, read from its text. (That its bits are right is shown by running
//! it, and that it is good machine code by NVIDIA's assembler: see docs/cuda-kernels.md.)

use fallline_core::{Codes, Compute, Format, Graph, rule};
use fallline_cuda::ptx::{self, Ptx, Stored, Target, Type};
use std::collections::HashSet;

/// No hyperparameters.
pub struct Hyper;

rule! {
    /// Every operation, and sums of an operand, a uniform value and a result. One operand is written without being
    /// read, one is read only, and a literal is stored.
    pub Everything(h: Hyper, t) {
        let a = 0.5;
        let b = 0.25;
    }
    per_tensor(trust)
    element(g: Grad, s: State) -> (p: Param, fresh: State, constant: State) sum(norm, uniform, result) {
        let low = p.min(g).max(-s) - s.abs() / a;
        fresh = L::select(g.lt(s), low.sign(), low * trust);
        p = L::select(g.le(p), p + fresh.sqrt(), L::splat(0.1));
        constant = L::splat(0.1);
        norm = s;
        uniform = a * b;
        result = p;
    }
}

rule! {
    /// Descent with nothing but a step.
    pub Descent(h: Hyper, t) { let lr = 0.1; }
    element(g: Grad) -> (p: Param) { p = p - lr * g; }
}

fn print(compute: Compute, stored: [impl Into<Stored> + Copy; 5], target: Target) -> Ptx {
    ptx::element_kernel(&Graph::record::<Everything>(), "everything", compute, &stored, target)
}

/// bfloat16 that is rounded stochastically.
const STOCHASTIC: Stored = Stored { format: Format::Bf16, stochastic: true, copy: None, repeated: false };
/// A parameter in single precision with a copy in bfloat16.
const WITH_COPY: Stored =
    Stored { format: Format::F32, stochastic: false, copy: Some(Format::Bf16), repeated: false };

/// Returns an operand whose elements are repeated.
fn repeated(format: Format) -> Stored {
    Stored { repeated: true, ..format.into() }
}

/// Kernels of every kind, for every format on each of its ways.
fn all() -> Vec<Ptx> {
    let mut all = Vec::new();
    for target in Target::ALL {
        for compute in [Compute::F32, Compute::F64] {
            for shift in 0..Format::ALL.len() {
                let formats = [0, 1, 2, 3, 4].map(|i| Format::ALL[(i + shift) % Format::ALL.len()]);
                all.push(print(compute, formats, target));
            }
            for format in [Format::F64, Format::F32, Format::Bf16, Format::F16] {
                let [plain, repeated] = [format.into(), repeated(format)];
                all.push(print(compute, [plain, plain, plain, repeated, repeated], target));
                all.push(print(compute, [WITH_COPY, plain, STOCHASTIC, repeated, plain], target));
            }
            for shift in 0..Format::BLOCKS.len() {
                let blocks = [0, 1, 2, 3].map(|i| Format::BLOCKS[(i + shift) % Format::BLOCKS.len()]);
                let [a, b, c, d] = blocks.map(Stored::from);
                all.push(print(compute, [WITH_COPY, a, STOCHASTIC, b, c], target));
                all.push(print(compute, [STOCHASTIC, a, b, c, d], target));
            }
        }
        all.push(ptx::element_kernel(
            &Graph::record::<Descent>(),
            "descent",
            Compute::F32,
            &[Format::F32; 2],
            target,
        ));
        all.push(ptx::final_reduce_kernel("fold", target));
        all.extend([2, 4, 8].map(|bytes| ptx::symmetrize_kernel("mirror", bytes, target)));
        for (ty, squares) in [Type::F32, Type::F64].into_iter().flat_map(|ty| [(ty, false), (ty, true)]) {
            all.push(ptx::sum_rows_kernel("sum_rows", ty, squares, target));
            let short = |lanes| ptx::sum_short_rows_kernel("sum_short_rows", ty, squares, lanes, target);
            all.extend([1, 2, 4, 8, 16].map(short));
            all.push(ptx::sum_columns_kernel("sum_columns", ty, squares, target));
        }
        all.extend([2, 4, 8].map(|bytes| ptx::gather_rows_kernel("gather", bytes, target)));
        all.extend([2, 4, 8].map(|bytes| ptx::scatter_rows_kernel("scatter", bytes, target)));
        for compute in [Compute::F32, Compute::F64] {
            all.extend(Format::ALL.map(|format| ptx::add_rows_kernel("add_rows", format, compute, target)));
        }
    }
    all
}

/// One instruction: its guard, its opcode, and the registers and labels it names.
struct Instruction<'a> {
    guard: Option<&'a str>,
    opcode: &'a str,
    names: Vec<&'a str>,
    /// How many of the names are written.
    writes: usize,
}

fn instructions(text: &str) -> Vec<Instruction<'_>> {
    let body = &text[text.find("\n{\n").expect("a body") + 3..];
    let lines = body.lines().map(str::trim).filter_map(|line| line.strip_suffix(';'));
    lines
        .filter(|line| !line.starts_with('.') && !line.starts_with("//"))
        .map(|line| {
            let (guard, line) = match line.strip_prefix('@').and_then(|l| l.split_once(' ')) {
                Some((guard, line)) => (Some(guard.trim_start_matches('!')), line),
                None => (None, line),
            };
            let (opcode, operands) = line.split_once(' ').unwrap_or((line, ""));
            let name = |c: char| !(c.is_ascii_alphanumeric() || "_%$.".contains(c));
            let names: Vec<&str> =
                operands.split(name).filter(|n| n.starts_with('%') || n.starts_with('$')).collect();
            let writes = match (opcode.split('.').next(), operands.strip_prefix('{')) {
                (Some("st" | "bra" | "bar" | "ret"), _) => 0,
                (_, Some(list)) => list.split('}').next().expect("a list ends").matches('%').count(),
                _ => 1,
            };
            Instruction { guard, opcode, names, writes }
        })
        .collect()
}

#[test]
fn every_register_is_declared_once_and_written_before_it_is_read() {
    for kernel in all() {
        let declared: Vec<&str> = kernel
            .text
            .lines()
            .filter_map(|line| line.trim().strip_prefix(".reg ")?.strip_suffix(';')?.split_once(' '))
            .flat_map(|(_, names)| names.split(", "))
            .collect();
        let distinct: HashSet<&str> = declared.iter().copied().collect();
        assert_eq!(declared.len(), distinct.len(), "{}", kernel.text);
        let mut written = HashSet::new();
        for instruction in instructions(&kernel.text) {
            let (writes, reads) = instruction.names.split_at(instruction.writes);
            for name in reads.iter().copied().chain(instruction.guard).filter(|name| name.starts_with('%')) {
                let special = ["%tid.x", "%ntid.x", "%ctaid.x"].contains(&name);
                assert!(special || written.contains(name), "{name} is read first in\n{}", kernel.text);
            }
            for name in writes {
                assert!(distinct.contains(name), "{name} is not declared in\n{}", kernel.text);
                written.insert(*name);
            }
        }
    }
}

#[test]
fn branches_are_uniform_and_their_labels_stand_once() {
    for kernel in all() {
        for instruction in instructions(&kernel.text).iter().filter(|i| i.opcode.starts_with("bra")) {
            assert_eq!(instruction.opcode, "bra.uni");
            let label = format!("{}:", instruction.names[0]);
            assert_eq!(kernel.text.lines().filter(|line| *line == label).count(), 1, "{label}");
        }
    }
}

#[test]
fn arithmetic_is_rounded_to_nearest_and_never_contracted() {
    for kernel in all() {
        assert!(kernel.text.is_ascii());
        for instruction in instructions(&kernel.text) {
            let parts: Vec<&str> = instruction.opcode.split('.').collect();
            let float = parts.iter().any(|part| matches!(*part, "f32" | "f64"));
            if float && matches!(parts[0], "add" | "sub" | "mul" | "div" | "sqrt") {
                assert_eq!(parts[1], "rn", "{}", instruction.opcode);
            }
            assert!(!matches!(parts[0], "fma"), "{}", instruction.opcode);
            assert!(!(float && matches!(parts[0], "mad" | "min" | "max")), "{}", instruction.opcode);
            assert!(
                !parts.iter().any(|part| matches!(*part, "ftz" | "approx" | "sat")),
                "{}",
                instruction.opcode
            );
            if matches!(parts[0], "ld" | "st") {
                assert!(matches!(parts[1], "param" | "global" | "shared"), "{}", instruction.opcode);
            }
        }
    }
}

#[test]
fn whole_steps_move_128_bits_at_a_time() {
    use Format::{Bf16, F16, F32, F64};
    // p, fresh, constant, g, s: `fresh` and `constant` are written without being read.
    let kernel = print(Compute::F32, [F32, F64, Bf16, F16, F32], Target::Sm70);
    let count = |opcode: &str| instructions(&kernel.text).iter().filter(|i| i.opcode == opcode).count();
    assert_eq!(count("ld.global.v4.f32"), 2 * 2);
    assert_eq!(count("ld.global.v4.b32"), 1);
    assert_eq!(count("ld.global.v2.f64"), 0);
    assert_eq!(count("st.global.v4.f32"), 2);
    assert_eq!(count("st.global.v2.f64"), 4);
    assert_eq!(count("st.global.v4.b32"), 1);
    // Element by element: the same operands.
    assert_eq!(count("ld.global.f32"), 2 * 8);
    assert_eq!(count("ld.global.b16"), 8);
    assert_eq!(count("st.global.b16"), 8);
    assert_eq!(count("st.global.f32"), 8);
    // `fresh`, and a partial for each sum.
    assert_eq!(count("st.global.f64"), 8 + 3);
}

#[test]
fn many_operands_are_taken_in_two_parts() {
    // Four operands in single precision are 32 registers, five are 40.
    let loads = |kernel: Ptx| {
        let of = |instruction: &Instruction<'_>| {
            (instruction.opcode == "ld.global.v4.f32", instruction.opcode == "st.global.v4.f32")
        };
        let all: Vec<(bool, bool)> = instructions(&kernel.text).iter().map(of).collect();
        let first_store = all.iter().position(|(_, store)| *store).expect("stores");
        all[..first_store].iter().filter(|(load, _)| *load).count()
    };
    // p, g and s are loaded, two accesses each where all eight elements of a lane are held at once.
    assert_eq!(loads(print(Compute::F32, [Format::F32; 5], Target::Sm80)), 3);
    let descent = Graph::record::<Descent>();
    assert_eq!(
        loads(ptx::element_kernel(&descent, "descent", Compute::F32, &[Format::F32; 2], Target::Sm80)),
        4
    );
    // Half of a lane's elements in 16 bits would not fill an access.
    let mixed = [Format::F32, Format::F32, Format::F32, Format::Bf16, Format::F32];
    assert_eq!(loads(print(Compute::F32, mixed, Target::Sm80)), 4);
}

#[test]
fn codes_are_moved_together_and_chances_drawn_once_for_four() {
    let q8 = Format::Q8(Codes::Signed);
    let (f32, blocks) = (Format::F32.into(), [q8, Format::Q4(Codes::Signed), q8].map(Stored::from));
    // p, fresh, constant, g, s: `s` is loaded, `fresh` and `constant` are stored.
    let kernel = print(Compute::F32, [f32, blocks[0], blocks[1], f32, blocks[2]], Target::Sm80);
    let all = instructions(&kernel.text);
    let count = |opcode: &str| all.iter().filter(|i| i.opcode == opcode).count();
    assert_eq!(count("ld.global.v2.b32"), 1);
    assert_eq!(count("st.global.v2.b32"), 1);
    // Elements that are there, one by one; two of `constant` share a byte.
    assert_eq!((count("ld.global.u8"), count("st.global.u8")), (8, 8 + 4));
    // A scale for each block that is stored, of 32 and of 16 lanes.
    assert_eq!(count("shfl.sync.bfly.b32"), 5 + 4 + shuffles_of_sums());
    // Seven rounds for each four of a lane's elements.
    let kernel = print(Compute::F32, [STOCHASTIC, f32, STOCHASTIC, f32, f32], Target::Sm80);
    let all = instructions(&kernel.text);
    assert_eq!(all.iter().filter(|i| i.opcode == "mul.hi.u32").count(), 2 * 2 * 7);
    assert!(kernel.text.contains(".param .u64 keys") && kernel.text.contains("rounded stochastically"));
    let kernel = print(Compute::F32, [WITH_COPY, f32, f32, f32, f32], Target::Sm80);
    let all = instructions(&kernel.text);
    assert_eq!(all.iter().filter(|i| i.opcode == "cvt.rn.bf16x2.f32").count(), 4);
    assert!(kernel.text.contains("p_copy: a copy in bf16, written"));
}

#[test]
fn repeated_operands_are_loaded_one_by_one_and_change_nothing_else() {
    let (f32, bf16) = (Stored::from(Format::F32), Format::Bf16);
    // p, fresh, constant, g, s: p, g and s are loaded; five operands take two parts, three take one.
    let kernel = print(Compute::F32, [f32, f32, f32, repeated(Format::F32), repeated(bf16)], Target::Sm80);
    let all = instructions(&kernel.text);
    let count = |opcode: &str| all.iter().filter(|i| i.opcode == opcode).count();
    assert_eq!(count("ld.global.v4.f32"), 2);
    assert_eq!(count("ld.global.v4.b32") + count("ld.global.b16"), 0);
    // On each of the two ways eight, beside the scalars: a quotient and two remainders for the first of them alone.
    let scalars = |text: &str| text.matches("ld.global.nc.f32").count();
    let plain = print(Compute::F32, [f32; 5], Target::Sm80);
    assert_eq!(scalars(&kernel.text) - scalars(&plain.text), 2 * 8);
    assert_eq!(count("ld.global.nc.b16"), 2 * 8);
    assert_eq!((count("div.u32"), count("rem.u32")), (2 * 2, 2 * 2 * 2));
    assert!(kernel.text.contains("g: gradient in f32, read, repeated"));
}

#[test]
#[should_panic(expected = "a repeated operand that is written or in blocks")]
fn what_is_written_is_not_repeated() {
    let f32 = Stored::from(Format::F32);
    print(Compute::F32, [repeated(Format::F32), f32, f32, f32, f32], Target::Sm80);
}

/// Shuffles of a kernel that only has sums.
fn shuffles_of_sums() -> usize {
    let kernel = print(Compute::F32, [Format::F32; 5], Target::Sm80);
    instructions(&kernel.text).iter().filter(|i| i.opcode == "shfl.sync.bfly.b32").count()
}

#[test]
fn sixteen_bits_are_rounded_as_the_target_can() {
    use Format::{Bf16, F16};
    let text = |target| print(Compute::F32, [Bf16, F16, Bf16, Bf16, F16], target).text;
    assert!(text(Target::Sm70).contains("cvt.rn.f16.f32"));
    assert!(!text(Target::Sm70).contains("bf16x2"));
    assert!(text(Target::Sm80).contains("cvt.rn.bf16x2.f32"));
    assert!(text(Target::Sm80).contains("cvt.rn.f16x2.f32"));
    // From double precision by way of a single that was rounded to odd.
    let double = print(Compute::F64, [Bf16, F16, Bf16, Bf16, F16], Target::Sm80).text;
    assert!(double.contains("cvt.rz.f32.f64") && !double.contains("cvt.rn.f32.f64"));
}

#[test]
fn literals_are_rounded_once_to_the_compute_type() {
    let single = print(Compute::F32, [Format::F32; 5], Target::Sm70).text;
    assert!(single.contains(&format!("0f{:08X}", 0.1f32.to_bits())));
    let double = print(Compute::F64, [Format::F64; 5], Target::Sm70).text;
    assert!(double.contains(&format!("0d{:016X}", 0.1f64.to_bits())));
}

#[test]
fn the_text_speaks_the_words_of_the_rule() {
    let graph = Graph::record::<Descent>();
    let print = || ptx::element_kernel(&graph, "descent", Compute::F32, &[Format::F32; 2], Target::Sm80);
    let text = print().text;
    assert_eq!(print().text, text);
    for words in [
        "//     p' = p - lr * (g * grad_scale)",
        "//     g: gradient in f32, read",
        "ld.global.nc.f32 %f_lr,",
        "// load g",
        "sub.rn.f32 %f_p_new_7, %f_p_7,",
        "// store p",
        ".visible .entry descent(",
        ".version 7.1\n.target sm_80",
    ] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
}

#[test]
#[should_panic(expected = "one format for each operand")]
fn a_format_for_each_operand_is_asked_for() {
    let graph = Graph::record::<Descent>();
    ptx::element_kernel(&graph, "descent", Compute::F32, &[Format::F32], Target::Sm80);
}
