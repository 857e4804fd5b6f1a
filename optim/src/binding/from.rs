//! What becomes a parameter or a gradient: slices, vectors, arrays, tensors, lent memory.

use super::{GradRef, ParamRef};
use fallline_core::host::{Slice, SliceMut};
use fallline_core::{Element, Lent, LentMut, Tensor};
use half::{bf16, f16};

impl<'a> From<&'a mut Tensor> for ParamRef<'a> {
    fn from(tensor: &'a mut Tensor) -> Self {
        ParamRef::Tensor(tensor)
    }
}

impl<'a> From<&'a mut LentMut<'_>> for ParamRef<'a> {
    fn from(lent: &'a mut LentMut<'_>) -> Self {
        ParamRef::Lent(lent.slice_mut())
    }
}

impl<'a> From<&'a Lent<'_>> for GradRef<'a> {
    fn from(lent: &'a Lent<'_>) -> Self {
        GradRef::Lent(lent.slice())
    }
}

impl<'a> From<SliceMut<'a>> for ParamRef<'a> {
    fn from(slice: SliceMut<'a>) -> Self {
        ParamRef::Host(slice, None)
    }
}

impl<'a> From<Slice<'a>> for GradRef<'a> {
    fn from(slice: Slice<'a>) -> Self {
        GradRef::Host(slice, None)
    }
}

impl<'a> From<&'a Tensor> for GradRef<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        GradRef::Tensor(tensor)
    }
}

impl<'a, G: Into<GradRef<'a>>> From<Option<G>> for GradRef<'a> {
    fn from(grad: Option<G>) -> Self {
        grad.map_or(GradRef::None, Into::into)
    }
}

/// Makes a parameter of a flat slice of elements.
fn flat_param<'a, T: Element>(slice: &'a mut [T]) -> ParamRef<'a>
where
    SliceMut<'a>: From<&'a mut [T]>,
{
    ParamRef::Host(slice.into(), None)
}

/// Makes a gradient of a flat slice of elements.
fn flat_grad<'a, T: Element>(slice: &'a [T]) -> GradRef<'a>
where
    Slice<'a>: From<&'a [T]>,
{
    GradRef::Host(slice.into(), None)
}

macro_rules! slices {
    ($($t:ty),*) => { $(
        impl<'a> From<&'a mut [$t]> for ParamRef<'a> {
            fn from(slice: &'a mut [$t]) -> Self {
                flat_param(slice)
            }
        }
        impl<'a> From<&'a mut Vec<$t>> for ParamRef<'a> {
            fn from(vector: &'a mut Vec<$t>) -> Self {
                flat_param(vector.as_mut_slice())
            }
        }
        impl<'a, const N: usize> From<&'a mut [$t; N]> for ParamRef<'a> {
            fn from(array: &'a mut [$t; N]) -> Self {
                flat_param(array.as_mut_slice())
            }
        }
        impl<'a> From<&'a [$t]> for GradRef<'a> {
            fn from(slice: &'a [$t]) -> Self {
                flat_grad(slice)
            }
        }
        impl<'a> From<&'a Vec<$t>> for GradRef<'a> {
            fn from(vector: &'a Vec<$t>) -> Self {
                flat_grad(vector.as_slice())
            }
        }
        impl<'a, const N: usize> From<&'a [$t; N]> for GradRef<'a> {
            fn from(array: &'a [$t; N]) -> Self {
                flat_grad(array.as_slice())
            }
        }
    )* };
}
slices!(f64, f32, bf16, f16);
