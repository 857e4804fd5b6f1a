//! Model files that are stepped in place.

use crate::{Binding, Error, Result};
use fallline_core::{Shape, bf16, f16};
use fallline_cpu::MappedFile;
use fallline_optim::{GradRef, ParamRef, param};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use std::path::{Path, PathBuf};

/// A model in safetensors, mapped into memory: an optimizer steps its tensors in place, and the operating system writes
/// them to the file. The header stays as it is.
///
/// ```
/// use fallline::ModelFile;
/// use fallline::algorithms::AdamW;
/// use fallline::prelude::*;
/// use std::collections::HashMap;
/// # fn run() -> fallline::Result<()> {
/// let mut model = ModelFile::open_mut("model.safetensors")?;
/// let grads = HashMap::from([("fc.weight", vec![0.1f32; 12])]);
/// let mut optimizer = AdamW::default().on(Cpu::new()?)?;
/// optimizer.step(&mut model.params(|name| grads.get(name))?)?;
/// model.flush()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ModelFile {
    path: PathBuf,
    file: MappedFile,
    /// The length of the header.
    start: usize,
    /// In the order of the file.
    tensors: Vec<Stored>,
}

/// A tensor of the file.
#[derive(Debug)]
struct Stored {
    name: String,
    dtype: Dtype,
    shape: Shape,
    /// Where it ends among the bytes behind the header. It begins where the one before ends.
    end: usize,
}

impl ModelFile {
    /// Maps a file. It is locked against other openings until it is dropped; nothing else may write to it meanwhile.
    ///
    /// # Errors
    /// Where the file cannot be opened, somebody else has it open, or it is no safetensors.
    pub fn open_mut(path: impl AsRef<Path>) -> Result<ModelFile> {
        let path = path.as_ref().to_owned();
        let failed = |source| fallline_optim::Error::Io { path: path.clone(), source };
        let file = MappedFile::open(&path).map_err(failed)?;
        let refused = |problem: String| Error::ModelFile { path: path.clone(), problem };
        if cfg!(target_endian = "big") {
            return Err(refused("its elements are little-endian, those of this machine are not".into()));
        }
        // Checks that tensors lie end to end and fill the file.
        SafeTensors::deserialize(file.bytes())
            .map_err(|error| refused(format!("no safetensors: {error}")))?;
        let (header, metadata) = SafeTensors::read_metadata(file.bytes())
            .map_err(|error| refused(format!("no safetensors: {error}")))?;
        let mut tensors: Vec<(usize, Stored)> = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                let (begin, end) = info.data_offsets;
                (begin, Stored { name, dtype: info.dtype, shape: info.shape.as_slice().into(), end })
            })
            .collect();
        tensors.sort_by_key(|(begin, stored)| (*begin, stored.end));
        let tensors = tensors.into_iter().map(|(_, stored)| stored).collect();
        Ok(ModelFile { start: header + size_of::<u64>(), path, file, tensors })
    }

    /// Returns the tensors' names and shapes, in the order of the file.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &Shape)> {
        self.tensors.iter().map(|stored| (stored.name.as_str(), &stored.shape))
    }

    /// Binds the tensors with the gradients that `grad` gives by name, for a step, or for
    /// [`Driver::save_with`](crate::Driver::save_with). A tensor without a gradient is bound as frozen, or left out where
    /// it is no parameter: a counter, say.
    ///
    /// # Errors
    /// A tensor with a gradient whose type no parameter has, or that is not aligned to its elements.
    pub fn params<'a, G: Into<GradRef<'a>>>(
        &'a mut self,
        mut grad: impl FnMut(&str) -> G,
    ) -> Result<Vec<Binding<'a>>> {
        let (mut rest, mut start) = (&mut self.file.bytes_mut()[self.start..], 0);
        let mut bindings = Vec::with_capacity(self.tensors.len());
        for Stored { name, dtype, shape, end } in &self.tensors {
            let (bytes, behind) = rest.split_at_mut(end - start);
            (rest, start) = (behind, *end);
            let grad = grad(name).into();
            match elements(bytes, *dtype) {
                Ok(values) => bindings.push(param(name, values, grad).shaped(shape.dims())),
                Err(_) if matches!(grad, GradRef::None) => {}
                Err(problem) => {
                    let problem = format!("tensor {name:?} {problem}");
                    return Err(Error::ModelFile { path: self.path.clone(), problem });
                }
            }
        }
        Ok(bindings)
    }

    /// Writes all changes to the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn flush(&self) -> Result<()> {
        let failed = |source| fallline_optim::Error::Io { path: self.path.clone(), source };
        Ok(self.file.flush().map_err(failed)?)
    }
}

/// Returns bytes as elements of a type.
///
/// # Errors
/// Why they are none that a parameter has.
fn elements(bytes: &mut [u8], dtype: Dtype) -> Result<ParamRef<'_>, String> {
    fn cast<'b, T: bytemuck::Pod>(bytes: &'b mut [u8]) -> Result<ParamRef<'b>, String>
    where
        ParamRef<'b>: From<&'b mut [T]>,
    {
        let values = bytemuck::try_cast_slice_mut::<u8, T>(bytes);
        Ok(values.map_err(|_| format!("is not aligned to its elements of {} bytes", size_of::<T>()))?.into())
    }
    match dtype {
        Dtype::F32 => cast::<f32>(bytes),
        Dtype::F64 => cast::<f64>(bytes),
        Dtype::BF16 => cast::<bf16>(bytes),
        Dtype::F16 => cast::<f16>(bytes),
        other => Err(format!("is of type {other:?}, which no parameter has")),
    }
}
