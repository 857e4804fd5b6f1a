//! Local steps: replicas of the parameters that diverge for a while, between two exchanges.

use crate::engine::group::Group;
use crate::{ParamPrecision, Result};
use fallline_core::Format;

/// Checks what several ranks cannot have where their replicas diverge.
pub(super) fn check_local_steps(group: &Group, averages: bool) -> Result<(), &'static str> {
    let Group { algorithm, formats, params, .. } = group;
    if algorithm.spec().replicas.diverged.is_none() {
        return Ok(());
    }
    let in_blocks =
        |state: &&str| formats.resolve(&**algorithm, state, usize::MAX, Format::F32).block().is_some();
    match params {
        _ if averages => Err("between two exchanges each rank would average a diverged replica"),
        ParamPrecision::StochasticRounding { .. } => {
            Err("local replicas do not go with stochastic rounding: they would not be restored")
        }
        _ if algorithm.rank_local_states().iter().any(in_blocks) => {
            Err("states of a rank's own cannot be stored in blocks")
        }
        _ => Ok(()),
    }
}
