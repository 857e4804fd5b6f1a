//! The allocation table. Device addresses are no host addresses: a host that follows one crashes, as it should.
//! They are never given twice, so what was freed is known as such.
#![allow(unsafe_code)]

use std::alloc::Layout;
use std::collections::{BTreeMap, VecDeque};

use super::fault::{Fault, Status};
use super::shadow::{Kind, Mark, Shadow};

/// Not an address that a process can have, and far above all that it has.
const FIRST: u64 = 0x9000_0000_0000;
/// What CUDA promises of its allocations.
const ALIGN: usize = 256;
/// The freed allocations that are kept by name.
const REMEMBERED: usize = 4096;

/// Who may use an allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Memory of a device.
    Device(u32),
    /// The variables of a module on a device: not a leak when they stay.
    Image(u32),
    /// Page-locked memory of the host: its address is real.
    Pinned,
    /// Moves between host and devices: its address is real.
    Managed,
}

/// An allocation.
pub struct Allocation {
    pub base: u64,
    pub size: usize,
    pub owner: Owner,
    host: *mut u8,
    layout: Layout,
    /// A flag for each byte, where checks were on at its allocation and the host cannot write past the driver.
    written: Vec<bool>,
    shadow: Shadow,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: `host` came from `alloc` with this layout, once, in `Table::allocate`.
        unsafe { std::alloc::dealloc(self.host, self.layout) }
    }
}

/// A range that an instruction met before: device addresses and what to add for the host's.
#[derive(Clone, Copy, Default)]
pub struct Range {
    pub start: u64,
    pub end: u64,
    pub host: usize,
}

impl Allocation {
    pub fn range(&self) -> Range {
        Range { start: self.base, end: self.base + self.size as u64, host: self.host as usize }
    }

    /// Checks an access by a kernel.
    pub fn check(&mut self, at: usize, len: usize, me: &Mark, kind: Kind) -> Result<(), Fault> {
        if !self.written.is_empty() && kind != Kind::Write && self.written[at..at + len].contains(&false) {
            let message = format!("read of uninitialised global memory: byte {at} of {}", self.size);
            return Err(Fault::new(Status::LAUNCH_FAILED, message));
        }
        if let Some(other) = self.shadow.touch(self.size, at, len, me, kind) {
            let message = format!("race in global memory: byte {at} of {} was {other}", self.size);
            return Err(Fault::new(Status::LAUNCH_FAILED, message));
        }
        self.note(at, len, kind);
        Ok(())
    }

    fn note(&mut self, at: usize, len: usize, kind: Kind) {
        if !self.written.is_empty() && kind != Kind::Read {
            self.written[at..at + len].fill(true);
        }
    }
}

/// All allocations of the machine.
pub struct Table {
    map: BTreeMap<u64, Box<Allocation>>,
    freed: VecDeque<(u64, usize)>,
    next: u64,
}

// SAFETY: an allocation owns its memory; the raw pointer to it is used behind the machine's lock only.
unsafe impl Send for Table {}

impl Default for Table {
    fn default() -> Self {
        Table { map: BTreeMap::new(), freed: VecDeque::new(), next: FIRST }
    }
}

impl Table {
    /// Allocates. Device memory is filled with 0xff, a NaN in every format, so that who reads it unwritten sees it.
    pub fn allocate(&mut self, size: usize, owner: Owner, checked: bool) -> Option<u64> {
        let layout = Layout::from_size_align(size.max(1), ALIGN).ok()?;
        // SAFETY: the layout has a size.
        let host = unsafe { std::alloc::alloc(layout) };
        if host.is_null() {
            return None;
        }
        // SAFETY: `alloc` gave this many bytes.
        unsafe { host.write_bytes(0xff, size.max(1)) };
        let base = match owner {
            Owner::Pinned | Owner::Managed => host as u64,
            _ => {
                let base = self.next;
                // A gap, so that running over an end is outside of everything.
                self.next += (size.max(1).next_multiple_of(ALIGN) + 16 * ALIGN) as u64;
                base
            }
        };
        let written = if checked && matches!(owner, Owner::Device(_)) { vec![false; size] } else { vec![] };
        let shadow = Shadow::default();
        self.freed.retain(|(freed, _)| *freed != base);
        self.map.insert(base, Box::new(Allocation { base, size, owner, host, layout, written, shadow }));
        Some(base)
    }

