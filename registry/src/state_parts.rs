//! Bytes of state for each element of a parameter, as a sum of its parts.

use crate::formats::StorageOptions;
use fallline_core::{Format, Shape};
use fallline_optim::Method;

/// What one state adds to the bytes of a parameter element.
pub(crate) struct StatePart {
    /// None where that depends on the parameter's shape.
    bytes: Option<f64>,
    text: String,
}

/// Elements of a parameter that is large enough for any format.
const LARGE: usize = 1 << 20;

/// Returns the parts of an optimizer's states, stored in some way.
pub(crate) fn parts(method: &Method, storing: &StorageOptions) -> Vec<StatePart> {
    let part = |factor: f64, name: &str, format: Format| {
        let bytes = format.mean_bytes();
        let text = if factor == 1.0 {
            format!("{bytes} ({name})")
        } else {
            format!("{bytes} \u{b7} {factor} ({name})")
        };
        StatePart { bytes: Some(bytes * factor), text }
    };
    let algorithm = match method {
        Method::Algorithm(algorithm) => algorithm,
        Method::Search(search) => {
            let part = |(factor, name): (u64, &str)| part(factor as f64, name, Format::F32);
            return search.vectors().into_iter().map(part).collect();
        }
    };
    // What a state is per element shows on a matrix whose dimensions differ.
    let (rows, columns) = (3, 5);
    let of = |name| algorithm.state(name).shape(&Shape::from([rows, columns])).elements();
    let shaped = |name: &str, text: &str, format: Format| {
        let bytes = format.mean_bytes();
        StatePart { bytes: None, text: format!("{bytes} / {text} ({name})") }
    };
    let states = algorithm.states().into_iter();
    let mut parts: Vec<StatePart> = states
        .map(|name| {
            let format = storing.state_format(&**algorithm, name, LARGE);
            match of(name) {
                found if found == rows => shaped(name, "columns", format),
                found if found == columns => shaped(name, "rows", format),
                _ => part(1.0, name, format),
            }
        })
        .collect();
    parts.extend(storing.keeps_master().then(|| part(1.0, "master", Format::F32)));
    parts
}

/// Returns the sum of the bytes.
pub(crate) fn bytes(parts: &[StatePart]) -> Option<f64> {
    parts.iter().map(|part| part.bytes).sum()
}

/// Returns the sum as a formula.
pub(crate) fn formula(parts: &[StatePart]) -> String {
    match parts {
        [] => "0".to_owned(),
        _ => parts.iter().map(|part| part.text.as_str()).collect::<Vec<_>>().join(" + "),
    }
}
