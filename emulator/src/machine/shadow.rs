//! Who last read and wrote a byte: races inside a launch.

/// Several lanes of one warp have read; the warp is in the low bits.
const LANES_OF: u16 = 0x4000;
/// Several warps have read.
const WARPS: u16 = 0x8000;
/// Several blocks have read.
const BLOCKS: u32 = u32::MAX;

/// An access as the checks see it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// The launch, or for shared memory the run of a block; 0 for none.
    pub launch: u32,
    pub block: u32,
    /// Barriers passed by the block.
    pub epoch: u32,
    /// `bar.warp.sync` passed by the warp.
    pub warp_epoch: u32,
    pub thread: u16,
    pub atomic: bool,
}

impl Mark {
    /// Returns whether nothing orders the two accesses.
    fn races(&self, me: &Mark) -> bool {
        if self.launch != me.launch || (self.atomic && me.atomic) {
            return false;
        }
        if self.block != me.block {
            return true;
        }
        if self.epoch != me.epoch {
            return false;
        }
        let unsynchronised = self.warp_epoch == me.warp_epoch;
        match self.thread {
            WARPS => true,
            t if t & LANES_OF != 0 => t & !LANES_OF != me.thread / 32 || unsynchronised,
            t => t != me.thread && (t / 32 != me.thread / 32 || unsynchronised),
        }
    }

    /// Returns the mark of a read after this one: who has read without an order between them is kept together.
    fn joined(&self, me: &Mark) -> Mark {
        let mut out = *me;
        out.atomic = me.atomic && self.atomic;
        if self.launch != me.launch {
            out.atomic = me.atomic;
        } else if self.block != me.block {
            out.block = BLOCKS;
        } else if self.epoch != me.epoch || self.thread == me.thread {
        } else if self.thread & WARPS != 0 || self.warp() != me.thread / 32 {
            out.thread = WARPS;
        } else if self.warp_epoch == me.warp_epoch {
            out.thread = LANES_OF | (me.thread / 32);
        }
        out
    }

    fn warp(&self) -> u16 {
        if self.thread & LANES_OF != 0 { self.thread & !LANES_OF } else { self.thread / 32 }
    }

    fn describe(&self) -> String {
        let who = match self.thread {
            WARPS => "several warps".into(),
            t if t & LANES_OF != 0 => format!("several threads of warp {}", t & !LANES_OF),
            t => format!("thread {t}"),
        };
        if self.block == BLOCKS { "several blocks".into() } else { format!("{who} of block {}", self.block) }
    }
}

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Read,
    Write,
    Atomic,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    write: Mark,
    read: Mark,
}

/// The marks of an allocation: one cell for four bytes until something smaller is touched, then one a byte.
#[derive(Default)]
pub struct Shadow {
    grain: usize,
    cells: Vec<Cell>,
}

impl Shadow {
    /// Notes an access of `len` bytes at `at` in `size` bytes and says with whom it races.
    pub fn touch(&mut self, size: usize, at: usize, len: usize, me: &Mark, kind: Kind) -> Option<String> {
        if self.cells.is_empty() {
            self.grain = 4;
            self.cells = vec![Cell::default(); size.div_ceil(4)];
        }
        if self.grain == 4 && (!at.is_multiple_of(4) || !len.is_multiple_of(4)) {
            self.cells = self.cells.iter().flat_map(|cell| [*cell; 4]).collect();
            self.grain = 1;
        }
        let me = &Mark { atomic: kind == Kind::Atomic, ..*me };
        for cell in &mut self.cells[at / self.grain..(at + len).div_ceil(self.grain)] {
            let with = if cell.write.races(me) {
                Some(("written", cell.write))
            } else if kind != Kind::Read && cell.read.races(me) {
                Some(("read", cell.read))
            } else {
                None
            };
            if let Some((how, other)) = with {
                return Some(format!("{how} by {}", other.describe()));
            }
            if kind == Kind::Read {
                cell.read = cell.read.joined(me);
            } else {
                cell.write = *me;
            }
        }
        None
    }
}
