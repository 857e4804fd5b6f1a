//! QK-clip: query and key projections scaled down where attention logits have grown too large.

use super::Driver;
use crate::engine::qk_clip::Scaled;
use crate::{Binding, Error, Result};
use core::ops::Range;
use fallline_core::math::{powf, sqrt};

/// The rows of a query or key projection that [`Driver::clip_qk`] scales, and the largest logit of each head.
///
/// A head has equally many rows, one below the other. Where fewer keys than queries have heads of their own, a head of
/// keys takes the largest logit of its queries.
///
/// ```
/// use fallline_optim::QkClip;
/// # let (of_head, of_group) = ([90.0, 250.0], [250.0]);
/// let apart = [QkClip::query("attn.q.weight", &of_head), QkClip::key("attn.k.weight", &of_group)];
/// // A fused projection of 2 · 64 rows of queries, then 64 of keys and 64 of values.
/// let fused = [
///     QkClip::query("attn.qkv.weight", &of_head).rows(0..128),
///     QkClip::key("attn.qkv.weight", &of_group).rows(128..192),
/// ];
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct QkClip<'a> {
    /// The name of the projection's weight.
    pub param: &'a str,
    /// Which of its rows are the heads'; none are all.
    pub rows: Option<Range<usize>>,
    /// The largest logit of each head, before the softmax, over the whole batch and all ranks.
    pub max_logits: &'a [f32],
    /// What the factor τ / largest is raised to: together 1 for both projections of a logit.
    pub exponent: f64,
}

impl<'a> QkClip<'a> {
    /// Returns that of a query projection: its heads are scaled by √(τ / largest).
    pub fn query(param: &'a str, max_logits: &'a [f32]) -> QkClip<'a> {
        QkClip { param, rows: None, max_logits, exponent: 0.5 }
    }

    /// Returns that of a key projection: the same.
    pub fn key(param: &'a str, max_logits: &'a [f32]) -> QkClip<'a> {
        QkClip::query(param, max_logits)
    }

    /// Takes the heads from these rows of the weight alone.
    pub fn rows(self, rows: Range<usize>) -> QkClip<'a> {
        QkClip { rows: Some(rows), ..self }
    }

    /// Raises the factor to this instead. 1 is for rotary queries whose keys are shared by all heads, and stay. α and
    /// 1 − α are for queries and keys that share the factor unevenly.
    pub fn exponent(self, exponent: f64) -> QkClip<'a> {
        QkClip { exponent, ..self }
    }

    /// Returns what each head is scaled by, and its rows, of a weight with so many rows.
    ///
    /// # Errors
    /// What does not fit.
    fn heads(&self, rows: usize, threshold: f64) -> Result<Vec<(Range<usize>, f64)>, String> {
        let Range { start, end } = self.rows.clone().unwrap_or(0..rows);
        let heads = self.max_logits.len();
        if start > end || end > rows {
            return Err(format!("rows {start}..{end} are not among its {rows}"));
        }
        if heads == 0 || !(end - start).is_multiple_of(heads) {
            return Err(format!("its {} rows are not {heads} heads", end - start));
        }
        if !(0.0..=1.0).contains(&self.exponent) {
            return Err(format!("the exponent must be in [0, 1], got {}", self.exponent));
        }
        let each = (end - start) / heads;
        let of = |(head, logit): (usize, &f32)| {
            let largest = f64::from(*logit);
            if !largest.is_finite() {
                return Err(format!("the largest logit of head {head} is {largest}"));
            }
            let factor = threshold / largest.max(threshold);
            let scale = if self.exponent == 0.5 { sqrt(factor) } else { powf(factor, self.exponent) };
            let first = start + head * each;
            Ok((first..first + each, if factor < 1.0 { scale } else { 1.0 }))
        };
        self.max_logits.iter().enumerate().map(of).collect()
    }
}

impl Driver {
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
