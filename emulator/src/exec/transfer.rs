//! Loads, stores and atomics of a warp.
#![allow(unsafe_code)]

use super::memory::{SHARED_WINDOW, read, write};
use super::warp::{Block, Warp, lanes};
use crate::machine::fault::{Fault, Status};
use crate::machine::shadow::{Kind, Mark};
use crate::ptx::program::{Access, Atomic};
use crate::ptx::types::{File, Space, Type};

type Done = Result<(), (usize, Fault)>;

/// Returns the mark of memory. Shared memory is marked by the run of its block: another block has another.
fn base(block: &Block<'_>, space: Space, address: u64) -> Mark {
    let shared = space == Space::Shared || address & !0xffff_ffff == SHARED_WINDOW;
    if shared { Mark { launch: block.instance, ..block.mark } } else { block.mark }
}

impl Warp {
    #[inline(always)]
    fn address(&self, access: &Access, lane: usize) -> u64 {
        let base = self.regs.lane(access.address.file == File::Long, access.address.base, lane);
        base.wrapping_add(access.address.offset as u64)
    }

    #[inline(always)]
    fn locate(
        &mut self,
        block: &mut Block<'_>,
        access: &Access,
        lane: usize,
        kind: Kind,
    ) -> Result<*mut u8, (usize, Fault)> {
        let len = access.ty.size() * access.count as usize;
        let address = self.address(access, lane);
        if access.space == Space::Local {
            return self.local(block.kernel.local, address, len, lane).map_err(|fault| (lane, fault));
        }
        let mark = base(block, access.space, address);
        let me = || self.mark(&mark, lane);
        block.memory.locate(access.space, access.slot, address, len, kind, me).map_err(|fault| (lane, fault))
    }

    fn local(&mut self, size: usize, at: u64, len: usize, lane: usize) -> Result<*mut u8, Fault> {
        // Each thread's part is rounded up, its bound is not.
        let each = self.local.len() / 32;
        if !at.is_multiple_of(len as u64) {
            return Err(Fault::new(
                Status::MISALIGNED,
                format!("misaligned access of {len} bytes at {at:#x}"),
            ));
        }
        let end = at.checked_add(len as u64);
        if end.is_none_or(|end| end > size as u64) {
            let message = format!("{len} bytes at {at} are out of bounds of local memory, which has {size}");
            return Err(Fault::new(Status::ILLEGAL_ADDRESS, message));
        }
        Ok(self.local.as_mut_ptr().wrapping_add(lane * each + at as usize))
    }

    pub fn load(&mut self, block: &mut Block<'_>, access: &Access, on: u32) -> Done {
        let (size, count) = (access.ty.size(), access.count as usize);
        let kept = u64::MAX >> (64 - access.register_bits);
        let simple = size == 4 && access.file == File::Word;
        for lane in lanes(on) {
            let at = self.locate(block, access, lane, Kind::Read)?;
            for (k, reg) in access.regs[..count].iter().enumerate() {
                // SAFETY: `locate` found `count` values of `size` bytes there.
                let value = unsafe { read(at.add(k * size), size) };
                if simple {
                    self.regs.words[*reg as usize][lane] = value as u32;
                } else {
                    self.regs.set_lane(access.file == File::Long, *reg, lane, access.ty.extend(value) & kept);
                }
            }
        }
        Ok(())
    }

    pub fn store(&mut self, block: &mut Block<'_>, access: &Access, on: u32) -> Done {
        let (size, count) = (access.ty.size(), access.count as usize);
        for lane in lanes(on) {
            let at = self.locate(block, access, lane, Kind::Write)?;
            for (k, reg) in access.regs[..count].iter().enumerate() {
                let value = self.regs.lane(access.file == File::Long, *reg, lane);
                // SAFETY: `locate` found `count` values of `size` bytes there.
                unsafe { write(at.add(k * size), size, value) };
            }
        }
        Ok(())
    }

    /// Loads a parameter, which is the same for all threads. The decoder has checked its place.
    pub fn load_param(&mut self, block: &Block<'_>, access: &Access, at: usize, on: u32) {
        let size = access.ty.size();
        let kept = u64::MAX >> (64 - access.register_bits);
        for (k, reg) in access.regs[..access.count as usize].iter().enumerate() {
            let mut bytes = [0; 8];
            bytes[..size].copy_from_slice(&block.params[at + k * size..][..size]);
            let value = access.ty.extend(u64::from_le_bytes(bytes)) & kept;
            for lane in lanes(on) {
                self.regs.set_lane(access.file == File::Long, *reg, lane, value);
            }
        }
    }

    /// Threads come one after another: in the order of their lanes, or in a random one.
    pub fn atomic(
        &mut self,
        block: &mut Block<'_>,
        atomic: Atomic,
        access: &Access,
        (d, b, c): (Option<u32>, u32, Option<u32>),
        on: u32,
    ) -> Done {
        let (size, long) = (access.ty.size(), access.file == File::Long);
        let mut order: Vec<usize> = lanes(on).collect();
        super::launch::shuffle(&mut order, &mut block.random);
        for lane in order {
            let at = self.locate(block, access, lane, Kind::Atomic)?;
            let b = self.regs.lane(long, b, lane);
            let c = c.map_or(0, |c| self.regs.lane(long, c, lane));
            // SAFETY: `locate` found a value of `size` bytes there, for reading and writing.
            let old = unsafe { read(at, size) };
            let new = applied(atomic, access.ty, old, b, c);
            // SAFETY: as above.
            unsafe { write(at, size, new) };
            if let Some(d) = d {
                self.regs.set_lane(long, d, lane, old);
            }
        }
        Ok(())
    }
}

/// Returns the value that an atomic operation leaves.
pub fn applied(atomic: Atomic, ty: Type, old: u64, b: u64, c: u64) -> u64 {
    let (x, y) = (ty.extend(old), ty.extend(b));
    let less = if ty.is_signed() { (x as i64) < y as i64 } else { x < y };
    match atomic {
        Atomic::Add => match ty {
            Type::F32 => u64::from((f32::from_bits(old as u32) + f32::from_bits(b as u32)).to_bits()),
            Type::F64 => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
            _ => x.wrapping_add(y),
        },
        Atomic::Min => {
            if less {
                x
            } else {
                y
            }
        }
        Atomic::Max => {
            if less {
                y
            } else {
                x
            }
        }
        Atomic::And => x & y,
        Atomic::Or => x | y,
        Atomic::Xor => x ^ y,
        Atomic::Exchange => y,
        Atomic::Cas => {
            if x == y {
                c
            } else {
                x
            }
        }
        Atomic::Inc => {
            if x >= y {
                0
            } else {
                x + 1
            }
        }
        Atomic::Dec => {
            if x == 0 || x > y {
                y
            } else {
                x - 1
            }
        }
    }
}
