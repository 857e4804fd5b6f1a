//! Sums over the rows and over the columns of matrices: the order of [`AxisReduction`].

use super::grid::warp_of_grid;
use super::{Builder, Class, Ptx, Reg, Space, Target, Type, Value};
use fallline_core::backend::AxisReduction;

/// Elements of a lane in one turn, in accesses of 128 bits.
const PER_LANE: i64 = 4;
/// Elements of a warp in one turn: one for each accumulator.
const ELEMENTS_PER_ITERATION: i64 = AxisReduction::ACCUMULATORS as i64;
/// Rows that [`sum_columns_kernel`] adds up in one launch.
const STRIP: i64 = AxisReduction::STRIP as i64;
/// Rows of a column that are loaded before they are added up: enough of them under way for few warps to keep memory busy.
const ROWS_IN_FLIGHT: i64 = 8;

/// Sums over rows: `sums[r] = Σ from[r · columns + c]`, in `ty` ([`Type::F32`] or [`Type::F64`]), or of squares, each
/// rounded before it is added.
///
/// The order: 128 accumulators from +0, of which number `j` takes the elements `j`, `j + 128`, … of the row. Then
/// `acc[j] += acc[j + h]` for `h` = 64, 32, … 1. It depends on neither alignment nor the size of blocks.
///
/// Launched in blocks of any multiple of 32 threads, with a warp for each row. Parameters:
///
/// | parameter | type | what it is |
/// |---|---|---|
/// | `source` | u64 | the address of `from` in device memory |
/// | `sums` | u64 | that of the sums |
/// | `rows`, `columns` | u32 | of `from`; at most 2³¹ − 128 columns |
///
/// # Panics
/// When `ty` is not a type of sums.
pub fn sum_rows_kernel(name: &str, ty: Type, squares: bool, target: Target) -> Ptx {
    let mut b = Builder::new(name);
    let of = note(squares);
    b.note(&format!("One warp adds up one row{of}, 128 elements a turn: lane l takes the four from 4 l."));
    let [source, sums] = addresses(&mut b, ty);
    let [rows, columns] = ["rows", "columns"].map(|name| b.param(Type::U32, name));
    let [turn, masked, loaded, folded, end] =
        ["turn", "masked", "loaded", "folded", "end"].map(|name| b.label(name));
    let (lane, warp) = warp_of_grid(&mut b);
    let outside = b.setp("ge", Type::U32, warp, rows);
    b.when(outside).bra(&end);

    b.comment("the lane's first element, and whether rows are aligned");
    let start = b.mad_wide(warp, columns, 0);
    let offset = b.mul(Type::U64, start, ty.bytes() as i64);
    let row = b.add(Type::U64, source, offset);
    let at = b.named(Class::B64, "at");
    let first = b.mad_wide(lane, PER_LANE * ty.bytes() as i64, row);
    b.to(at).mov(Type::U64, first);
    let whole = whole_from(&mut b, row);
    let before = b.shl(Type::B32, lane, 2);
    let left = b.named(Class::B32, "left");
    b.to(left).mov(Type::S32, columns);
    let accumulators = accumulators(&mut b, ty);

    b.place(&turn);
    let done = b.setp("le", Type::S32, left, 0);
    b.when(done).bra(&folded);
    let straight = b.setp("ge", Type::U32, left, whole);
    b.unless(straight).bra(&masked);
    let values = load(&mut b, ty, at);
    b.place(&loaded);
    add(&mut b, ty, squares, &accumulators, &values);
    b.to(at).add(Type::U64, at, ELEMENTS_PER_ITERATION * ty.bytes() as i64);
    b.to(left).sub(Type::S32, left, ELEMENTS_PER_ITERATION);
    b.bra(&turn);

    b.place(&masked);
    let mine = b.sub(Type::S32, left, before);
    load_there(&mut b, ty, at, &values, mine);
    b.bra(&loaded);

    b.place(&folded);
    b.comment("128 accumulators fold to one");
    let total = fold(&mut b, ty, &accumulators, 32);
    let to = b.mad_wide(warp, ty.bytes() as i64, sums);
    let first = b.setp("eq", Type::U32, lane, 0);
    b.when(first).st(Space::Global, ty, to, 0, &[total.into()]);
    b.place(&end);
    b.finish(target)
}

