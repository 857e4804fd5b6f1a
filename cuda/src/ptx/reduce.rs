//! Sums over the rows and over the columns of a matrix.

use super::element::warp_of_grid;
use super::element::zero;
use super::{Builder, Class, Ptx, Reg, Space, Target, Type};

/// Elements of a lane in one turn, in accesses of 128 bits.
const OWN: i64 = 4;
/// Elements of a warp in one turn.
const TURN: i64 = 32 * OWN;
/// Rows that [`sum_columns_kernel`] adds up in one launch.
pub const STRIP: usize = 256;

/// Sums over rows: `sums[r] = Σ from[r · columns + c]`, in `ty` ([`Type::F32`] or [`Type::F64`]).
///
/// The order: 128 accumulators from +0, of which number `j` takes the elements `j`, `j + 128`, … of the row; then
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
pub fn sum_rows_kernel(name: &str, ty: Type, target: Target) -> Ptx {
    let mut b = Builder::new(name);
    b.note("One warp adds up one row, 128 elements a turn: lane l takes the four from 4 l.");
    let Matrix { source, sums, rows, columns } = Matrix::params(&mut b, ty);
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
    let first = b.mad_wide(lane, OWN * ty.bytes() as i64, row);
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
    add(&mut b, ty, &accumulators, &values);
    b.to(at).add(Type::U64, at, TURN * ty.bytes() as i64);
    b.to(left).sub(Type::S32, left, TURN);
    b.bra(&turn);

    b.place(&masked);
    let mine = b.sub(Type::S32, left, before);
    load_there(&mut b, ty, at, &values, mine);
    b.bra(&loaded);

    b.place(&folded);
    b.comment("128 accumulators fold to one");
    for distance in [16, 8, 4, 2, 1] {
        for &accumulator in &accumulators {
            let other = b.shfl_bfly(accumulator, distance);
            b.to(accumulator).add(ty, accumulator, other);
        }
    }
    let even = b.add(ty, accumulators[0], accumulators[2]);
    let odd = b.add(ty, accumulators[1], accumulators[3]);
    let total = b.add(ty, even, odd);
    let to = b.mad_wide(warp, ty.bytes() as i64, sums);
    let first = b.setp("eq", Type::U32, lane, 0);
    b.when(first).st(Space::Global, ty, to, 0, &[total.into()]);
    b.place(&end);
    b.finish(target)
}

/// Sums over strips of [`STRIP`] rows: `sums[s · columns + c] = Σ from[r · columns + c]` over the rows `r` of strip `s`,
/// in their order from +0, in `ty` ([`Type::F32`] or [`Type::F64`]). Launched again on its own result, until there is one
/// strip, it adds up whole columns.
///
/// Launched in blocks of any multiple of 32 threads, with a warp for each 128 columns of each strip: `⌈columns / 128⌉ ·
/// ⌈rows / 256⌉` of them. Parameters as for [`sum_rows_kernel`].
///
/// # Panics
/// When `ty` is not a type of sums.
pub fn sum_columns_kernel(name: &str, ty: Type, target: Target) -> Ptx {
    let mut b = Builder::new(name);
    b.note("One warp adds up 128 columns over a strip of 256 rows: lane l takes the four from 4 l.");
    let Matrix { source, sums, rows, columns } = Matrix::params(&mut b, ty);
    let [turn, masked, loaded, stores, end] =
        ["turn", "masked", "loaded", "masked_stores", "end"].map(|name| b.label(name));
    let (lane, warp) = warp_of_grid(&mut b);

    b.comment("the strip, the lane's first column");
    let padded = b.add(Type::U32, columns, TURN - 1);
    let across = b.shr(Type::U32, padded, 7);
    let padded = b.add(Type::U32, rows, STRIP as i64 - 1);
    let strips = b.shr(Type::U32, padded, 8);
    let warps = b.mul(Type::U32, across, strips);
    let outside = b.setp("ge", Type::U32, warp, warps);
    b.when(outside).bra(&end);
    let strip = b.div(Type::U32, warp, across);
    let block = b.rem(Type::U32, warp, across);
    let block = b.shl(Type::B32, block, 7);
    let own = b.shl(Type::B32, lane, 2);
    let column = b.add(Type::U32, block, own);
    let mine = b.sub(Type::S32, columns, column);
    let rest = b.sub(Type::U32, columns, block);

    b.comment("its addresses, and whether all rows are aligned");
    let row = b.shl(Type::B32, strip, 8);
    let wide = b.cvt("", Type::U64, Type::U32, column);
    let bytes = ty.bytes() as i64;
    let [first, to] = [(row, source), (strip, sums)].map(|(row, matrix)| {
        let index = b.mad_wide(row, columns, wide);
        let offset = b.mul(Type::U64, index, bytes);
        b.add(Type::U64, matrix, offset)
    });
    let at = b.named(Class::B64, "at");
    b.to(at).mov(Type::U64, first);
    let pitch = b.mad_wide(columns, bytes, 0);
    let low = b.or(Type::B64, source, sums);
    let low = b.or(Type::B64, low, pitch);
    let whole = whole_from(&mut b, low);
    let straight = b.setp("ge", Type::U32, rest, whole);
    let left = b.named(Class::B32, "left");
    let after = b.sub(Type::U32, rows, row);
    let more = b.setp("gt", Type::U32, after, STRIP as i64);
    b.to(left).selp(Type::U32, STRIP as i64, after, more);
    let accumulators = accumulators(&mut b, ty);

    b.place(&turn);
    b.unless(straight).bra(&masked);
    let values = load(&mut b, ty, at);
    b.place(&loaded);
    add(&mut b, ty, &accumulators, &values);
    b.to(at).add(Type::U64, at, pitch);
    b.to(left).sub(Type::U32, left, 1);
    let more = b.setp("ne", Type::U32, left, 0);
    b.when(more).bra(&turn);
    b.unless(straight).bra(&stores);
    for (i, regs) in accumulators.chunks(16 / ty.bytes()).enumerate() {
        let values: Vec<_> = regs.iter().map(|&reg| reg.into()).collect();
        b.st(Space::Global, ty, to, 16 * i, &values);
    }
    b.bra(&end);

    b.place(&masked);
    load_there(&mut b, ty, at, &values, mine);
    b.bra(&loaded);
    b.place(&stores);
    for (i, &accumulator) in accumulators.iter().enumerate() {
        let there = b.setp("gt", Type::S32, mine, i as i64);
        b.when(there).st(Space::Global, ty, to, i * ty.bytes(), &[accumulator.into()]);
    }
    b.place(&end);
    b.finish(target)
}

