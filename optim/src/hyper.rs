//! Hyperparameters as a table: name, type, default, range, meaning.

use core::fmt;

/// The value of a hyperparameter, as a configuration gives it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Python's `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list or tuple.
    List(Vec<Value>),
}

impl Value {
    /// The number, if it is one.
    ///
    /// ```
    /// use fallline_optim::hyper::Value;
    /// assert_eq!(Value::Int(2).as_f64(), Some(2.0));
    /// assert_eq!(Value::None.as_f64(), None);
    /// ```
    pub fn as_f64(&self) -> Option<f64> {
        f64::from_value(self)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::None => f.write_str("None"),
            Value::Bool(true) => f.write_str("True"),
            Value::Bool(false) => f.write_str("False"),
            Value::Int(x) => write!(f, "{x}"),
            Value::Float(x) if x.is_finite() => write!(f, "{x:?}"),
            Value::Float(x) => write!(f, "float(\"{x}\")"),
            Value::Text(text) => write!(f, "{text:?}"),
            Value::List(items) => {
                f.write_str("(")?;
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str(if items.len() == 1 { ",)" } else { ")" })
            }
        }
    }
}

/// The numbers that a hyperparameter may be.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Range {
    /// Any number, NaN excepted.
    Any,
    /// `x ≥ low`.
    AtLeast(f64),
    /// `x > low`.
    Above(f64),
    /// `low ≤ x < high`.
    HalfOpen(f64, f64),
    /// `low ≤ x ≤ high`.
    Closed(f64, f64),
}

impl Range {
    /// Whether `x` is in the range. NaN is in none, infinity in those that have no upper end.
    pub fn contains(self, x: f64) -> bool {
        match self {
            Range::Any => !x.is_nan(),
            Range::AtLeast(low) => x >= low,
            Range::Above(low) => x > low,
            Range::HalfOpen(low, high) => low <= x && x < high,
            Range::Closed(low, high) => low <= x && x <= high,
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Range::Any => f.write_str("any number"),
            Range::AtLeast(low) => write!(f, "≥ {low}"),
            Range::Above(low) => write!(f, "> {low}"),
            Range::HalfOpen(low, high) => write!(f, "in [{low}, {high})"),
            Range::Closed(low, high) if low == high => write!(f, "{low}"),
            Range::Closed(low, high) => write!(f, "in [{low}, {high}]"),
        }
    }
}

/// A Rust type that a hyperparameter may have.
pub trait HyperType: Sized + Clone {
    /// Its name for people.
    const NAME: &'static str;
    /// From a configuration's value, or `None` where that is of another type.
    fn from_value(value: &Value) -> Option<Self>;
    /// As a configuration writes it.
    fn to_value(&self) -> Value;
    /// The numbers in it, for a range to look at.
    fn numbers(&self) -> Vec<f64> {
        Vec::new()
    }
}

impl HyperType for f64 {
    const NAME: &'static str = "float";
    fn from_value(value: &Value) -> Option<f64> {
        match value {
            Value::Float(x) => Some(*x),
            // Exact up to 2^53; no hyperparameter is larger.
            Value::Int(x) => Some(*x as f64),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::Float(*self)
    }
    fn numbers(&self) -> Vec<f64> {
        vec![*self]
    }
}

impl HyperType for bool {
    const NAME: &'static str = "bool";
    fn from_value(value: &Value) -> Option<bool> {
        match value {
            Value::Bool(x) => Some(*x),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::Bool(*self)
    }
}

impl HyperType for i64 {
    const NAME: &'static str = "int";
    fn from_value(value: &Value) -> Option<i64> {
        match value {
            Value::Int(x) => Some(*x),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::Int(*self)
    }
    fn numbers(&self) -> Vec<f64> {
        vec![*self as f64]
    }
}

/// Python's `None` and nothing else.
impl HyperType for () {
    const NAME: &'static str = "None";
    fn from_value(value: &Value) -> Option<()> {
        (*value == Value::None).then_some(())
    }
    fn to_value(&self) -> Value {
        Value::None
    }
}

impl HyperType for Option<bool> {
    const NAME: &'static str = "bool or None";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::None => Some(None),
            Value::Bool(x) => Some(Some(*x)),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        self.map_or(Value::None, Value::Bool)
    }
}

impl HyperType for (f64, f64) {
    const NAME: &'static str = "pair of floats";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::List(items) => match &items[..] {
                [a, b] => Some((f64::from_value(a)?, f64::from_value(b)?)),
                _ => None,
            },
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::List(vec![Value::Float(self.0), Value::Float(self.1)])
    }
    fn numbers(&self) -> Vec<f64> {
        vec![self.0, self.1]
    }
}

impl HyperType for (f64, f64, f64) {
    const NAME: &'static str = "triple of floats";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::List(items) => match &items[..] {
                [a, b, c] => Some((f64::from_value(a)?, f64::from_value(b)?, f64::from_value(c)?)),
                _ => None,
            },
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::List([self.0, self.1, self.2].map(Value::Float).to_vec())
    }
    fn numbers(&self) -> Vec<f64> {
        vec![self.0, self.1, self.2]
    }
}

impl HyperType for Option<f64> {
    const NAME: &'static str = "float or None";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::None => Some(None),
            _ => f64::from_value(value).map(Some),
        }
    }
    fn to_value(&self) -> Value {
        self.map_or(Value::None, Value::Float)
    }
    fn numbers(&self) -> Vec<f64> {
        self.iter().copied().collect()
    }
}

