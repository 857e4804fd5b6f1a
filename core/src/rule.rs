//! Rules: what an algorithm does to one element, declared once.

use crate::{Lane, Literal};

/// What an operand of a rule is to the optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// The parameter being trained.
    Param,
    /// Its gradient. It reaches the rule already multiplied by the step's gradient scale (unscaling,
    /// clipping and `maximize` in one factor, which is always there).
    Grad,
    /// A state that the optimizer keeps between steps.
    State,
    /// Memory that one pass of a step leaves to the next.
    Scratch,
}

/// One tensor that a rule reads, and perhaps writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Its name in the rule, and of the state in a checkpoint.
    pub name: &'static str,
    /// What it is.
    pub role: Role,
    /// Whether the rule stores it back.
    pub written: bool,
}

/// A number that is the same for many elements, computed once a step on the host in `f64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScalarDef {
    /// Its name in the rule.
    pub name: &'static str,
    /// How it is computed, as written in the rule.
    pub formula: &'static str,
}

/// A pure function of numbers: one update, for one element of every operand.
///
/// Declared with [`rule!`](crate::rule!); open to users' own.
pub trait Rule: 'static {
    /// The hyperparameters from which the scalars of a step are computed.
    type Hyper: 'static;
    /// The rule's name, as written.
    const NAME: &'static str;
    /// First the operands that are written, then those that are only read.
    const OPERANDS: &'static [Operand];
    /// The scalars that [`scalars`](Rule::scalars) computes.
    const SCALARS: &'static [ScalarDef];
    /// Scalars that differ from tensor to tensor, given by the driver.
    const TENSOR_SCALARS: &'static [&'static str];
    /// The sums over all elements that the same pass returns.
    const SUMS: &'static [&'static str];
    /// One value for each of [`SCALARS`](Rule::SCALARS), then for each of
    /// [`TENSOR_SCALARS`](Rule::TENSOR_SCALARS).
    type Scalars<T: Copy + Send + Sync>: Array<T>;
    /// One value for each operand.
    type Operands<T: Copy + Send + Sync>: Array<T>;
    /// One value for each sum.
    type Sums<T: Copy + Send + Sync>: Array<T>;

    /// The scalars of step `t` (from 1), in `f64`; `out` has the length of [`SCALARS`](Rule::SCALARS).
    fn scalars(hyper: &Self::Hyper, t: u64, out: &mut [f64]);

    /// The update of one register of elements. Assignments run in order; everything that is stored is
    /// stored after them. Returns this register's terms of the sums.
    fn element<L: Lane>(scalars: &Self::Scalars<L>, operands: &mut Self::Operands<L>) -> Self::Sums<L>
    where
        f64: Literal<L>;
}

/// A rule as every backend runs it: the gradients scaled, then [`Rule::element`].
#[inline(always)]
pub fn apply<R: Rule, L: Lane>(
    grad_scale: L,
    scalars: &R::Scalars<L>,
    operands: &mut R::Operands<L>,
) -> R::Sums<L>
where
    f64: Literal<L>,
{
    for (value, operand) in operands.as_mut().iter_mut().zip(R::OPERANDS) {
        if matches!(operand.role, Role::Grad) {
            *value = value.times(grad_scale);
        }
    }
    R::element(scalars, operands)
}

/// `[T; N]` with the `N` hidden in a [`Rule`].
pub trait Array<T: Copy>: Copy + Send + Sync + AsRef<[T]> + AsMut<[T]> {
    /// The same value everywhere.
    fn fill(value: T) -> Self;
}

impl<T: Copy + Send + Sync, const N: usize> Array<T> for [T; N] {
    #[inline(always)]
    fn fill(value: T) -> Self {
        [value; N]
    }
}