    /// Frees what starts at this address.
    pub fn free(&mut self, base: u64) -> Option<usize> {
        let size = self.map.remove(&base)?.size;
        self.freed.push_back((base, size));
        if self.freed.len() > REMEMBERED {
            self.freed.pop_front();
        }
        Some(size)
    }

    pub fn starts_at(&self, base: u64) -> Option<&Allocation> {
        self.map.get(&base).map(Box::as_ref)
    }

    /// Returns the allocation with this byte.
    pub fn containing(&self, address: u64) -> Option<&Allocation> {
        let (_, a) = self.map.range(..=address).next_back()?;
        (address < a.base + a.size as u64).then_some(a)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Allocation> {
        self.map.values().map(Box::as_ref)
    }

    /// Returns the allocation that holds `len` bytes at `address`, and where in it they are.
    pub fn find(&mut self, address: u64, len: usize) -> Result<(&mut Allocation, usize), Fault> {
        let Table { map, freed, .. } = self;
        let found = map.range_mut(..=address).next_back().map(|(_, a)| a);
        let reason = match found {
            Some(a) if address + len as u64 <= a.base + a.size as u64 => {
                let at = (address - a.base) as usize;
                return Ok((a, at));
            }
            _ if address < 4096 => "is a null pointer".into(),
            near => match freed.iter().find(|(base, size)| (*base..base + *size as u64).contains(&address)) {
                Some((base, size)) => {
                    format!("is byte {} of {size} that were freed (use after free)", address - base)
                }
                None => near.map_or("is outside of all memory".into(), |a| {
                    format!("is out of bounds: byte {} of an allocation of {}", address - a.base, a.size)
                }),
            },
        };
        let message = format!("{len} bytes at {address:#x}: the address {reason}");
        Err(Fault::new(Status::ILLEGAL_ADDRESS, message))
    }

    /// Returns a range as host memory, for the driver's work on it.
    fn slice(&mut self, address: u64, len: usize, kind: Kind) -> Result<*mut u8, Fault> {
        let (a, at) = self.find(address, len)?;
        a.note(at, len, kind);
        Ok(a.host.wrapping_add(at))
    }

    /// Reads `len` bytes.
    pub fn read(&mut self, address: u64, len: usize) -> Result<Vec<u8>, Fault> {
        if len == 0 {
            return Ok(vec![]);
        }
        let from = self.slice(address, len, Kind::Read)?;
        // SAFETY: `slice` found `len` bytes of an allocation there.
        Ok(unsafe { std::slice::from_raw_parts(from, len) }.to_vec())
    }

    /// Writes bytes.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        if bytes.is_empty() {
            return Ok(());
        }
        let to = self.slice(address, bytes.len(), Kind::Write)?;
        // SAFETY: `slice` found as many bytes of an allocation there; `bytes` may be part of none, as device
        // memory is never lent out.
        unsafe { to.copy_from(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies inside the machine; what was never written stays so.
    pub fn copy(&mut self, to: u64, from: u64, len: usize) -> Result<(), Fault> {
        if len == 0 {
            return Ok(());
        }
        let (source, at) = self.find(from, len)?;
        let written = match source.written.as_slice() {
            [] => vec![],
            flags => flags[at..at + len].to_vec(),
        };
        let bytes = self.read(from, len)?;
        self.write(to, &bytes)?;
        let (target, at) = self.find(to, len)?;
        if !target.written.is_empty() && !written.is_empty() {
            target.written[at..at + len].copy_from_slice(&written);
        }
        Ok(())
    }
}