/// Sums over rows of at most `4 · lanes` elements, in the order of [`sum_rows_kernel`] and with its parameters. A
/// warp takes 32 / `lanes` rows, `lanes` lanes each, so that many small matrices do not need a warp for each row.
///
/// Launched in blocks of any multiple of 32 threads, `⌈rows · lanes / 32⌉` warps of them; at most 2³² − 256 rows.
///
/// # Panics
/// When `ty` is not a type of sums, or `lanes` not one of 1, 2, 4, 8 and 16.
pub fn sum_short_rows_kernel(name: &str, ty: Type, squares: bool, lanes: usize, target: Target) -> Ptx {
    assert!(lanes.is_power_of_two() && lanes < 32, "{name}: {lanes} lanes a row");
    let mut b = Builder::new(name);
    let (rows_of_warp, longest) = (32 / lanes, PER_LANE as usize * lanes);
    b.note(&format!(
        "One warp adds up {rows_of_warp} rows of at most {longest} elements{}: of the lanes of a row number l takes the four from 4 l.",
        note(squares)
    ));
    let [source, sums] = addresses(&mut b, ty);
    let [rows, columns] = ["rows", "columns"].map(|name| b.param(Type::U32, name));
    let end = b.label("end");
    let (lane, warp) = warp_of_grid(&mut b);

    b.comment("the lane's row, and its first element of it");
    let shift = i64::from(rows_of_warp.ilog2());
    let first = b.shl(Type::B32, warp, shift);
    let outside = b.setp("ge", Type::U32, first, rows);
    b.when(outside).bra(&end);
    let own = b.shr(Type::U32, lane, 5 - shift);
    let row = b.add(Type::U32, first, own);
    let inside = b.setp("lt", Type::U32, row, rows);
    let own = b.and(Type::B32, lane, lanes as i64 - 1);
    let own = b.shl(Type::B32, own, i64::from(PER_LANE.ilog2()));
    let mine = b.sub(Type::S32, columns, own);
    let mine = b.selp(Type::S32, mine, 0, inside);
    let index = b.mad_wide(row, columns, 0);
    let offset = b.mul(Type::U64, index, ty.bytes() as i64);
    let start = b.add(Type::U64, source, offset);
    let at = b.mad_wide(own, ty.bytes() as i64, start);

    let accumulators = accumulators(&mut b, ty);
    let values: Vec<Reg> = (0..PER_LANE).map(|_| b.temp(ty.class())).collect();
    load_there(&mut b, ty, at, &values, mine);
    add(&mut b, ty, squares, &accumulators, &values);
    b.comment("the row's accumulators fold to one");
    let total = fold(&mut b, ty, &accumulators, lanes);
    let to = b.mad_wide(row, ty.bytes() as i64, sums);
    let other = b.selp(Type::U32, own, 1, inside);
    let stores = b.setp("eq", Type::U32, other, 0);
    b.when(stores).st(Space::Global, ty, to, 0, &[total.into()]);
    b.place(&end);
    b.finish(target)
}

/// Sums over strips of 256 rows ([`AxisReduction::STRIP`]) of many matrices. It computes
/// `sums[(m · strips + s) · columns + c] = Σ from[(m · rows + r) · columns + c]` over the rows `r` of strip `s`, in
/// their order from +0. It adds up in `ty` ([`Type::F32`] or [`Type::F64`]): elements, or squares, each rounded
/// before it is added. Launched again on its own result, until there is one strip of each matrix, it adds up whole
/// columns. Without rows there is one strip, of none.
///
/// Launched in blocks of any multiple of 32 threads, with a lane for each sum: neighbours read neighbours, however few
/// columns a matrix has. Parameters:
///
/// | parameter | type | what it is |
/// |---|---|---|
/// | `source` | u64 | the address of `from` in device memory |
/// | `sums` | u64 | that of the sums |
/// | `matrices`, `rows`, `columns` | u32 | of `from`; at most 2³² − 256 rows and sums |
///
/// # Panics
/// When `ty` is not a type of sums.
pub fn sum_columns_kernel(name: &str, ty: Type, squares: bool, target: Target) -> Ptx {
    let mut b = Builder::new(name);
    let of = note(squares);
    b.note(&format!("One lane adds up one column of one matrix{of} over a strip of {STRIP} rows."));
    let [source, sums] = addresses(&mut b, ty);
    let [matrices, rows, columns] = ["matrices", "rows", "columns"].map(|name| b.param(Type::U32, name));
    let [turn, stores, end] = ["turn", "stores", "end"].map(|name| b.label(name));
    let (lane, warp) = warp_of_grid(&mut b);

    b.comment("the lane's sum: its matrix, strip and column");
    let padded = b.add(Type::U32, rows, STRIP - 1);
    let strips = b.shr(Type::U32, padded, i64::from(STRIP.ilog2()));
    let strips = b.max(Type::U32, strips, 1);
    let across = b.mul(Type::U32, strips, columns);
    let count = b.mul(Type::U32, matrices, across);
    let first = b.shl(Type::B32, warp, 5);
    let outside = b.setp("ge", Type::U32, first, count);
    b.when(outside).bra(&end);
    let sum = b.add(Type::U32, first, lane);
    let inside = b.setp("lt", Type::U32, sum, count);
    let own = b.div(Type::U32, sum, columns);
    let column = b.rem(Type::U32, sum, columns);
    let matrix = b.div(Type::U32, own, strips);
    let strip = b.rem(Type::U32, own, strips);

    b.comment("its first element, and how many it has");
    let row = b.shl(Type::B32, strip, i64::from(STRIP.ilog2()));
    let [wide_row, wide_column, pitch] = [row, column, columns].map(|x| b.cvt("", Type::U64, Type::U32, x));
    let before = b.mad_wide(matrix, rows, wide_row);
    let before = b.mul(Type::U64, before, pitch);
    let index = b.add(Type::U64, before, wide_column);
    let bytes = ty.bytes() as i64;
    let offset = b.mul(Type::U64, index, bytes);
    let at = b.named(Class::B64, "at");
    b.to(at).add(Type::U64, source, offset);
    let pitch = b.mul(Type::U64, pitch, bytes);
    let after = b.sub(Type::U32, rows, row);
    let mine = b.min(Type::U32, after, STRIP);
    let [left, rest] = ["left", "rest"].map(|name| b.named(Class::B32, name));
    b.to(left).selp(Type::U32, mine, 0, inside);
    // As many turns for all lanes: some may have a shorter strip.
    b.to(rest).min(Type::U32, rows, STRIP);
    let total = b.named(ty.class(), "sum");
    b.to(total).mov(ty, Value::zero(ty));

    b.place(&turn);
    let done = b.setp("le", Type::S32, rest, 0);
    b.when(done).bra(&stores);
    b.comment("the next rows, those that are there");
    let values: Vec<Reg> = (0..ROWS_IN_FLIGHT).map(|_| b.temp(ty.class())).collect();
    for (i, &value) in values.iter().enumerate() {
        let there = b.setp("gt", Type::S32, left, i as i64);
        b.to(value).mov(ty, Value::zero(ty));
        b.when(there).to(value).ld(Space::Global, ty, 1, at, 0);
        b.to(at).add(Type::U64, at, pitch);
    }
    // A sum from +0 is never -0: what is not there changes no bit.
    values.iter().for_each(|&value| add(&mut b, ty, squares, &[total], &[value]));
    for counter in [left, rest] {
        b.to(counter).sub(Type::S32, counter, ROWS_IN_FLIGHT);
    }
    b.bra(&turn);

    b.place(&stores);
    let to = b.mad_wide(sum, bytes, sums);
    b.when(inside).st(Space::Global, ty, to, 0, &[total.into()]);
    b.place(&end);
    b.finish(target)
}

