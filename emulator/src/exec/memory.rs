//! Memory as a block of threads sees it, with the checks that are on.
#![allow(unsafe_code)]

use crate::machine::fault::{Fault, Status};
use crate::machine::memory::{Owner, Range, Table};
use crate::machine::shadow::{Kind, Mark, Shadow};
use crate::ptx::types::Space;

/// Where shared memory starts in its own space: not at zero, which is a null pointer.
pub const SHARED_BASE: u64 = 1024;
/// Where shared memory is seen in the generic space.
pub const SHARED_WINDOW: u64 = 0xa000_0000_0000;

/// The memory of a launch.
pub struct Memory<'a> {
    pub table: &'a mut Table,
    pub device: u32,
    pub peers: bool,
    pub checked: bool,
    shared: Vec<u128>,
    shared_bytes: usize,
    shared_written: Vec<bool>,
    shared_shadow: Shadow,
    /// What each instruction last met.
    ranges: Vec<Range>,
}

impl<'a> Memory<'a> {
    pub fn new(
        table: &'a mut Table,
        device: u32,
        peers: bool,
        checked: bool,
        shared: usize,
        slots: usize,
    ) -> Self {
        Memory {
            table,
            device,
            peers,
            checked,
            shared: vec![u128::MAX; shared.div_ceil(16)],
            shared_bytes: shared,
            shared_written: vec![false; if checked { shared } else { 0 }],
            shared_shadow: Shadow::default(),
            ranges: vec![Range::default(); slots],
        }
    }

    /// Sets shared memory as a new block finds it.
    pub fn start_block(&mut self) {
        self.shared.fill(u128::MAX);
        self.shared_written.fill(false);
    }

    /// Returns the host address of `len` bytes, checked. `me` is asked for only where checks are on.
    #[inline(always)]
    pub fn locate(
        &mut self,
        space: Space,
        slot: u32,
        address: u64,
        len: usize,
        kind: Kind,
        me: impl Fn() -> Mark,
    ) -> Result<*mut u8, Fault> {
        let range = self.ranges[slot as usize];
        // The range is empty until the slow way has found one, and stays so where checks are on.
        if address >= range.start && address + (len as u64) <= range.end && address & (len as u64 - 1) == 0 {
            return Ok((range.host + (address - range.start) as usize) as *mut u8);
        }
        self.search(space, slot, address, len, kind, me())
    }

    #[inline(never)]
    fn search(
        &mut self,
        space: Space,
        slot: u32,
        address: u64,
        len: usize,
        kind: Kind,
        me: Mark,
    ) -> Result<*mut u8, Fault> {
        if !address.is_multiple_of(len as u64) {
            let message = format!("misaligned access of {len} bytes at {address:#x}");
            return Err(Fault::new(Status::MISALIGNED, message));
        }
        let in_window = address & !0xffff_ffff == SHARED_WINDOW;
        match space {
            Space::Shared => return self.shared(slot, 0, address, len, kind, &me),
            Space::Generic if in_window => return self.shared(slot, SHARED_WINDOW, address, len, kind, &me),
            _ => {}
        }
        let (device, peers, checked) = (self.device, self.peers, self.checked);
        let (found, at) = self.table.find(address, len)?;
        match found.owner {
            Owner::Device(of) | Owner::Image(of) if of != device && !peers => {
                let message = format!("device {device} has no access to memory of device {of}");
                return Err(Fault::new(Status::ILLEGAL_ADDRESS, message));
            }
            Owner::Image(_) => {}
            _ if space == Space::Const => {
                let message = format!("{address:#x} is not in constant memory");
                return Err(Fault::new(Status::ILLEGAL_ADDRESS, message));
            }
            _ => {}
        }
        let range = found.range();
        if checked {
            found.check(at, len, &me, kind)?;
        } else {
            self.ranges[slot as usize] = range;
        }
        Ok((range.host + at) as *mut u8)
    }

    fn shared(
        &mut self,
        slot: u32,
        window: u64,
        address: u64,
        len: usize,
        kind: Kind,
        me: &Mark,
    ) -> Result<*mut u8, Fault> {
        let start = window + SHARED_BASE;
        let at = address.wrapping_sub(start) as usize;
        if at > self.shared_bytes || len > self.shared_bytes - at {
            let has = self.shared_bytes;
            let at = at as i64;
            let message = format!("{len} bytes at {at} are out of bounds of shared memory, which has {has}");
            return Err(Fault::new(Status::ILLEGAL_ADDRESS, message));
        }
        if self.checked {
            if kind != Kind::Write && self.shared_written[at..at + len].contains(&false) {
                let message = format!("read of uninitialised shared memory at byte {at}");
                return Err(Fault::new(Status::LAUNCH_FAILED, message));
            }
            if let Some(other) = self.shared_shadow.touch(self.shared_bytes, at, len, me, kind) {
                let message = format!("race in shared memory: byte {at} was {other}");
                return Err(Fault::new(Status::LAUNCH_FAILED, message));
            }
            if kind != Kind::Read {
                self.shared_written[at..at + len].fill(true);
            }
        } else {
            let host = self.shared.as_mut_ptr() as usize;
            self.ranges[slot as usize] = Range { start, end: start + self.shared_bytes as u64, host };
        }
        Ok(self.shared.as_mut_ptr().cast::<u8>().wrapping_add(at))
    }
}

/// Reads a value of `size` bytes, zero-extended.
///
/// # Safety
/// `at` points to `size` readable bytes; `size` is 1, 2, 4 or 8.
#[inline(always)]
pub unsafe fn read(at: *const u8, size: usize) -> u64 {
    // SAFETY: the caller's promise; no alignment is assumed.
    unsafe {
        match size {
            1 => u64::from(*at),
            2 => u64::from(at.cast::<u16>().read_unaligned()),
            4 => u64::from(at.cast::<u32>().read_unaligned()),
            _ => at.cast::<u64>().read_unaligned(),
        }
    }
}

/// Writes the low `size` bytes of a value.
///
/// # Safety
/// `at` points to `size` writable bytes; `size` is 1, 2, 4 or 8.
#[inline(always)]
pub unsafe fn write(at: *mut u8, size: usize, value: u64) {
    // SAFETY: the caller's promise; no alignment is assumed.
    unsafe {
        match size {
            1 => *at = value as u8,
            2 => at.cast::<u16>().write_unaligned(value as u16),
            4 => at.cast::<u32>().write_unaligned(value as u32),
            _ => at.cast::<u64>().write_unaligned(value),
        }
    }
}
