//! What optimizers of Emerging-Optimizers share: the iteration with coefficients by name, and how weights decay.

use crate::algorithms::muon::{Form, LEAST_NORM, NewtonSchulz, dims};
use crate::op::OpAt;
use fallline_core::{Link, Result};

type Triple = (f64, f64, f64);

const SIMPLE: &[Triple] = &[(3.4445, -4.7750, 2.0315)];
const QUINTIC: &[Triple] = &[
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
];
const POLAR_EXPRESS: &[Triple] = &[
    (8.2051, -22.9019, 16.4607),
    (4.0664, -2.8612, 0.5184),
    (3.9096, -2.8234, 0.5250),
    (3.2856, -2.4153, 0.4853),
    (2.2779, -1.6198, 0.3985),
    (1.8726, -1.2307, 0.3585),
    (1.8564, -1.2132, 0.3568),
    (1.8750, -1.2500, 0.3750),
];
const CANS: &[Triple] = &[
    (8.4703, -25.1081, 18.6293),
    (4.1828, -3.1087, 0.5806),
    (3.9619, -2.9541, 0.5630),
    (3.2866, -2.4647, 0.5074),
    (2.2737, -1.6447, 0.4162),
];
const AOL: &[Triple] = &[
    (4.0098, -7.0585, 2.4635),
    (3.4585, -5.5479, 2.5959),
    (2.7573, -3.2939, 1.4254),
    (2.7215, -3.0494, 1.3169),
];

/// What [`orthogonalise`] does, for `describe`.
pub(super) const FORMULAS: &[&str] = &[
    "x ← x / max(√norm2, 1e-7), as a matrix X; then num_ns_steps times",
    "X ← a X + (b A + c A²) X with A = X Xᵀ",
];

/// Iterates on the scratch, by coefficients of this name and in this form.
///
/// # Errors
/// When the backend fails.
pub(super) fn orthogonalise<K: Link>(
    at: &mut OpAt<'_>,
    coefficient_type: &str,
    steps: u64,
    ns_method: Option<&str>,
) -> Result<()> {
    let (rows, columns) = dims(at.shape);
    let (coefficients, cycles) = coefficients(coefficient_type);
    let (format, form) = (at.on.compute.format(), Form::named(ns_method));
    NewtonSchulz { rows, columns, coefficients, cycles, steps, format, form }.run::<K>(at, LEAST_NORM)
}

/// Returns the coefficients of a name, and whether they begin again behind the last ones, which else repeat. Of another
/// name, which [`check`] refuses, there are none.
pub(super) fn coefficients(name: &str) -> (&'static [Triple], bool) {
    match name {
        "simple" => (SIMPLE, false),
        "quintic" => (QUINTIC, true),
        "polar_express" => (POLAR_EXPRESS, false),
        "cans" => (CANS, false),
        "aol" => (AOL, true),
        _ => (&[], false),
    }
}

/// Returns what is left of a weight that decays.
pub(super) fn keep(method: &str, lr: f64, weight_decay: f64) -> f64 {
    match method {
        "independent" => 1.0 - weight_decay,
        "palm" => 1.0 - weight_decay * lr * lr,
        _ => 1.0 - weight_decay * lr,
    }
}

/// Checks both names.
pub(super) fn check(coefficient_type: &str, weight_decay_method: &str) -> core::result::Result<(), String> {
    if coefficients(coefficient_type).0.is_empty() {
        return Err(format!(
            "coefficient_type must be simple, quintic, polar_express, cans or aol, got {coefficient_type:?}"
        ));
    }
    match weight_decay_method {
        "decoupled" | "independent" | "palm" => Ok(()),
        other => Err(format!("weight_decay_method must be decoupled, independent or palm, got {other:?}")),
    }
}
