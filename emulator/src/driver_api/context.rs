//! Devices, contexts, names of errors.

use std::ffi::{c_char, c_int, c_void};

use super::{exported, give};
use crate::machine::fault::Status;
use crate::machine::{Machine, Outcome, current, device, set_current};

fn known(machine: &Machine, device: c_int) -> Outcome<u32> {
    let device = u32::try_from(device).map_err(|_| Status::INVALID_DEVICE)?;
    if device < machine.config.devices { Ok(device) } else { Err(Status::INVALID_DEVICE) }
}

/// Returns the attributes of a device, those of an H100 where they matter.
fn attribute(attribute: c_int) -> c_int {
    match attribute {
        1..=3 => 1024,          // threads of a block, its x and y
        4 => 64,                // z
        5 => 0x7fff_ffff,       // blocks of a grid: x
        6 | 7 => 65_535,        // y and z
        8 => 49_152,            // shared memory of a block
        9 => 65_536,            // constant memory
        10 => 32,               // threads of a warp
        12 | 82 => 65_536,      // registers of a block, of a multiprocessor
        13 => 1_755_000,        // kHz
        16 => 132,              // multiprocessors
        19 | 31 | 40 | 41 => 1, // maps host memory, concurrent kernels, copy engines, unified addresses
        36 => 2_619_000,        // kHz of memory
        37 => 5120,             // bits of its bus
        38 => 52_428_800,       // second cache
        39 => 2048,             // threads of a multiprocessor
        75 => 9,                // compute capability
        76 => 0,
        78 | 83 | 89 | 95 => 1, // priorities, managed memory, also concurrently, cooperative launch
        81 => 233_472,          // shared memory of a multiprocessor
        97 => 232_448,          // shared memory of a block that asked for more
        106 => 32,              // blocks of a multiprocessor
        115 => 1,               // memory pools
        _ => 0,
    }
}

exported! {
    usual cuInit(m, flags: u32) {
        if m.config.devices == 0 {
            return Err(Status::NO_DEVICE);
        }
        if m.config.checked {
            report_at_exit();
        }
        if flags == 0 { Ok(()) } else { Err(Status::INVALID_VALUE) }
    }
    always cuDriverGetVersion(m, version: *mut c_int) { give(version, 12_080) }
    always cuDeviceGetCount(m, count: *mut c_int) { give(count, m.config.devices as c_int) }
    always cuDeviceGet(m, to: *mut c_int, ordinal: c_int) {
        known(m, ordinal)?;
        give(to, ordinal)
    }
    always cuDeviceGetName(m, name: *mut c_char, len: c_int, dev: c_int) {
        let text = format!("fallline emulated device {}", known(m, dev)?);
        let n = text.len().min((len.max(1) - 1) as usize);
        if name.is_null() || len <= 0 {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: the caller gave `len` bytes at `name`, and no more are written.
        unsafe {
            name.cast::<u8>().copy_from(text.as_ptr(), n);
            name.add(n).write(0);
        }
        Ok(())
    }
    always cuDeviceTotalMem_v2(m, bytes: *mut usize, dev: c_int) {
        known(m, dev)?;
        give(bytes, m.config.memory)
    }
    always cuDeviceGetUuid_v2(m, uuid: *mut [u8; 16], dev: c_int) {
        let mut id = *b"fallline-emul-00";
        id[15] += known(m, dev)? as u8;
        give(uuid, id)
    }
    always cuDeviceGetAttribute(m, to: *mut c_int, which: c_int, dev: c_int) {
        known(m, dev)?;
        give(to, attribute(which))
    }
    always cuDeviceCanAccessPeer(m, to: *mut c_int, dev: c_int, peer: c_int) {
        give(to, c_int::from(known(m, dev)? != known(m, peer)?))
    }
    always cuDevicePrimaryCtxRetain(m, to: *mut usize, dev: c_int) {
        let dev = known(m, dev)?;
        m.contexts[dev as usize] += 1;
        give(to, dev as usize + 1)
    }
    always cuDevicePrimaryCtxRelease_v2(m, dev: c_int) {
        let dev = known(m, dev)?;
        let held = m.contexts[dev as usize].checked_sub(1).ok_or(Status::INVALID_CONTEXT)?;
        m.contexts[dev as usize] = held;
        if held > 0 {
            return Ok(());
        }
        let done = m.drain_all(Some(dev));
        m.reset(dev);
        // A fault was told before; the release itself succeeds.
        done.or(Ok(()))
    }
    always cuCtxGetCurrent(m, to: *mut usize) { give(to, current()) }
    always cuCtxSetCurrent(m, context: usize) {
        if context > m.config.devices as usize {
            return Err(Status::INVALID_CONTEXT);
        }
        set_current(context);
        Ok(())
    }
    always cuCtxGetDevice(m, to: *mut c_int) { give(to, device()? as c_int) }
    usual cuCtxSynchronize(m) {
        m.refuse_in_capture()?;
        m.drain_all(Some(device()?))
    }
    usual cuCtxSetFlags(m, _flags: u32) { device().map(|_| ()) }
    usual cuCtxGetStreamPriorityRange(m, least: *mut c_int, greatest: *mut c_int) {
        give(least, 0)?;
        give(greatest, -5)
    }
    usual cuCtxEnablePeerAccess(m, _peer: usize, _flags: u32) {
        if std::mem::replace(&mut m.config.peers, true) { Err(Status::PEER_ENABLED) } else { Ok(()) }
    }
    always cuProfilerStart(m) { Ok(()) }
    always cuProfilerStop(m) { Ok(()) }
    always cuGetErrorName(m, error: i32, to: *mut *const c_char) {
        let (name, _) = Status(error).names().ok_or(Status::INVALID_VALUE)?;
        give(to, name.as_ptr().cast())
    }
    always cuGetErrorString(m, error: i32, to: *mut *const c_char) {
        let (_, text) = Status(error).names().ok_or(Status::INVALID_VALUE)?;
        give(to, text.as_ptr().cast())
    }
    always cuGetProcAddress_v2(m, symbol: *const c_char, to: *mut *mut c_void, _version: c_int, _flags: u64, status: *mut c_int) {
        super::text(symbol)?;
        // SAFETY: the symbol is a string, checked above; RTLD_DEFAULT is always there.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, symbol) };
        if !status.is_null() {
            give(status, c_int::from(found.is_null()))?;
        }
        give(to, found)
    }
}

/// Tells of leaks when the process ends.
fn report_at_exit() {
    extern "C" fn report() {
        let leaks = std::panic::catch_unwind(|| crate::machine::machine().leaks(None));
        for leak in leaks.unwrap_or_default() {
            eprintln!("emulated CUDA: at exit: {leak}");
        }
    }
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // SAFETY: `report` is a function without arguments that does not unwind.
        unsafe { libc::atexit(report) };
    });
}
