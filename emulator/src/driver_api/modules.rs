//! Modules, functions and their attributes.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

use super::{exported, give, text};
use crate::machine::fault::Status;
use crate::machine::memory::Owner;
use crate::machine::{Function, Loaded, Machine, Outcome, device};

/// Loads a module from its text; why it was refused is printed and kept.
fn load(m: &mut Machine, to: *mut usize, source: &str) -> Outcome {
    let device = device()?;
    let module = crate::ptx::parse(source, 90, m.config.checked).map_err(|error| {
        eprintln!("emulated CUDA: {error}");
        m.last_fault = Some(error.to_string());
        Status::INVALID_PTX
    })?;
    let image =
        if module.image.is_empty() { 0 } else { m.allocate(module.image.len(), Owner::Image(device))? };
    m.table.write(image, &module.image).map_err(|fault| fault.status)?;
    let handle = m.handle();
    m.modules.insert(handle, Loaded { module: Arc::new(module), image });
    give(to, handle)
}

exported! {
    usual cuModuleLoadData(m, to: *mut usize, source: *const c_char) { load(m, to, text(source)?) }
    usual cuModuleLoadDataEx(m, to: *mut usize, source: *const c_char, _n: u32, _options: *mut c_void, _values: *mut c_void) {
        load(m, to, text(source)?)
    }
    usual cuModuleLoad(m, to: *mut usize, path: *const c_char) {
        let source = std::fs::read_to_string(text(path)?).map_err(|_| Status::FILE_NOT_FOUND)?;
        load(m, to, &source)
    }
    usual cuModuleUnload(m, module: usize) {
        m.drain_all(None)?;
        let loaded = m.modules.remove(&module).ok_or(Status::INVALID_HANDLE)?;
        m.functions.retain(|_, f| !Arc::ptr_eq(&f.module, &loaded.module));
        if loaded.image == 0 { Ok(()) } else { m.free(loaded.image) }
    }
    usual cuModuleGetFunction(m, to: *mut usize, module: usize, name: *const c_char) {
        let loaded = m.modules.get(&module).ok_or(Status::INVALID_HANDLE)?;
        let name = text(name)?;
        let index = loaded.module.kernels.iter().position(|k| k.name == name).ok_or(Status::NOT_FOUND)?;
        let (module, image) = (loaded.module.clone(), loaded.image);
        let function = Function { module, index, image, device: device()?, dynamic_shared_limit: 49_152 };
        let handle = m.handle();
        m.functions.insert(handle, function);
        give(to, handle)
    }
    usual cuModuleGetGlobal_v2(m, at: *mut u64, bytes: *mut usize, module: usize, name: *const c_char) {
        let loaded = m.modules.get(&module).ok_or(Status::INVALID_HANDLE)?;
        let name = text(name)?;
        let variable = loaded.module.variables.iter().find(|v| v.name == name).ok_or(Status::NOT_FOUND)?;
        if !at.is_null() {
            give(at, loaded.image + variable.offset as u64)?;
        }
        if bytes.is_null() { Ok(()) } else { give(bytes, variable.size) }
    }
    usual cuFuncGetAttribute(m, to: *mut c_int, which: c_int, function: usize) {
        let f = m.functions.get(&function).ok_or(Status::INVALID_HANDLE)?;
        let (major, minor) = f.module.version;
        give(to, match which {
            0 => f.kernel().max_threads.unwrap_or(1024) as c_int,
            1 => f.kernel().shared as c_int,
            2 => 0,
            3 => f.kernel().local as c_int,
            // Registers are given by the assembler; no more than a thread can have.
            4 => f.kernel().words.min(255) as c_int,
            5 => (major * 10 + minor) as c_int,
            6 => f.module.target as c_int,
            8 => f.dynamic_shared_limit as c_int,
            _ => 0,
        })
    }
    usual cuFuncSetAttribute(m, function: usize, which: c_int, value: c_int) {
        let f = m.functions.get_mut(&function).ok_or(Status::INVALID_HANDLE)?;
        let most = 232_448 - f.kernel().shared as c_int;
        match which {
            8 if (0..=most).contains(&value) => f.dynamic_shared_limit = value as usize,
            9 if (-1..=100).contains(&value) => {}
            _ => return Err(Status::INVALID_VALUE),
        }
        Ok(())
    }
    usual cuFuncSetCacheConfig(m, function: usize, _config: c_int) {
        m.functions.get(&function).map(|_| ()).ok_or(Status::INVALID_HANDLE)
    }
}
