//! What a pass takes of a binding.

use super::{Binding, GradRef, NewGrad, ParamRef};
use fallline_core::backend::{View, Views};

impl<'a> Binding<'a> {
    /// Returns what the pass needs of the parameter and its gradient at once.
    pub(crate) fn views(&mut self) -> (Option<View<'_>>, Option<View<'_>>) {
        let grad = match &mut self.grad {
            // What forms it writes to it.
            GradRef::Window(window) => Some(View::write(window.sum.storage_mut())),
            grad => grad.view(),
        };
        (Some(self.param.view()), grad)
    }

    /// Puts these views to their places among those of a pass, each where it is read. With many tensors a step
    /// would be as long as copying views takes.
    #[inline]
    pub(crate) fn views_to<'v>(
        &'v mut self,
        views: &mut Views<'v>,
        param: Option<usize>,
        grad: Option<usize>,
    ) {
        if let Some(place) = param {
            match &mut self.param {
                ParamRef::Host(slice, _) => views[place] = Some(slice.reborrow().into()),
                other => views[place] = Some(other.view()),
            }
        }
        if let Some(place) = grad {
            match &mut self.grad {
                GradRef::Host(slice, _) => views[place] = Some((*slice).into()),
                GradRef::Window(window) => views[place] = Some(View::write(window.sum.storage_mut())),
                other => views[place] = other.view(),
            }
        }
    }

    /// Takes of a window's gradient the training loop's that begins it, and the one that is to be added to it: one
    /// of them once.
    pub(crate) fn take_new(&mut self) -> [Option<View<'a>>; 2] {
        match &mut self.grad {
            GradRef::Window(window) => {
                let new = window.new.take().and_then(|new| match new {
                    NewGrad::Staged(storage) => Some(View::read(storage)),
                    NewGrad::Given(grad) => grad.view(),
                });
                if window.is_empty { [new, None] } else { [None, new] }
            }
            _ => [None, None],
        }
    }
}
