//! Functions for the scalars of a step, computed on the host in `f64`.
//!
//! They come from `libm`, not from the platform, so that every machine computes the same scalars.

/// Returns `base` to the power of the step count `t`, in `f64`: `β^t` of a bias correction.
///
/// ```
/// assert_eq!(fallline_core::math::pow(0.5, 3), 0.125);
/// ```
pub fn pow(base: f64, t: u64) -> f64 {
    libm::pow(base, t as f64)
}

/// Returns `base` to the power of any `exponent`.
///
/// ```
/// assert_eq!(fallline_core::math::powf(4.0, -0.5), 0.5);
/// ```
pub fn powf(base: f64, exponent: f64) -> f64 {
    libm::pow(base, exponent)
}

/// Returns the exponential function.
pub fn exp(x: f64) -> f64 {
    libm::exp(x)
}

/// Returns the natural logarithm.
pub fn ln(x: f64) -> f64 {
    libm::log(x)
}

/// Returns `x` rounded to `f32`, for scalars that a source keeps in that type.
pub fn single(x: f64) -> f64 {
    f64::from(x as f32)
}

/// Returns the square root (correctly rounded on every platform).
pub fn sqrt(x: f64) -> f64 {
    libm::sqrt(x)
}

/// Returns the cosine of an angle in radians.
pub fn cos(x: f64) -> f64 {
    libm::cos(x)
}

/// Returns 1 or 0: a condition as a scalar that [`Vector::select_if`](crate::Vector::select_if) reads.
pub fn flag(condition: bool) -> f64 {
    if condition { 1.0 } else { 0.0 }
}
