//! The interpreter of tapes.

use super::direct::add_terms;
use super::tape::{Step, Tape};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::multiversion;
use crate::prefetch::prefetch;
use crate::vector::{Number, Register, WIDEST};
use core::cell::RefCell;
use fallline_core::backend::MAX_OPERANDS;
use fallline_core::reduction::{ACCUMULATORS, STEP};
use fallline_core::{Binary, Comparison, Literal, Node, Scalar, Unary};

/// As [`ElementKernel`](super::direct::ElementKernel), with the tape that is to be run in front.
pub(crate) type TapeKernel<T> =
    unsafe fn(tape: &Tape, scalars: *const T, operands: *const *mut T, elements: usize, accumulators: *mut T);

/// The interpreter for an instruction set, with its registers of the two types.
macro_rules! kernel {
    ($T:ty, $isa:expr, $baseline:ty, $avx2:ty, $avx512:ty) => {{
        use crate::vector::*;
        #[cfg(target_arch = "x86_64")]
        match $isa {
            Isa::Avx2 => return avx2::<$avx2>,
            Isa::Avx512 => return avx512::<$avx512>,
            _ => {}
        }
        match $isa {
            Isa::Scalar => interpret::<Scalar<$T>>,
            _ => interpret::<$baseline>,
        }
    }};
}

/// Returns the interpreter in `f32` for an instruction set.
pub(crate) fn kernel_f32(isa: Isa) -> TapeKernel<f32> {
    kernel!(f32, isa, Wide32, Ymm32, Zmm32)
}

/// Returns the interpreter in `f64` for an instruction set.
pub(crate) fn kernel_f64(isa: Isa) -> TapeKernel<f64> {
    kernel!(f64, isa, Wide64, Ymm64, Zmm64)
}

#[cfg(target_arch = "x86_64")]
multiversion! {
    interpret::<V>[V: Register](
        tape: &Tape,
        scalars: *const V::Number,
        operands: *const *mut V::Number,
        count: usize,
        accumulators: *mut V::Number,
    ) where
        f64: Literal<V>,
        f64: Literal<Scalar<V::Number>>,
        Scalar<V::Number>: Register<Number = V::Number>
}

/// A row of elements: where it begins, and the stride between its registers, which is 0 where all elements are the
/// same.
#[derive(Clone, Copy)]
struct RowPtr {
    address: *mut u8,
    stride: usize,
}

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

