//! What QK-clip is told: which rows of a projection are heads, and the largest logit of each.

use core::ops::Range;
use fallline_core::math::{powf, sqrt};

/// The rows of a query or key projection that [`Driver::clip_qk`](crate::Driver::clip_qk) scales, and the largest
/// logit of each head.
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
    pub(super) fn heads(&self, rows: usize, threshold: f64) -> Result<Vec<(Range<usize>, f64)>, String> {
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
