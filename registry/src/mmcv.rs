//! Configurations of MMCV 1.x, before MMEngine: what of them means the same, and what to say of the rest.

use crate::config::{Entries, Node};
use crate::error::{Error, Result};
use crate::read::bare_name;
use crate::wrapper;
use fallline_optim::gradient_config::Clip;

/// What is read of such a configuration.
#[derive(Default)]
pub(crate) struct Old<'e> {
    /// `optimizer_config=dict(grad_clip=…)`, and where it was read from.
    pub(crate) clip: Option<(Clip, &'e Node)>,
    pub(crate) warnings: Vec<String>,
}

/// Reads what is next to a bare `optimizer`.
pub(crate) fn read(entries: &Entries) -> Result<Old<'_>> {
    let mut old = Old::default();
    for key in ["lr_config", "momentum_config"] {
        if let Some(at) = entries.key_at(key) {
            old.warnings.push(format!("{at}: {}", unread(key)));
        }
    }
    let Some(node) = entries.get_present("optimizer_config")? else { return Ok(old) };
    let Some(dict) = node.value.as_dict() else { return Ok(old) };
    let kind = dict.get("type").and_then(|kind| kind.value.as_str()).map(bare_name);
    let plain = matches!(kind, None | Some("OptimizerHook"));
    let others: Vec<&str> = dict.keys().filter(|key| !["grad_clip", "type"].contains(key)).collect();
    if !plain || !others.is_empty() {
        let at = entries.key_at("optimizer_config").unwrap_or(&node.at);
        let what = if plain { others.join(", ") } else { kind.unwrap_or_default().to_owned() };
        old.warnings.push(format!(
            "{at}: `optimizer_config` is MMCV 1.x's, and {what} in it is not read: `optim_wrapper` is its successor"
        ));
    }
    if let Some(clip) = dict.get("grad_clip").filter(|clip| !clip.value.is_none()) {
        old.clip = Some((wrapper::clip(clip)?, node));
    }
    Ok(old)
}

/// Returns the error of a schedule that is only there in MMCV 1.x's form.
pub(crate) fn scheduled(entries: &Entries) -> Option<Error> {
    let at = entries.key_at("lr_config")?.clone();
    let what = "`lr_config` is MMCV 1.x's, and not read".into();
    Some(Error::Misplaced { at, what, hint: "`param_scheduler` is its successor in MMEngine".into() })
}

fn unread(key: &str) -> String {
    format!(
        "`{key}` is MMCV 1.x's, and not read: `param_scheduler` is its successor; what it schedules is constant"
    )
}
