//! The registers of a warp: a row of 32 lanes for each, a predicate in one word.

/// Threads of a warp.
pub const LANES: usize = 32;

/// The same register of all threads of a warp.
pub type Row<T> = [T; LANES];

/// A register file of one width.
pub trait Word: Copy + Default {
    fn rows(regs: &Regs) -> &[Row<Self>];
    fn rows_mut(regs: &mut Regs) -> &mut [Row<Self>];
}

/// All registers of a warp.
#[derive(Default)]
pub struct Regs {
    pub words: Vec<Row<u32>>,
    pub longs: Vec<Row<u64>>,
    pub preds: Vec<u32>,
}

impl Word for u32 {
    fn rows(regs: &Regs) -> &[Row<u32>] {
        &regs.words
    }
    fn rows_mut(regs: &mut Regs) -> &mut [Row<u32>] {
        &mut regs.words
    }
}

impl Word for u64 {
    fn rows(regs: &Regs) -> &[Row<u64>] {
        &regs.longs
    }
    fn rows_mut(regs: &mut Regs) -> &mut [Row<u64>] {
        &mut regs.longs
    }
}

impl Regs {
    /// Operations are computed in all lanes, which the compiler turns into vectors, and written where `mask` says.
    #[inline(always)]
    pub fn put<T: Word>(&mut self, d: u32, out: Row<T>, mask: u32) {
        let row = &mut T::rows_mut(self)[d as usize];
        if mask == u32::MAX {
            *row = out;
        } else {
            for (lane, (to, from)) in row.iter_mut().zip(out).enumerate() {
                if mask >> lane & 1 == 1 {
                    *to = from;
                }
            }
        }
    }

    #[inline(always)]
    pub fn row<T: Word>(&self, r: u32) -> Row<T> {
        T::rows(self)[r as usize]
    }

    #[inline(always)]
    pub fn map1<D: Word, A: Word>(&mut self, d: u32, a: u32, mask: u32, f: impl Fn(A) -> D) {
        let a = self.row::<A>(a);
        self.put(d, std::array::from_fn(|l| f(a[l])), mask);
    }

    #[inline(always)]
    pub fn map2<D: Word, A: Word, B: Word>(
        &mut self,
        d: u32,
        [a, b]: [u32; 2],
        mask: u32,
        f: impl Fn(A, B) -> D,
    ) {
        let (a, b) = (self.row::<A>(a), self.row::<B>(b));
        let mut out = [D::default(); LANES];
        for l in 0..LANES {
            out[l] = f(a[l], b[l]);
        }
        self.put(d, out, mask);
    }

    #[inline(always)]
    pub fn map3<D: Word, A: Word, B: Word, C: Word>(
        &mut self,
        d: u32,
        [a, b, c]: [u32; 3],
        mask: u32,
        f: impl Fn(A, B, C) -> D,
    ) {
        let (a, b, c) = (self.row::<A>(a), self.row::<B>(b), self.row::<C>(c));
        let mut out = [D::default(); LANES];
        for l in 0..LANES {
            out[l] = f(a[l], b[l], c[l]);
        }
        self.put(d, out, mask);
    }

    /// Sets the lanes of `mask` in a predicate.
    pub fn put_pred(&mut self, d: u32, value: u32, mask: u32) {
        let p = &mut self.preds[d as usize];
        *p = *p & !mask | value & mask;
    }

    /// Returns a lane's register, from either file.
    pub fn lane(&self, long: bool, r: u32, lane: usize) -> u64 {
        if long { self.longs[r as usize][lane] } else { u64::from(self.words[r as usize][lane]) }
    }

    pub fn set_lane(&mut self, long: bool, r: u32, lane: usize, value: u64) {
        if long {
            self.longs[r as usize][lane] = value;
        } else {
            self.words[r as usize][lane] = value as u32;
        }
    }
}
