//! How an algorithm declares its hyperparameters.

use super::types::HyperType;
use super::value::{Range, Value};
use super::{Hyper, HyperError};

/// Returns a value of type `T` within `range`, or what is wrong with it. Used by
/// [`hyperparameters!`](crate::hyperparameters).
#[doc(hidden)]
pub fn convert<T: HyperType>(
    algorithm: &'static str,
    name: &'static str,
    range: Range,
    value: &Value,
) -> Result<T, HyperError> {
    let got = || value.to_string();
    let converted = T::from_value(value).ok_or_else(|| HyperError::Type {
        algorithm,
        name,
        expected: T::NAME,
        got: got(),
    })?;
    let within = converted.numbers().all(|x| range.contains(x));
    match within {
        true => Ok(converted),
        false => Err(HyperError::Range { algorithm, name, expected: range, got: got() }),
    }
}

/// Refuses every value but the default. Used by [`hyperparameters!`](crate::hyperparameters).
#[doc(hidden)]
pub fn only<T: HyperType + PartialEq>(
    algorithm: &'static str,
    name: &'static str,
    default: T,
    reason: &str,
    value: &Value,
) -> Result<(), HyperError> {
    if convert::<T>(algorithm, name, Range::Any, value)? == default {
        return Ok(());
    }
    let problem = format!("{name} must be {}, got {value}: {reason}", default.to_value());
    Err(HyperError::Combination { algorithm, problem })
}

/// Returns the row of an argument that is accepted and changes no number.
#[doc(hidden)]
pub const fn accepted_row<T: HyperType>(name: &'static str, default: fn() -> Value, range: Range) -> Hyper {
    let meaning = " Accepted for compatibility; ignored.";
    Hyper { name, kind: T::NAME, default, range, meaning, counts: false, kept: false }
}

/// Returns the row of an argument that may only have its default.
#[doc(hidden)]
pub const fn fixed_row<T: HyperType>(
    name: &'static str,
    default: fn() -> Value,
    meaning: &'static str,
) -> Hyper {
    Hyper { name, kind: T::NAME, default, range: Range::Any, meaning, counts: false, kept: false }
}