/// The parameters of both kernels.
struct Matrix {
    source: Reg,
    sums: Reg,
    rows: Reg,
    columns: Reg,
}

impl Matrix {
    fn params(b: &mut Builder, ty: Type) -> Matrix {
        assert!(matches!(ty, Type::F32 | Type::F64), "sums are of f32 or f64");
        let [source, sums] = ["source", "sums"].map(|name| b.param(Type::U64, name));
        let [rows, columns] = ["rows", "columns"].map(|name| b.param(Type::U32, name));
        Matrix { source, sums, rows, columns }
    }
}

/// How many elements a turn must have to be loaded 128 bits at a time: more than any has where `address` is misaligned.
fn whole_from(b: &mut Builder, address: Reg) -> Reg {
    let low = b.and(Type::B64, address, 15);
    let aligned = b.setp("eq", Type::U64, low, 0);
    b.selp(Type::U32, TURN, i64::from(i32::MAX), aligned)
}

fn accumulators(b: &mut Builder, ty: Type) -> Vec<Reg> {
    b.comment("the lane's four accumulators");
    let named = |i| {
        let reg = b.named(ty.class(), &format!("sum_{i}"));
        b.to(reg).mov(ty, zero(ty))
    };
    (0..OWN).map(named).collect()
}

fn load(b: &mut Builder, ty: Type, at: Reg) -> Vec<Reg> {
    let values: Vec<Reg> = (0..OWN).map(|_| b.temp(ty.class())).collect();
    for (i, regs) in values.chunks(16 / ty.bytes()).enumerate() {
        b.ld_to(regs, Space::Global, ty, at, 16 * i);
    }
    values
}

/// The elements that are there, and zeros for the rest; `mine` is how many are there from the lane's first on.
fn load_there(b: &mut Builder, ty: Type, at: Reg, values: &[Reg], mine: Reg) {
    b.comment("element by element, those that are there");
    for (i, &value) in values.iter().enumerate() {
        let there = b.setp("gt", Type::S32, mine, i as i64);
        b.to(value).mov(ty, zero(ty));
        b.when(there).to(value).ld(Space::Global, ty, 1, at, i * ty.bytes());
    }
}

fn add(b: &mut Builder, ty: Type, accumulators: &[Reg], values: &[Reg]) {
    for (&accumulator, &value) in accumulators.iter().zip(values) {
        b.to(accumulator).add(ty, accumulator, value);
    }
}
