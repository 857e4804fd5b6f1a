//! A device for a test, kernels from a few lines of PTX.
#![allow(dead_code, unsafe_code)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DeviceRepr, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use fallline_emulator::Emulator;

/// A context on the emulated device, alone in the process: a fault is kept until the context is gone.
pub struct Device {
    pub stream: Arc<CudaStream>,
    pub context: Arc<CudaContext>,
    pub emulator: &'static Emulator,
    _turn: MutexGuard<'static, ()>,
}

/// Returns a device with these options.
pub fn device(options: &str) -> Device {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let emulator = fallline_emulator::install().expect("the emulator is built with the tests");
    emulator.configure("unchecked,eager,seed=0,memory=1000000000,steps=4000000000");
    emulator.reset();
    emulator.configure(options);
    let context = CudaContext::new(0).expect("a device");
    Device { stream: context.default_stream(), context, emulator, _turn: turn }
}

/// Pointers as parameters, registers, and a body.
pub fn kernel(params: usize, shared: &str, body: &str) -> String {
    let list: Vec<String> = (0..params).map(|i| format!(".param .u64 p{i}")).collect();
    let loads: Vec<String> = (0..params).map(|i| format!("ld.param.u64 %d{i}, [p{i}];")).collect();
    format!(
        ".version 7.8\n.target sm_90\n.address_size 64\n.visible .entry k({})\n{{\n\
         .reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<16>; .reg .f32 %f<16>; .reg .b64 %d<16>; .reg .f64 %g<8>;\n\
         {shared}\n{}\nmov.u32 %r0, %tid.x;\n{body}\nret;\n}}\n",
        list.join(", "),
        loads.join("\n")
    )
}

pub fn shape(grid: u32, block: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (grid, 1, 1), block_dim: (block, 1, 1), shared_mem_bytes: 0 }
}

impl Device {
    pub fn load(&self, source: &str) -> Result<CudaFunction, DriverError> {
        self.context.load_module(Ptx::from_src(source))?.load_function("k")
    }

    /// Runs a kernel on one buffer and waits.
    pub fn run<T: DeviceRepr>(
        &self,
        source: &str,
        shape: LaunchConfig,
        x: &mut CudaSlice<T>,
    ) -> Result<(), DriverError> {
        let function = self.load(source)?;
        // SAFETY: the kernel has one pointer as its parameter; what it does with it the emulator checks.
        unsafe { self.stream.launch_builder(&function).arg(x).launch(shape) }?;
        self.stream.synchronize()
    }

    /// Lets go of the context and says what the emulator said last, leaks included.
    pub fn finish(self) -> Option<String> {
        let Device { stream, context, emulator, _turn } = self;
        drop((stream, context));
        emulator.last_fault()
    }

    /// Returns what the emulator says of a kernel that must fail, on a buffer of zeros.
    pub fn fault(&self, source: &str, shape: LaunchConfig, words: usize) -> String {
        let mut x = self.stream.alloc_zeros::<u32>(words).expect("memory");
        self.run(source, shape, &mut x).expect_err("the kernel is wrong");
        self.emulator.last_fault().expect("a fault has a text")
    }
}