/// Declares an algorithm's hyperparameters: a struct with public fields and defaults, and the table that
/// configurations, `describe` and range checks read.
///
/// ```
/// use fallline_optim::hyper::{Hyperparameters, Range, Value};
/// fallline_optim::hyperparameters! {
///     /// Plain gradient descent.
///     pub Descent as "Descent" {
///         /// Learning rate.
///         lr: f64 = 1e-3, Range::AtLeast(0.0);
///     }
///     // What a group remembers from step to step, if anything: `kept { … }`, as above; see `Advances`.
///     // Arguments of the source that change no number, if any; with a default and a range, if need be.
///     accepted { fused: Option<bool>, bits: i64 = 32, Range::Closed(32.0, 32.0) }
///     fixed { centered: bool = false, "it is not supported" } // those that have one good value, if any
/// }
/// let mut descent = Descent::default();
/// descent.set("lr", &Value::Float(0.5))?;
/// assert_eq!(descent.lr, 0.5);
/// assert_eq!(descent.set("lr", &Value::Int(-1)).unwrap_err().to_string(), "Descent: lr must be ≥ 0, got -1");
/// assert_eq!(descent.set("bits", &Value::Int(8)).unwrap_err().to_string(), "Descent: bits must be 32, got 8");
/// # Ok::<(), fallline_optim::hyper::HyperError>(())
/// ```
#[macro_export]
macro_rules! hyperparameters {
    (@or $otherwise:expr) => { $otherwise };
    (@or $otherwise:expr, $given:expr) => { $given };
    ($(#[$meta:meta])* $vis:vis $name:ident as $text:literal {
        $($(#[doc = $meaning:literal])+ $field:ident: $t:ty = $default:expr, $range:expr;)*
     } $(kept {
        $($(#[doc = $kept_meaning:literal])+ $kept:ident: $kept_t:ty = $kept_default:expr, $kept_range:expr;)*
     })?
     $(accepted { $($ignored:ident: $ignored_t:ty $(= $ignored_default:expr, $ignored_range:expr)?),* $(,)? })?
     $(fixed { $($only:ident: $only_t:ty = $only_default:expr, $reason:literal);* $(;)? })?) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $name {
            $($(#[doc = $meaning])+ pub $field: $t,)*
            $($($(#[doc = $kept_meaning])+ pub $kept: $kept_t,)*)?
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default,)* $($($kept: $kept_default,)*)? }
            }
        }

        impl $crate::hyper::Hyperparameters for $name {
            const NAME: &'static str = $text;
            const TABLE: &'static [$crate::hyper::Hyper] = &[
                $($crate::hyper::Hyper {
                    name: stringify!($field),
                    kind: <$t as $crate::hyper::HyperType>::NAME,
                    default: || $crate::hyper::HyperType::to_value(&{ let x: $t = $default; x }),
                    range: $range,
                    meaning: concat!($($meaning),+),
                    counts: true,
                    kept: false,
                },)*
                $($($crate::hyper::Hyper {
                    name: stringify!($kept),
                    kind: <$kept_t as $crate::hyper::HyperType>::NAME,
                    default: || $crate::hyper::HyperType::to_value(&{ let x: $kept_t = $kept_default; x }),
                    range: $kept_range,
                    meaning: concat!($($kept_meaning),+),
                    counts: true,
                    kept: true,
                },)*)?
                $($($crate::hyper::accepted_row::<$ignored_t>(
                    stringify!($ignored),
                    || {
                        let default: $ignored_t =
                            $crate::hyperparameters!(@or <$ignored_t as Default>::default() $(, $ignored_default)?);
                        $crate::hyper::HyperType::to_value(&default)
                    },
                    $crate::hyperparameters!(@or $crate::hyper::Range::Any $(, $ignored_range)?),
                ),)*)?
                $($($crate::hyper::fixed_row::<$only_t>(
                    stringify!($only),
                    || $crate::hyper::HyperType::to_value(&{ let x: $only_t = $only_default; x }),
                    concat!(" Only the default is accepted: ", $reason, "."),
                ),)*)?
            ];
            fn set(
                &mut self,
                name: &str,
                value: &$crate::hyper::Value,
            ) -> Result<(), $crate::hyper::HyperError> {
                match name {
                    $(stringify!($field) => {
                        self.$field = $crate::hyper::convert(Self::NAME, stringify!($field), $range, value)?;
                        Ok(())
                    })*
                    $($(stringify!($kept) => {
                        self.$kept =
                            $crate::hyper::convert(Self::NAME, stringify!($kept), $kept_range, value)?;
                        Ok(())
                    })*)?
                    $($(stringify!($ignored) => $crate::hyper::convert::<$ignored_t>(
                        Self::NAME,
                        stringify!($ignored),
                        $crate::hyperparameters!(@or $crate::hyper::Range::Any $(, $ignored_range)?),
                        value,
                    ).map(|_| ()),)*)?
                    $($(stringify!($only) => $crate::hyper::only::<$only_t>(
                        Self::NAME, stringify!($only), $only_default, $reason, value,
                    ),)*)?
                    _ => Err($crate::hyper::HyperError::Unknown {
                        algorithm: Self::NAME,
                        name: name.to_owned(),
                        known: Self::TABLE.iter().map(|hyper| hyper.name).collect(),
                    }),
                }
            }
            fn get(&self, name: &str) -> Option<$crate::hyper::Value> {
                match name {
                    $(stringify!($field) => Some($crate::hyper::HyperType::to_value(&self.$field)),)*
                    $($(stringify!($kept) => Some($crate::hyper::HyperType::to_value(&self.$kept)),)*)?
                    _ => None,
                }
            }
        }
    };
}
