//! Calls between steps: gradients for an estimate of the curvature, and QK-clip.

use super::{Driver, QkClip};
use crate::engine::group::ParamInfo;
use crate::engine::qk_clip::Scaled;
use crate::gradients::GradState;
use crate::{Binding, Error, GradRef, ModuleKind, Optimizer, Result, StepReport};
use core::ops::Range;

impl Driver {
    /// See [`Optimizer::update_hessian`].
    pub(super) fn update_hessian_of(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        if !self.engine.setup.groups.iter().any(|group| group.algorithm.hessian().is_some()) {
            return Err(Error::NoHessian { algorithm: self.name() });
        }
        bindings.iter().try_for_each(Binding::check_shaped)?;
        // Of other optimizers no curvature is asked: to this their gradients are missing.
        let mut others = Vec::new();
        for (place, binding) in bindings.iter_mut().enumerate() {
            if !binding.grad.is_none() && !self.keeps_curvature(binding) {
                others.push((place, core::mem::replace(&mut binding.grad, GradRef::None)));
            }
        }
        let mut taken = self.update_curvature_of(bindings);
        if let Ok(report) = &mut taken {
            report.without_grad -= others.len();
        }
        others.into_iter().for_each(|(place, grad)| bindings[place].grad = grad);
        taken
    }

    /// Returns whether the optimizer that a parameter belongs to estimates the curvature.
    fn keeps_curvature(&self, binding: &Binding<'_>) -> bool {
        let group = self.engine.slots.get(binding.name).map_or_else(
            || {
                let (name, shape) = (binding.name, binding.param.dims().into());
                let kind = binding.kind.unwrap_or_else(|| ModuleKind::guess(name, &shape));
                self.engine.setup.group_of(&ParamInfo { name, shape: &shape, kind })
            },
            |slot| slot.group,
        );
        self.engine.setup.groups[group].algorithm.hessian().is_some()
    }

    fn update_curvature_of(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        let (window, mut step) = self.split(false);
        step.begin(window, bindings)?;
        let (report, _) = step.prepare(bindings, GradState::Hessian)?;
        if report.skipped() {
            return Ok(report);
        }
        step.poison.guard(|begun| step.engine.execute_hessian(bindings, begun))?;
        Ok(report)
    }

    /// Scales query and key projections down, head by head, where the largest attention logit is above `threshold` τ:
    /// the QK-clip of MuonClip (Kimi Team 2025, arXiv:2507.20534), behind a step of any algorithm.
    ///
    /// ```text
    /// W_h ← W_h (τ / max(S_h, τ))^exponent      S_h: the largest logit of head h in the forward pass
    /// ```
    ///
    /// The logits are handed in, by the name of the weight. Heads that stay below are not touched, and states stay as they
    /// are. Master weights are scaled, and the parameter is rounded from them. Every weight that is named must be bound,
    /// with or without a gradient. An average of the weights takes them in the next step. With several ranks all call it,
    /// with the same logits. Returns how many heads were scaled.
    ///
    /// ```
    /// # use fallline_optim::{Driver, QkClip, Result, frozen, param};
    /// # fn forward(_: &[f32], _: &[f32]) -> [Vec<f32>; 2] { [vec![12.0; 2], vec![12.0; 2]] }
    /// # fn train(mut optimizer: Driver, [mut q, mut k]: [Vec<f32>; 2], grads: [Vec<f32>; 2]) -> Result<()> {
    /// let [queries, keys] = forward(&q, &k); // the largest logit of each head, as attention computes it
    /// optimizer.step(&mut [
    ///     param("attn.q.weight", &mut q, &grads[0]).shaped(&[128, 64]),
    ///     param("attn.k.weight", &mut k, &grads[1]).shaped(&[128, 64]),
    /// ])?;
    /// let clips = [QkClip::query("attn.q.weight", &queries), QkClip::key("attn.k.weight", &keys)];
    /// let scaled = optimizer.clip_qk(100.0, &clips, &mut [
    ///     frozen("attn.q.weight", &mut q).shaped(&[128, 64]),
    ///     frozen("attn.k.weight", &mut k).shaped(&[128, 64]),
    /// ])?;
    /// # assert_eq!(scaled, 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Setting`] for a threshold that is not positive and finite, a weight that is not bound or was never
    /// stepped, rows that are not as many heads, and a logit that is not finite. Nothing is changed then. Another error
    /// where a binding has another shape or type, and when a device or another rank fails.
    pub fn clip_qk(
        &mut self,
        threshold: f64,
        clips: &[QkClip<'_>],
        params: &mut [Binding<'_>],
    ) -> Result<usize> {
        self.check_ready()?;
        self.engine.check_training()?;
        if !(threshold > 0.0 && threshold.is_finite()) {
            return Err(Error::Setting(format!(
                "the threshold of QK-clip must be positive, got {threshold}"
            )));
        }
        let mut scaled = Vec::new();
        for clip in clips {
            let refused = |problem: String| Error::Setting(format!("QK-clip of {:?}: {problem}", clip.param));
            let place = params.iter().position(|binding| binding.name == clip.param);
            let place = place.ok_or_else(|| refused("it is not bound".into()))?;
            let slot = self.engine.slots.get(clip.param);
            let slot = slot.ok_or_else(|| refused("the optimizer has not stepped it yet".into()))?;
            let rows = slot.shape.dims().first().copied().unwrap_or(0);
            let heads = clip.heads(rows, threshold).map_err(refused)?;
            let lower = |(rows, scale): &(Range<usize>, f64)| *scale < 1.0 && !rows.is_empty();
            let heads: Vec<_> = heads.into_iter().filter(lower).collect();
            if !heads.is_empty() {
                scaled.push(Scaled { place, rows: heads });
            }
        }
        let count = scaled.iter().map(|scaled| scaled.rows.len()).sum();
        self.scale(params, &scaled).map(|()| count)
    }

    fn scale(&mut self, params: &mut [Binding<'_>], scaled: &[Scaled]) -> Result<()> {
        let Driver { engine, group, poison, .. } = self;
        engine.check_scaled(params, scaled)?;
        let ran = poison.guard(|begun| {
            *begun = !scaled.is_empty();
            engine.scale_rows(params, scaled)?;
            group.broadcast_params(engine, params)
        });
        params.iter_mut().for_each(|binding| binding.param.scatter());
        ran
    }
}