/// Returns the addresses that all of these kernels take.
fn addresses(b: &mut Builder, ty: Type) -> [Reg; 2] {
    assert!(matches!(ty, Type::F32 | Type::F64), "sums are of f32 or f64");
    ["source", "sums"].map(|name| b.param(Type::U64, name))
}

fn note(squares: bool) -> &'static str {
    if squares { ", squared" } else { "" }
}

/// Returns how many elements a turn must have to be loaded 128 bits at a time: more than any has where `address` is
/// misaligned.
fn whole_from(b: &mut Builder, address: Reg) -> Reg {
    let low = b.and(Type::B64, address, 15);
    let aligned = b.setp("eq", Type::U64, low, 0);
    b.selp(Type::U32, ELEMENTS_PER_ITERATION, i64::from(i32::MAX), aligned)
}

fn accumulators(b: &mut Builder, ty: Type) -> Vec<Reg> {
    b.comment("the lane's four accumulators");
    let named = |i| {
        let reg = b.named(ty.class(), &format!("sum_{i}"));
        b.to(reg).mov(ty, Value::zero(ty))
    };
    (0..PER_LANE).map(named).collect()
}

fn load(b: &mut Builder, ty: Type, at: Reg) -> Vec<Reg> {
    let values: Vec<Reg> = (0..PER_LANE).map(|_| b.temp(ty.class())).collect();
    for (i, regs) in values.chunks(16 / ty.bytes()).enumerate() {
        b.ld_to(regs, Space::Global, ty, at, 16 * i);
    }
    values
}

/// Loads the elements that are there, and zeros for the rest; `mine` is how many are there from the lane's first on.
fn load_there(b: &mut Builder, ty: Type, at: Reg, values: &[Reg], mine: Reg) {
    b.comment("element by element, those that are there");
    for (i, &value) in values.iter().enumerate() {
        let there = b.setp("gt", Type::S32, mine, i as i64);
        b.to(value).mov(ty, Value::zero(ty));
        b.when(there).to(value).ld(Space::Global, ty, 1, at, i * ty.bytes());
    }
}

fn add(b: &mut Builder, ty: Type, squares: bool, accumulators: &[Reg], values: &[Reg]) {
    for (&accumulator, &value) in accumulators.iter().zip(values) {
        let term = if squares { b.mul(ty, value, value) } else { value };
        b.to(accumulator).add(ty, accumulator, term);
    }
}

/// Accumulators of `lanes` neighbouring lanes, four each, fold to one. Those of all other lanes of the order are +0, which
/// changes no bit of what starts from +0.
fn fold(b: &mut Builder, ty: Type, accumulators: &[Reg], lanes: usize) -> Reg {
    let mut distance = lanes as i64 / 2;
    while distance > 0 {
        for &accumulator in accumulators {
            let other = b.shfl_bfly(accumulator, distance);
            b.to(accumulator).add(ty, accumulator, other);
        }
        distance /= 2;
    }
    let even = b.add(ty, accumulators[0], accumulators[2]);
    let odd = b.add(ty, accumulators[1], accumulators[3]);
    b.add(ty, even, odd)
}
