//! Configurations as text.

use crate::formats::StorageOptions;
use fallline_optim::hyper::{Hyper, Value};

/// Returns an optimizer's configuration as a Python literal; `around` is what stands behind its hyperparameters.
pub(crate) fn to_text(
    name: &str,
    table: &[Hyper],
    get: impl Fn(&str) -> Option<Value>,
    around: &str,
    storing: &StorageOptions,
) -> String {
    let mut text = format!("dict(type={name:?}");
    for hyper in table {
        if let Some(value) = get(hyper.name) {
            text.push_str(&format!(", {}={value}", hyper.name));
        }
    }
    text.push_str(around);
    text.push_str(&storing.to_text());
    text.push(')');
    text
}