/// Declares a [`Rule`].
///
/// ```
/// use fallline_core::{math, rule};
///
/// /// The hyperparameters of plain gradient descent with decoupled decay.
/// pub struct Descent {
///     /// Step size.
///     pub lr: f64,
///     /// Decay per step, in units of `lr`.
///     pub weight_decay: f64,
/// }
///
/// rule! {
///     /// Plain gradient descent, which also returns the squared norm of the gradient.
///     pub DescentRule(h: Descent, t) {       // once a step, on the host, in f64
///         let lr = h.lr;
///         let keep = 1.0 - h.lr * h.weight_decay;
///     }
///     element(g: Grad) -> (p: Param) sum(norm2) {   // once an element, anywhere
///         p = keep * p - lr * g;
///         norm2 = g * g;
///     }
/// }
/// ```
///
/// `element` lists the operands that are only read, then those that are written. `per_tensor(trust)` in
/// front of it names scalars that the driver gives for each tensor. `or pub Name element(…) -> (…) { … }`
/// behind it declares another rule with the same scalars. Functions for the scalars are those of
/// [`math`](crate::math).
#[macro_export]
macro_rules! rule {
    // A rule, and others after `or` that share its scalars.
    ($(#[$meta:meta])* $vis:vis $name:ident($h:ident: $hyper:ty, $t:ident) $scalars:tt
     $(per_tensor $own:tt)?
     element $reads:tt -> $writes:tt $(sum $sums:tt)? $body:block
     $(or $(#[$other_meta:meta])* $other_vis:vis $other:ident $($rest:tt)*)?) => {
        $crate::rule!(@one [$(#[$meta])* $vis] $name $h [$hyper] $t $scalars [$($own)?] $reads $writes [$($sums)?] $body);
        $($crate::rule! {
            $(#[$other_meta])* $other_vis $other($h: $hyper, $t) $scalars $($rest)*
        })?
    };
    (@one [$(#[$meta:meta])* $vis:vis] $name:ident $h:ident [$hyper:ty] $t:ident
     { $(let $scalar:ident = $formula:expr;)* }
     [$(($($own:ident),+ $(,)?))?]
     ($($read:ident: $read_role:ident),* $(,)?)
     ($($write:ident: $write_role:ident),* $(,)?)
     [$(($($sum:ident),+ $(,)?))?]
     $body:block) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        $vis struct $name;

        impl $crate::Rule for $name {
            type Hyper = $hyper;
            const NAME: &'static str = stringify!($name);
            const OPERANDS: &'static [$crate::Operand] = &[
                $($crate::Operand { name: stringify!($write), role: $crate::Role::$write_role, written: true },)*
                $($crate::Operand { name: stringify!($read), role: $crate::Role::$read_role, written: false },)*
            ];
            const SCALARS: &'static [$crate::ScalarDef] = &[
                $($crate::ScalarDef { name: stringify!($scalar), formula: stringify!($formula) },)*
            ];
            const TENSOR_SCALARS: &'static [&'static str] = &[$($(stringify!($own)),+)?];
            const SUMS: &'static [&'static str] = &[$($(stringify!($sum)),+)?];
            type Scalars<T: Copy + Send + Sync> =
                [T; <$name as $crate::Rule>::SCALARS.len() + <$name as $crate::Rule>::TENSOR_SCALARS.len()];
            type Operands<T: Copy + Send + Sync> = [T; <$name as $crate::Rule>::OPERANDS.len()];
            type Sums<T: Copy + Send + Sync> = [T; <$name as $crate::Rule>::SUMS.len()];

            #[allow(unused_variables)]
            fn scalars($h: &$hyper, $t: u64, out: &mut [f64]) {
                $(let $scalar: f64 = $formula;)*
                out.copy_from_slice(&[$($scalar),*]);
            }

            #[inline(always)]
            #[allow(unused_variables, unused_mut)]
            fn element<L: $crate::Lane>(
                scalars: &Self::Scalars<L>,
                operands: &mut Self::Operands<L>,
            ) -> Self::Sums<L>
            where
                f64: $crate::Literal<L>,
            {
                let [$($scalar,)* $($($own,)+)?] = *scalars;
                let [$(mut $write,)* $($read,)*] = *operands;
                $($(let $sum: L;)+)?
                $body
                *operands = [$($write,)* $($read,)*];
                [$($($sum),+)?]
            }
        }
    };
}
