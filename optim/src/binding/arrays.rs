//! Arrays of ndarray as parameters and gradients.

use super::{GradRef, ParamRef};
use crate::strided::{StridedGrad, StridedParam};
use fallline_core::host::{Slice, SliceMut};
use fallline_core::{Element, Shape};
use ndarray::{ArrayBase, Data, DataMut, Dimension};

impl<'a, T: Element, S: DataMut<Elem = T>, D: Dimension> From<&'a mut ArrayBase<S, D>> for ParamRef<'a>
where
    for<'s> SliceMut<'s>: From<&'s mut [T]>,
    for<'s> Slice<'s>: From<&'s [T]>,
{
    fn from(array: &'a mut ArrayBase<S, D>) -> Self {
        let shape = Shape::from(array.shape());
        if array.is_standard_layout() {
            match array.as_slice_mut() {
                Some(slice) => return ParamRef::Host(slice.into(), Some(shape)),
                None => unreachable!("an array in standard layout is a slice"),
            }
        }
        ParamRef::Strided(StridedParam::new(array.view_mut().into_dyn()))
    }
}

impl<'a, T: Element, S: Data<Elem = T>, D: Dimension> From<&'a ArrayBase<S, D>> for GradRef<'a>
where
    for<'s> Slice<'s>: From<&'s [T]>,
{
    fn from(array: &'a ArrayBase<S, D>) -> Self {
        let shape = Shape::from(array.shape());
        match array.as_slice() {
            Some(slice) => GradRef::Host(slice.into(), Some(shape)),
            None => GradRef::Strided(StridedGrad::new(array.iter().copied().collect::<Vec<T>>(), shape)),
        }
    }
}
