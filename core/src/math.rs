//! Functions for the scalars of a step, computed on the host in `f64`.
//!
//! They come from `libm`, not from the platform, so that every machine computes the same scalars.

/// `base` to the power of the step count `t`, in `f64`: `β^t` of a bias correction.
///
/// ```
/// assert_eq!(fallline_core::math::pow(0.5, 3), 0.125);
/// ```
pub fn pow(base: f64, t: u64) -> f64 {
    libm::pow(base, t as f64)
}

/// The square root (correctly rounded on every platform).
pub fn sqrt(x: f64) -> f64 {
    libm::sqrt(x)
}

/// The cosine of an angle in radians.
pub fn cos(x: f64) -> f64 {
    libm::cos(x)
}

/// 1 or 0: a condition as a scalar that [`Lane::when`](crate::Lane::when) reads.
pub fn flag(condition: bool) -> f64 {
    if condition { 1.0 } else { 0.0 }
}
