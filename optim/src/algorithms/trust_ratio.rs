//! How long an update may be, by the length of its parameter.

use fallline_core::{Literal, Number};

/// Returns the factor of an update of norm `update`, so that it is at most `most` times as long as the parameter.
/// The factor is 1 where `most` is 0.
pub(super) fn shortened<N: Number>(update: N, param: N, most: N) -> N
where
    f64: Literal<N>,
{
    let limit = most * param;
    N::select_if(most, N::select(limit.lt(update), limit / update, N::splat(1.0)), N::splat(1.0))
}
