//! The arithmetic of one vector of elements.

use crate::private::Sealed;
use core::ops::{Add, Div, Mul, Neg, Sub};

/// A SIMD vector of elements: the one vocabulary in which rules are written.
///
/// A value is many elements at once: a SIMD register, one number (the reference), or a symbol for them
/// ([`Expr`](crate::Expr)). Every operation is exact IEEE 754: `+ - * /` and [`sqrt`](Arithmetic::sqrt) are
/// correctly rounded, the others are defined below down to their treatment of NaN. There is no fused multiply-add,
/// so that every implementation gives the same bits.
///
/// Literals are written as plain `f64` on either side of an operator (`1.0 - x`).
pub trait Vector:
    Arithmetic
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + Add<f64, Output = Self>
    + Sub<f64, Output = Self>
    + Mul<f64, Output = Self>
    + Div<f64, Output = Self>
{
    /// Returns the sign of each element: 1 above zero, -1 below, and +0 for ±0 and NaN, as `torch.sign` has it.
    #[inline(always)]
    fn sign(self) -> Self {
        let zero = Self::splat(0.0);
        Self::select(zero.lt(self), Self::splat(1.0), Self::select(self.lt(zero), Self::splat(-1.0), zero))
    }

    /// Returns `x * x`.
    #[inline(always)]
    fn square(self) -> Self {
        self * self
    }

    /// Chooses by a scalar that is used as a flag: `yes` where `flag` is above zero, else `no`. What is
    /// not chosen leaves no trace, not even through an infinity.
    #[inline(always)]
    fn select_if(flag: Self, yes: Self, no: Self) -> Self {
        Self::select(Self::splat(0.0).lt(flag), yes, no)
    }
}

/// What a register type implements; [`operators!`](crate::operators) makes it a [`Vector`].
pub trait Arithmetic: Copy + Send + Sync + Sized + Sealed + 'static {
    /// The outcome of a comparison, one bool an element.
    type Mask: Copy;
    /// Returns the same number in every element, rounded once to the type of the elements.
    fn splat(x: f64) -> Self;
    /// Returns `self + other`.
    fn add(self, other: Self) -> Self;
    /// Returns `self - other`.
    fn sub(self, other: Self) -> Self;
    /// Returns `self * other`.
    fn mul(self, other: Self) -> Self;
    /// Returns `self / other`.
    fn div(self, other: Self) -> Self;
    /// Returns the sign bit flipped.
    fn neg(self) -> Self;
    /// Returns the square root, correctly rounded.
    fn sqrt(self) -> Self;
    /// Returns the sign bit cleared.
    fn abs(self) -> Self;
    /// Returns exactly `self < other ? self : other`: `other` where either is NaN.
    fn min(self, other: Self) -> Self;
    /// Returns exactly `self > other ? self : other`: `other` where either is NaN.
    fn max(self, other: Self) -> Self;
    /// Returns `self < other`, false where either is NaN.
    fn lt(self, other: Self) -> Self::Mask;
    /// Returns `self <= other`, false where either is NaN.
    fn le(self, other: Self) -> Self::Mask;
    /// Returns `self == other`, false where either is NaN.
    fn eq(self, other: Self) -> Self::Mask;
    /// Returns `yes` where the mask is true, else `no`.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
}

/// `f64 op L`, so that a rule may write `1.0 - x` with the literal in front.
///
/// Implemented by [`operators!`](crate::operators) for every vector; one bound implies all four operators.
pub trait Literal<L>:
    Add<L, Output = L> + Sub<L, Output = L> + Mul<L, Output = L> + Div<L, Output = L>
{
}

/// Gives a register type that is [`Arithmetic`] its operators, literals on either side included, and
/// makes it a [`Vector`].
#[macro_export]
macro_rules! operators {
    ($lane:ty) => {
        $crate::operators!(@binary $lane, Add add, Sub sub, Mul mul, Div div);
        impl ::core::ops::Neg for $lane {
            type Output = Self;
            #[inline(always)]
            fn neg(self) -> Self {
                $crate::Arithmetic::neg(self)
            }
        }
        impl $crate::Literal<$lane> for f64 {}
        impl $crate::Vector for $lane {}
    };
    (@binary $lane:ty, $($trait:ident $method:ident),*) => { $(
        impl ::core::ops::$trait for $lane {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                $crate::Arithmetic::$method(self, other)
            }
        }
        impl ::core::ops::$trait<f64> for $lane {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: f64) -> Self {
                $crate::Arithmetic::$method(self, <$lane as $crate::Arithmetic>::splat(other))
            }
        }
        impl ::core::ops::$trait<$lane> for f64 {
            type Output = $lane;
            #[inline(always)]
            fn $method(self, other: $lane) -> $lane {
                $crate::Arithmetic::$method(<$lane as $crate::Arithmetic>::splat(self), other)
            }
        }
    )* };
}