thread_local! {
    /// What tapes need on this thread, kept between passes.
    static SCRATCH: RefCell<(Vec<Line>, Vec<RowPtr>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// Returns memory of the thread for so many bytes and rows. It is the caller's until somebody asks again.
fn scratch(bytes: usize, rows: usize) -> (*mut u8, *mut RowPtr) {
    SCRATCH.with_borrow_mut(|(lines, places)| {
        let wanted = bytes.div_ceil(size_of::<Line>());
        if lines.len() < wanted {
            lines.resize(wanted, Line([0; 64]));
        }
        if places.len() < rows {
            places.resize(rows, RowPtr { address: core::ptr::null_mut(), stride: 0 });
        }
        (lines.as_mut_ptr().cast(), places.as_mut_ptr())
    })
}

/// Interprets a tape.
///
/// # Safety
/// As for `elements` of a compiled rule, with the row of scalars, the operands and the sums of the tape's graph.
#[inline(always)]
unsafe fn interpret<V: Register>(
    tape: &Tape,
    scalars: *const V::Number,
    operands: *const *mut V::Number,
    count: usize,
    accumulators: *mut V::Number,
) where
    f64: Literal<V>,
    f64: Literal<Scalar<V::Number>>,
    Scalar<V::Number>: Register<Number = V::Number>,
{
    let size = size_of::<V::Number>();
    let declared = tape.written.len();
    // What is needed, one behind the other, each a multiple of a cache line.
    let temporaries = tape.temporaries * STEP;
    let spread = tape.spread.len() * WIDEST;
    let tails = declared * WIDEST;
    let terms = tape.sums.len() * STEP;
    let all = temporaries + spread + tails + terms + tape.uniform.len();
    let (memory, rows) = scratch(all * size, tape.rows());
    let memory = memory.cast::<V::Number>();
    // SAFETY: the scratch has room for all of it, and belongs to this call: nothing below asks for more. Numbers of any
    // kind are valid whatever their bits. The operands are those of the caller's contract.
    unsafe {
        let uniform = memory.add(all - tape.uniform.len());
        evaluate::<Scalar<V::Number>>(tape, scalars, uniform);
        for (k, place) in tape.spread.iter().enumerate() {
            let to = memory.add(temporaries + k * WIDEST);
            let value = *uniform.add(*place as usize);
            (0..WIDEST).for_each(|i| to.add(i).write(value));
            let address = to.cast();
            rows.add(tape.first_uniform() + k).write(RowPtr { address, stride: 0 });
        }
        let stride = V::LANES;
        for k in 0..tape.temporaries {
            let address = memory.add(k * STEP).cast();
            rows.add(tape.first_temporary() + k).write(RowPtr { address, stride });
        }
        let tails = memory.add(temporaries + spread);
        let terms = tails.add(declared * WIDEST);
        for start in (0..count).step_by(STEP) {
            let elements = STEP.min(count - start);
            let whole = elements / V::LANES * V::LANES;
            for k in 0..declared {
                let address = (*operands.add(k)).wrapping_add(start);
                if start + 2 * STEP <= count {
                    prefetch(address.wrapping_add(STEP).cast(), STEP * size);
                }
                rows.add(k).write(RowPtr { address: address.cast(), stride });
            }
            if whole > 0 {
                run_steps::<V>(tape, rows, uniform, whole);
                for (s, row) in tape.sums.iter().enumerate() {
                    copy::<V>(*rows.add(usize::from(*row)), terms.add(s * STEP), whole);
                }
                copies::<V>(tape, rows, whole);
            }
            let rest = elements - whole;
            if rest > 0 {
                for k in 0..declared {
                    let tail = tails.add(k * WIDEST);
                    V::load_first((*operands.add(k)).add(start + whole), rest).store(tail);
                    rows.add(k).write(RowPtr { address: tail.cast(), stride });
                }
                run_steps::<V>(tape, rows, uniform, V::LANES);
                for (s, row) in tape.sums.iter().enumerate() {
                    let from = V::load((*rows.add(usize::from(*row))).address.cast());
                    from.store_first(terms.add(s * STEP + whole), rest);
                }
                copies::<V>(tape, rows, V::LANES);
                for k in (0..declared).filter(|&k| tape.written[k]) {
                    V::load(tails.add(k * WIDEST)).store_first((*operands.add(k)).add(start + whole), rest);
                }
            }
            for s in 0..tape.sums.len() {
                let from = terms.add(s * STEP);
                // Those that are missing count as +0.
                (elements..STEP).for_each(|i| from.add(i).write(V::Number::default()));
                add_terms::<V>(from, accumulators.add(s * ACCUMULATORS));
            }
        }
    }
}

/// Computes what is the same for all elements.
///
/// # Safety
/// `scalars` is a row of the tape's graph, and there is room for the values.
unsafe fn evaluate<S: Register>(tape: &Tape, scalars: *const S::Number, to: *mut S::Number)
where
    f64: Literal<S>,
{
    for (place, node) in tape.uniform.iter().enumerate() {
        // SAFETY: the caller's contract; inputs come before what they are inputs of.
        let at = |place: u32| unsafe { S::load(to.add(place as usize)) };
        // SAFETY: as above.
        let scalar = |i: usize| unsafe { S::load(scalars.add(i)) };
        let truth = |mask: S::Mask| S::select(mask, S::splat(1.0), S::splat(0.0));
        let value = match *node {
            Node::GradScale => scalar(0),
            Node::Scalar(i) => scalar(1 + i as usize),
            Node::Literal(bits) => S::splat(f64::from_bits(bits)),
            Node::Unary(Unary::Neg, a) => -at(a),
            Node::Unary(Unary::Sqrt, a) => at(a).sqrt(),
            Node::Unary(Unary::Abs, a) => at(a).abs(),
            Node::Binary(Binary::Add, a, b) => at(a) + at(b),
            Node::Binary(Binary::Sub, a, b) => at(a) - at(b),
            Node::Binary(Binary::Mul, a, b) => at(a) * at(b),
            Node::Binary(Binary::Div, a, b) => at(a) / at(b),
            Node::Binary(Binary::Min, a, b) => at(a).min(at(b)),
            Node::Binary(Binary::Max, a, b) => at(a).max(at(b)),
            Node::Compare(Comparison::Lt, a, b) => truth(at(a).lt(at(b))),
            Node::Compare(Comparison::Le, a, b) => truth(at(a).le(at(b))),
            Node::Compare(Comparison::Eq, a, b) => truth(at(a).eq(at(b))),
            Node::Select(mask, yes, no) => S::select_if(at(mask), at(yes), at(no)),
            _ => unreachable!("what is uniform has no elements, and rules have no powers"),
        };
        // SAFETY: the caller's contract.
        unsafe { value.store(to.add(place)) };
    }
}

/// Runs the operations over `count` elements, a multiple of a register and at most a step.
///
/// # Safety
/// The rows of operands, temporaries and uniform values are valid for so many elements, or repeat a register. The
/// CPU has the instruction set of `V`.
#[inline(always)]
unsafe fn run_steps<V: Register>(tape: &Tape, rows: *mut RowPtr, uniform: *const V::Number, count: usize)
where
    f64: Literal<V>,
{
    /// A loop over registers.
    macro_rules! each {
        ($to:expr, [$($from:ident: $row:expr),*], $value:expr) => {{
            $(
                let $from = *rows.add(usize::from($row));
                let (mut at, stride) = ($from.address.cast::<V::Number>().cast_const(), $from.stride);
                let mut $from = || {
                    let value = V::load(at);
                    at = at.add(stride);
                    value
                };
            )*
            let to = (*rows.add(usize::from($to))).address.cast::<V::Number>();
            let mut i = 0;
            while i < count {
                $(let $from: V = $from();)*
                V::store($value, to.add(i));
                i += V::LANES;
            }
        }};
    }
    for step in &tape.code {
        // SAFETY: the caller's contract. Where the target is one of the rows that are read, each element is read before
        // it is written.
        unsafe {
            match *step {
                Step::Unary(Unary::Neg, a, to) => each!(to, [a: a], -a),
                Step::Unary(Unary::Sqrt, a, to) => each!(to, [a: a], a.sqrt()),
                Step::Unary(Unary::Abs, a, to) => each!(to, [a: a], a.abs()),
                Step::Move(a, to) => each!(to, [a: a], a),
                Step::Binary(Binary::Add, [a, b], to) => each!(to, [a: a, b: b], a + b),
                Step::Binary(Binary::Sub, [a, b], to) => each!(to, [a: a, b: b], a - b),
                Step::Binary(Binary::Mul, [a, b], to) => each!(to, [a: a, b: b], a * b),
                Step::Binary(Binary::Div, [a, b], to) => each!(to, [a: a, b: b], a / b),
                Step::Binary(Binary::Min, [a, b], to) => each!(to, [a: a, b: b], a.min(b)),
                Step::Binary(Binary::Max, [a, b], to) => each!(to, [a: a, b: b], a.max(b)),
                Step::Select(Comparison::Lt, [a, b, y, n], to) => {
                    each!(to, [a: a, b: b, y: y, n: n], V::select(a.lt(b), y, n))
                }
                Step::Select(Comparison::Le, [a, b, y, n], to) => {
                    each!(to, [a: a, b: b, y: y, n: n], V::select(a.le(b), y, n))
                }
                Step::Select(Comparison::Eq, [a, b, y, n], to) => {
                    each!(to, [a: a, b: b, y: y, n: n], V::select(a.eq(b), y, n))
                }
                Step::Alias(flag, [yes, no], to) => {
                    let chosen = if (*uniform.add(flag as usize)).to_f64() > 0.0 { yes } else { no };
                    *rows.add(usize::from(to)) = *rows.add(usize::from(chosen));
                }
            }
        }
    }
}

/// Copies values to the operands that they replace.
///
/// # Safety
/// As for `run_steps`.
#[inline(always)]
unsafe fn copies<V: Register>(tape: &Tape, rows: *mut RowPtr, count: usize)
where
    f64: Literal<V>,
{
    for &(from, to) in &tape.copies {
        // SAFETY: the caller's contract.
        unsafe {
            let to = (*rows.add(usize::from(to))).address.cast();
            copy::<V>(*rows.add(usize::from(from)), to, count);
        }
    }
}

/// Copies a row's elements, a multiple of a register.
///
/// # Safety
/// As for `run_steps`; `to` is valid for so many elements.
#[inline(always)]
unsafe fn copy<V: Register>(from: RowPtr, to: *mut V::Number, count: usize)
where
    f64: Literal<V>,
{
    let (mut at, mut i) = (from.address.cast::<V::Number>().cast_const(), 0);
    while i < count {
        // SAFETY: the caller's contract.
        unsafe {
            V::load(at).store(to.add(i));
            at = at.add(from.stride);
        }
        i += V::LANES;
    }
}

const _: () = assert!(MAX_OPERANDS < 64, "rows of operands have the first numbers");
