//! Memory that others own on the device: adopted, or lent for a while.

use crate::Cuda;
use crate::context::Failure;
use crate::memory::{self, Region};
use crate::state::State;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr};
use fallline_core::{Backend, Device, Element, Error, Format, Lent, LentMut, Result, Shape, Storage, Tensor};
use std::sync::Arc;

impl Cuda {
    /// Returns a tensor of memory that a program allocated with cudarc, without a copy. Work that was queued on the
    /// slice's stream so far comes first.
    ///
    /// # Errors
    /// [`Error::Length`] when the shape has another number of elements, [`Error::Unreachable`] when the slice is another
    /// device's.
    pub fn adopt<T>(self: &Arc<Self>, slice: CudaSlice<T>, shape: impl Into<Shape>) -> Result<Tensor>
    where
        T: Element + DeviceRepr,
    {
        self.wait_for("adopt", slice.stream())?;
        let (len, address) = (slice.len(), memory::address_of(&slice));
        let storage =
            Storage::new(T::FORMAT, len, Box::new(Region::new(self.device(), Arc::new(slice), address)));
        let backend: Arc<dyn Backend> = Arc::clone(self) as Arc<dyn Backend>;
        Tensor::from_storage(&backend, storage, shape)
    }

    /// Lends a parameter's memory to steps, without a copy: a `CudaSlice` or a view of one, by `&mut`.
    ///
    /// What was queued on its stream so far comes before the steps. When the loan is dropped, what is queued there from
    /// then on comes after them; another stream waits for that one. A device that is open
    /// [on that stream](Cuda::on_stream) needs neither.
    ///
    /// ```
    /// # use fallline_cuda::{Cuda, cudarc::driver::CudaSlice};
    /// # fn of_a_framework(cuda: &Cuda, weight: &mut CudaSlice<f32>) -> fallline_core::Result<()> {
    /// let mut lent = cuda.lend_mut(weight, [256, 128])?; // a step binds `param("fc.weight", &mut lent, &gradient)`
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Length`] when the shape has another number of elements, [`Error::Unreachable`] when the memory is another
    /// device's.
    pub fn lend_mut<'m, T, M>(&self, memory: &'m mut M, shape: impl Into<Shape>) -> Result<LentMut<'m>>
    where
        T: Element + DeviceRepr,
        M: DevicePtrMut<T>,
    {
        let (stream, len) = (Arc::clone(memory.stream()), memory.len());
        let (address, waited) = memory.device_ptr_mut(&stream);
        drop(waited);
        self.wait_for("lend", &stream)?;
        LentMut::new(self.lent_storage((address, len, T::FORMAT), &stream), shape)
    }

    /// Lends a gradient's memory to steps, as [`lend_mut`](Cuda::lend_mut) does a parameter's.
    ///
    /// # Errors
    /// As [`lend_mut`](Cuda::lend_mut).
    pub fn lend<'m, T, M>(&self, memory: &'m M, shape: impl Into<Shape>) -> Result<Lent<'m>>
    where
        T: Element + DeviceRepr,
        M: DevicePtr<T>,
    {
        let (stream, len) = (memory.stream(), memory.len());
        let (address, waited) = memory.device_ptr(stream);
        drop(waited);
        self.wait_for("lend", stream)?;
        Lent::new(self.lent_storage((address, len, T::FORMAT), stream), shape)
    }

    /// Lends a parameter's memory of any owner: `len` elements of a format from an address of the device on, whose
    /// work is in the order of `stream`.
    ///
    /// # Safety
    /// - For `'m` the memory is allocated, in the context of `stream`, and holds `len` elements that are initialized by
    ///   work which is queued on `stream`.
    /// - For `'m` nobody else reads or writes it, and what is queued elsewhere than on `stream` is ordered after the end
    ///   of the loan by the caller.
    ///
    /// # Errors
    /// As [`lend_mut`](Cuda::lend_mut); [`Error::Format`] for block formats, [`Error::Unaligned`] where the address is no
    /// multiple of an element's bytes, or none.
    pub unsafe fn lend_raw_mut<'m>(
        &self,
        (address, len, format): (u64, usize, Format),
        stream: &Arc<CudaStream>,
        shape: impl Into<Shape>,
    ) -> Result<LentMut<'m>> {
        fallline_core::host::check_raw("lend", address as usize, len, format)?;
        self.wait_for("lend", stream)?;
        LentMut::new(self.lent_storage((address, len, format), stream), shape)
    }

    /// Lends a gradient's memory of any owner, as [`lend_raw_mut`](Cuda::lend_raw_mut) does a parameter's.
    ///
    /// # Safety
    /// As [`lend_raw_mut`](Cuda::lend_raw_mut); others may read it.
    ///
    /// # Errors
    /// As [`lend_raw_mut`](Cuda::lend_raw_mut).
    pub unsafe fn lend_raw<'m>(
        &self,
        (address, len, format): (u64, usize, Format),
        stream: &Arc<CudaStream>,
        shape: impl Into<Shape>,
    ) -> Result<Lent<'m>> {
        fallline_core::host::check_raw("lend", address as usize, len, format)?;
        self.wait_for("lend", stream)?;
        Lent::new(self.lent_storage((address, len, format), stream), shape)
    }

    /// Lets this device's work wait for what a stream has queued so far.
    fn wait_for(&self, operation: &'static str, stream: &CudaStream) -> Result<()> {
        let mut state = self.state();
        state.enter("taking memory of others")?;
        if stream.context().cu_ctx() != state.ctx.cuda.cu_ctx() {
            let what = format!("memory of {}", Device::Cuda(stream.context().ordinal()));
            return Err(Error::Unreachable { operation, what, device: self.device() });
        }
        if is_same(&state, stream) {
            return Ok(());
        }
        let joined = state.ctx.compute.join(stream).map_err(Failure::at("waiting for a stream"));
        joined.map_err(|failure| state.ctx.error(failure, false))
    }

    fn lent_storage(
        &self,
        (address, len, format): (u64, usize, Format),
        stream: &Arc<CudaStream>,
    ) -> Storage {
        let state = self.state();
        let compute = (!is_same(&state, stream)).then(|| Arc::clone(&state.ctx.compute));
        let loan = Loan { lender: Arc::clone(stream), compute };
        Storage::new(format, len, Box::new(Region::new(self.device(), Arc::new(loan), address)))
    }
}

/// Returns whether a stream is the one in whose order this device works.
fn is_same(state: &State, stream: &CudaStream) -> bool {
    stream.cu_stream() == state.ctx.compute.cu_stream()
}

/// Whose memory it is, and what its stream waits for at the end.
struct Loan {
    lender: Arc<CudaStream>,
    /// The stream of the steps, where it is another.
    compute: Option<Arc<CudaStream>>,
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(compute) = &self.compute else { return };
        // Without an order on the device the host makes one. A failure of that shows in the next call.
        if self.lender.join(compute).is_err() {
            let _ = compute.synchronize();
        }
    }
}