impl HyperType for (Option<f64>, f64) {
    const NAME: &'static str = "pair of a float or None and a float";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::List(items) => match &items[..] {
                [a, b] => Some((Option::from_value(a)?, f64::from_value(b)?)),
                _ => None,
            },
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::List(vec![self.0.to_value(), Value::Float(self.1)])
    }
    fn numbers(&self) -> Vec<f64> {
        self.0.into_iter().chain([self.1]).collect()
    }
}

impl HyperType for u64 {
    const NAME: &'static str = "whole number";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Int(x) => u64::try_from(*x).ok(),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::Int(i64::try_from(*self).unwrap_or(i64::MAX))
    }
    fn numbers(&self) -> Vec<f64> {
        vec![*self as f64]
    }
}

impl HyperType for Option<u64> {
    const NAME: &'static str = "whole number or None";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::None => Some(None),
            _ => u64::from_value(value).map(Some),
        }
    }
    fn to_value(&self) -> Value {
        self.map_or(Value::None, |x| x.to_value())
    }
    fn numbers(&self) -> Vec<f64> {
        self.iter().map(|&x| x as f64).collect()
    }
}

impl HyperType for Option<i64> {
    const NAME: &'static str = "int or None";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::None => Some(None),
            _ => i64::from_value(value).map(Some),
        }
    }
    fn to_value(&self) -> Value {
        self.map_or(Value::None, Value::Int)
    }
    fn numbers(&self) -> Vec<f64> {
        self.iter().map(|&x| x as f64).collect()
    }
}

impl HyperType for String {
    const NAME: &'static str = "string";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::Text(self.clone())
    }
}

impl HyperType for Option<String> {
    const NAME: &'static str = "string or None";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::None => Some(None),
            Value::Text(text) => Some(Some(text.clone())),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        self.clone().map_or(Value::None, Value::Text)
    }
}

impl HyperType for Vec<String> {
    const NAME: &'static str = "list of strings";
    fn from_value(value: &Value) -> Option<Self> {
        let text = |item: &Value| match item {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        };
        match value {
            Value::List(items) => items.iter().map(text).collect(),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::List(self.iter().cloned().map(Value::Text).collect())
    }
}

/// One row of a hyperparameter table.
#[derive(Clone, Copy, Debug)]
pub struct Hyper {
    /// The name in configurations.
    pub name: &'static str,
    /// The type, for people.
    pub kind: &'static str,
    /// The default.
    pub default: fn() -> Value,
    /// The valid numbers.
    pub range: Range,
    /// What it does.
    pub meaning: &'static str,
    /// False for arguments of the source that are accepted and checked, but change no number.
    pub counts: bool,
    /// Whether it is what a group remembers from step to step ([`Advances`](crate::Advances)), not a setting.
    pub kept: bool,
}

/// What is wrong with a hyperparameter.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HyperError {
    /// There is none of this name.
    #[error("{algorithm} has no hyperparameter {name:?}; it has {}", .known.join(", "))]
    Unknown {
        /// The algorithm.
        algorithm: &'static str,
        /// The name given.
        name: String,
        /// The names that exist.
        known: Vec<&'static str>,
    },
    /// The value is of another type.
    #[error("{algorithm}: {name} must be a {expected}, got {got}")]
    Type {
        /// The algorithm.
        algorithm: &'static str,
        /// The hyperparameter.
        name: &'static str,
        /// The type that it has.
        expected: &'static str,
        /// The value given.
        got: String,
    },
    /// The value is out of range.
    #[error("{algorithm}: {name} must be {expected}, got {got}")]
    Range {
        /// The algorithm.
        algorithm: &'static str,
        /// The hyperparameter.
        name: &'static str,
        /// The range.
        expected: Range,
        /// The value given.
        got: String,
    },
    /// Values that are valid alone exclude each other.
    #[error("{algorithm}: {problem}")]
    Combination {
        /// The algorithm.
        algorithm: &'static str,
        /// Which ones, and why.
        problem: String,
    },
}

impl HyperError {
    /// The same of an algorithm of another name, for [`alias!`](macro@crate::alias).
    #[doc(hidden)]
    pub fn named(mut self, name: &'static str) -> HyperError {
        let (HyperError::Unknown { algorithm, .. }
        | HyperError::Type { algorithm, .. }
        | HyperError::Range { algorithm, .. }
        | HyperError::Combination { algorithm, .. }) = &mut self;
        *algorithm = name;
        self
    }
}

/// A set of hyperparameters that can be read and set by name.
pub trait Hyperparameters {
    /// The algorithm's name.
    const NAME: &'static str;
    /// The table, in the order of the source.
    const TABLE: &'static [Hyper];
    /// Sets one by name.
    ///
    /// # Errors
    /// [`HyperError`] for an unknown name, another type, or a number out of range; nothing is set then.
    fn set(&mut self, name: &str, value: &Value) -> Result<(), HyperError>;
    /// Reads one by name; those that change no number are not kept.
    fn get(&self, name: &str) -> Option<Value>;
}

/// A value of type `T` within `range`, or what is wrong with it. Used by [`hyperparameters!`](crate::hyperparameters).
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
    match converted.numbers().iter().all(|&x| range.contains(x)) {
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

/// The row of an argument that is accepted and changes no number.
#[doc(hidden)]
pub const fn accepted_row<T: HyperType>(name: &'static str, default: fn() -> Value, range: Range) -> Hyper {
    let meaning = " Accepted for the source's sake; changes no number.";
    Hyper { name, kind: T::NAME, default, range, meaning, counts: false, kept: false }
}

/// The row of an argument that may only have its default.
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
