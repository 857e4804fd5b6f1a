//! The emulated machine: devices, memory, streams, one lock around all of it.

pub mod config;
pub mod fault;
pub mod memory;
pub mod shadow;
pub mod stream;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use crate::ptx::program::{Kernel, Module};
use config::{Config, Injection};
use fault::{Fault, Status};
use memory::{Owner, Table};
use stream::{Capture, Event, Op, Stream};

/// What a call of the driver gives.
pub type Outcome<T = ()> = Result<T, Status>;

/// A module on a device.
pub struct Loaded {
    pub module: Arc<Module>,
    pub image: u64,
}

/// A kernel of a module on a device.
#[derive(Clone)]
pub struct Function {
    pub module: Arc<Module>,
    pub index: usize,
    pub image: u64,
    pub device: u32,
    pub dynamic_shared_limit: usize,
}

impl Function {
    pub fn kernel(&self) -> &Kernel {
        &self.module.kernels[self.index]
    }
}

/// The machine.
pub struct Machine {
    pub config: Config,
    pub injections: Vec<Injection>,
    pub calls: BTreeMap<&'static str, u64>,
    /// The call that was last made to fail.
    pub failed: Option<&'static str>,
    pub table: Table,
    pub used: Vec<usize>,
    pub contexts: Vec<u32>,
    pub streams: HashMap<usize, Stream>,
    pub events: HashMap<usize, Event>,
    pub captures: HashMap<usize, Capture>,
    pub graphs: HashMap<usize, Arc<Vec<Op>>>,
    pub modules: HashMap<usize, Loaded>,
    pub functions: HashMap<usize, Function>,
    /// The fault that all calls give until the context is released.
    pub fault: Option<Fault>,
    /// The text of the last fault, also after the context is gone.
    pub last_fault: Option<String>,
    pub sequence: u64,
    pub launches: u32,
    next_handle: usize,
}

thread_local! {
    /// The device of this thread's context, plus one.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Returns the thread's context.
pub fn current() -> usize {
    CURRENT.get()
}

pub fn set_current(context: usize) {
    CURRENT.set(context);
}

/// Returns the device of the thread's context.
pub fn device() -> Outcome<u32> {
    (CURRENT.get() as u32).checked_sub(1).ok_or(Status::INVALID_CONTEXT)
}

/// Locks the machine; the first call builds it from the environment.
pub fn machine() -> MutexGuard<'static, Machine> {
    static MACHINE: OnceLock<Mutex<Machine>> = OnceLock::new();
    let machine = MACHINE.get_or_init(|| Mutex::new(Machine::new()));
    machine.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Machine {
    fn new() -> Machine {
        let mut machine = Machine {
            config: Config::default(),
            injections: vec![],
            calls: BTreeMap::new(),
            failed: None,
            table: Table::default(),
            used: vec![0; 16],
            contexts: vec![0; 16],
            streams: HashMap::new(),
            events: HashMap::new(),
            captures: HashMap::new(),
            graphs: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            fault: None,
            last_fault: None,
            sequence: 0,
            launches: 0,
            next_handle: 0x1000,
        };
        if let Ok(text) = std::env::var("FALLLINE_EMULATOR")
            && let Err(reason) = machine.configure(&text)
        {
            // The driver's interface has no place for this, and going on unchecked would be worse.
            eprintln!("emulated CUDA: FALLLINE_EMULATOR: {reason}");
            std::process::exit(2);
        }
        for device in 0..16 {
            machine.streams.insert(device, Stream::new(device as u32, true));
        }
        machine
    }

    /// Applies options; work that lazy streams still hold is done first.
    pub fn configure(&mut self, text: &str) -> Result<(), String> {
        // A fault of that work is kept like any other.
        let _ = self.drain_all(None);
        self.config.apply(text, &mut self.injections)
    }

    /// Returns a handle that was never given before.
    pub fn handle(&mut self) -> usize {
        self.next_handle += 16;
        self.next_handle
    }

    /// Counts a call and lets it fail if that was asked for.
    pub fn count(&mut self, name: &'static str, fails_too: bool) -> Outcome {
        *self.calls.entry(name).or_default() += 1;
        self.inject(&[name, "any"]).inspect_err(|_| self.failed = Some(name))?;
        match &self.fault {
            Some(fault) if fails_too => Err(fault.status),
            _ => Ok(()),
        }
    }

    fn inject(&mut self, names: &[&str]) -> Outcome {
        let mut out = Ok(());
        self.injections.retain_mut(|injection| {
            if names.contains(&injection.call.as_str()) {
                injection.left -= 1;
            }
            if injection.left == 0 {
                out = Err(injection.status);
            }
            injection.left > 0
        });
        out
    }

    /// Allocates on a device, or fails as one that is full.
    pub fn allocate(&mut self, size: usize, owner: Owner) -> Outcome<u64> {
        if let Owner::Device(device) = owner {
            self.inject(&["alloc"])?;
            let used = self.used[device as usize].checked_add(size);
            if used.is_none_or(|used| used > self.config.memory) {
                return Err(Status::OUT_OF_MEMORY);
            }
        }
        let base = self.table.allocate(size, owner, self.config.checked).ok_or(Status::OUT_OF_MEMORY)?;
        if let Owner::Device(device) = owner {
            self.used[device as usize] += size;
        }
        Ok(base)
    }

    /// Frees an allocation.
    pub fn free(&mut self, base: u64) -> Outcome {
        let owner = self.table.starts_at(base).map(|a| a.owner).ok_or(Status::INVALID_VALUE)?;
        let size = self.table.free(base).ok_or(Status::INVALID_VALUE)?;
        if let Owner::Device(device) = owner {
            self.used[device as usize] -= size;
        }
        Ok(())
    }

    /// Keeps a fault, says what it is, and gives its code.
    pub fn keep(&mut self, fault: Fault) -> Status {
        eprintln!("emulated CUDA: {fault}");
        self.last_fault = Some(fault.message.clone());
        let status = fault.status;
        self.fault.get_or_insert(fault);
        status
    }

    /// Returns a sentence about each allocation that nobody freed.
    pub fn leaks(&self, device: Option<u32>) -> Vec<String> {
        let leaked = |owner: Owner| match owner {
            Owner::Device(of) => device.is_none_or(|device| device == of),
            Owner::Pinned | Owner::Managed => device.is_none(),
            Owner::Image(_) => false,
        };
        let leaked = self.table.iter().filter(|a| leaked(a.owner));
        leaked.map(|a| format!("leak: {} bytes at {:#x} ({:?})", a.size, a.base, a.owner)).collect()
    }

    /// Releases a device's context for the last time: everything on it goes, a fault too.
    pub fn reset(&mut self, device: u32) {
        if self.fault.take().is_none() && self.config.checked {
            let leaks = self.leaks(Some(device));
            for leak in &leaks {
                eprintln!("emulated CUDA: {leak}");
            }
            if !leaks.is_empty() {
                self.last_fault = Some(leaks.join("\n"));
            }
        }
        let here = |owner| matches!(owner, Owner::Device(of) | Owner::Image(of) if of == device);
        let bases: Vec<u64> = self.table.iter().filter(|a| here(a.owner)).map(|a| a.base).collect();
        for base in bases {
            // Each was listed a moment ago.
            let _ = self.free(base);
        }
        self.functions.retain(|_, f| f.device != device);
        for stream in self.streams.values_mut().filter(|s| s.device == device) {
            stream.clear();
        }
    }
}
