//! Vectors over all parameters at once, on the optimizer's backend.

use super::rules::{Lbfgs, VectorRules};
use crate::{Binding, GradRef, ParamRef, Result};
use fallline_core::backend::{Pass, TensorPass, View};
use fallline_core::reduction::tree_reduce;
use fallline_core::{Backend, Compute, Kernel, Storage};
use std::sync::Arc;

/// One storage for each parameter, in the order of the names.
pub(super) type Vector = Vec<Storage>;

/// Where vectors live, and what is done with them.
pub(super) struct VectorSpace<'a> {
    pub(super) backend: &'a Arc<dyn Backend>,
    pub(super) kernels: VectorRules,
    pub(super) compute: Compute,
    pub(super) lengths: Vec<usize>,
}

impl VectorSpace<'_> {
    pub(super) fn zeros(&self) -> Result<Vector> {
        let requests: Vec<_> = self.lengths.iter().map(|&len| (self.compute.format(), len)).collect();
        Ok(self.backend.allocate(&requests)?)
    }

    pub(super) fn copy(&self, from: &[Storage]) -> Result<Vector> {
        let mut to = self.zeros()?;
        for (from, to) in from.iter().zip(&mut to) {
            self.backend.copy(from, to)?;
        }
        Ok(to)
    }

    /// Returns `alpha · from`.
    pub(super) fn scaled(&self, from: &[Storage], alpha: f64) -> Result<Vector> {
        let mut to = self.zeros()?;
        let views = to.iter_mut().zip(from).map(|(to, from)| [Some(View::write(to)), Some(View::read(from))]);
        self.run(self.kernels.scale, 1.0, &[alpha], views)?;
        Ok(to)
    }

    /// Computes `to += alpha · from`.
    pub(super) fn add(&self, to: &mut [Storage], from: &[Storage], alpha: f64) -> Result<()> {
        let views = to.iter_mut().zip(from).map(|(to, from)| [Some(View::write(to)), Some(View::read(from))]);
        self.run(self.kernels.add, 1.0, &[alpha], views).map(drop)
    }

    pub(super) fn dot(&self, a: &[Storage], b: &[Storage]) -> Result<f64> {
        let views = a.iter().zip(b).map(|(a, b)| [Some(View::read(a)), Some(View::read(b))]);
        Ok(self.run(self.kernels.dot, 1.0, &[], views)?[0])
    }

    /// Returns the sum of absolute values.
    pub(super) fn total(&self, a: &[Storage]) -> Result<f64> {
        Ok(self.size(a, 1.0, 0.0)?[0])
    }

    /// Returns whether every `scale · |element|` is at most `limit`.
    pub(super) fn is_within(&self, a: &[Storage], scale: f64, limit: f64) -> Result<bool> {
        Ok(self.size(a, scale, limit)?[1] == 0.0)
    }

    fn size(&self, a: &[Storage], scale: f64, limit: f64) -> Result<Vec<f64>> {
        self.run(self.kernels.size, 1.0, &[scale, limit], a.iter().map(|a| [Some(View::read(a)), None]))
    }

    /// Returns the gradients, `sign` times. A parameter without one has zeros.
    pub(super) fn gradients(&self, bindings: &[Binding<'_>], sign: f64) -> Result<Vector> {
        let mut to = self.zeros()?;
        for (binding, to) in bindings.iter().zip(&mut to) {
            match (&binding.grad, binding.grad.view()) {
                (GradRef::None, _) | (_, None) => {}
                (GradRef::Host(slice, _), _) if !self.backend.is_host_accessible() => {
                    let mut copy = self.backend.allocate(&[(slice.format(), slice.len())])?.remove(0);
                    self.backend.write(&mut copy, *slice)?;
                    let views = [Some(View::write(to)), Some(View::read(&copy))];
                    self.run(self.kernels.take_grad, sign, &[], [views].into_iter())?;
                }
                (_, grad) => {
                    let views = [Some(View::write(to)), grad];
                    self.run(self.kernels.take_grad, sign, &[], [views].into_iter())?;
                }
            }
        }
        Ok(to)
    }

    /// Returns where the parameters are.
    pub(super) fn position(&self, bindings: &mut [Binding<'_>]) -> Result<Vector> {
        let mut to = self.zeros()?;
        for (binding, to) in bindings.iter_mut().zip(&mut to) {
            match &mut binding.param {
                ParamRef::Host(slice, _) if !self.backend.is_host_accessible() => {
                    self.backend.write(to, slice.as_ref())?;
                }
                param => {
                    let views = [Some(View::write(to)), Some(param.view())];
                    self.run(self.kernels.take_param, 1.0, &[], [views].into_iter())?;
                }
            }
        }
        Ok(to)
    }

    /// Puts the parameters there.
    pub(super) fn move_to(&self, bindings: &mut [Binding<'_>], position: &[Storage]) -> Result<()> {
        for (binding, from) in bindings.iter_mut().zip(position) {
            match &mut binding.param {
                ParamRef::Host(slice, _) if !self.backend.is_host_accessible() => {
                    self.backend.read(from, slice.reborrow())?;
                }
                param => {
                    let views = [Some(param.view()), Some(View::read(from))];
                    self.run(self.kernels.put_param, 1.0, &[], [views].into_iter())?;
                }
            }
        }
        Ok(())
    }

    /// Runs a pass over all parameters with the same scalars. Returns its sums over all of them.
    fn run<'v>(
        &self,
        kernel: &'static Kernel,
        sign: f64,
        scalars: &[f64],
        mut views: impl ExactSizeIterator<Item = [Option<View<'v>>; 2]>,
    ) -> Result<Vec<f64>> {
        let (count, width) = (views.len(), kernel.sums.len());
        let mut row = vec![sign; 1 + kernel.scalars.len()];
        kernel.compute_scalars(&Lbfgs::default(), 1, &mut row[1..]);
        let mut sums = vec![0.0; count * width];
        self.backend.run(Pass {
            kernel,
            compute: self.compute,
            tensors: &mut |places| {
                let [one, other] = views.next()?;
                let elements = one.as_ref().map_or(0, View::len);
                (places[0], places[1]) = (one, other);
                Some(TensorPass { elements, constant_set: 0 })
            },
            constants: &row,
            tensor_scalars: &scalars.repeat(count),
            plan: &mut self.backend.plan(),
            sums: &mut sums,
            fused: &[],
            checked: false,
        })?;
        Ok((0..width).map(|sum| tree_reduce(sums.iter().skip(sum).step_by(width).copied())).collect())
    }
}
