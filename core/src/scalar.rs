//! The reference vector: one element.

use crate::{Arithmetic, private::Sealed};

/// One number as a vector: the reference that every other vector must match bit for bit.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(transparent)]
pub struct Scalar<T>(
    /// The number.
    pub T,
);

macro_rules! scalar {
    ($t:ty, $sqrt:path) => {
        impl Sealed for Scalar<$t> {}
        impl Arithmetic for Scalar<$t> {
            type Mask = bool;
            #[inline(always)]
            fn splat(x: f64) -> Self {
                Scalar(x as $t)
            }
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                Scalar(self.0 + other.0)
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                Scalar(self.0 - other.0)
            }
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                Scalar(self.0 * other.0)
            }
            #[inline(always)]
            fn div(self, other: Self) -> Self {
                Scalar(self.0 / other.0)
            }
            #[inline(always)]
            fn neg(self) -> Self {
                Scalar(-self.0)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                Scalar($sqrt(self.0))
            }
            #[inline(always)]
            fn abs(self) -> Self {
                Scalar(self.0.abs())
            }
            #[inline(always)]
            fn min(self, other: Self) -> Self {
                if self.0 < other.0 { self } else { other }
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                if self.0 > other.0 { self } else { other }
            }
            #[inline(always)]
            fn lt(self, other: Self) -> bool {
                self.0 < other.0
            }
            #[inline(always)]
            fn le(self, other: Self) -> bool {
                self.0 <= other.0
            }
            #[inline(always)]
            fn eq(self, other: Self) -> bool {
                self.0 == other.0
            }
            #[inline(always)]
            fn select(mask: bool, yes: Self, no: Self) -> Self {
                if mask { yes } else { no }
            }
        }
        crate::operators!(Scalar<$t>);
    };
}
scalar!(f32, f32::sqrt);
scalar!(f64, f64::sqrt);

/// Plain numbers, for what is computed [between passes](crate::Between): the same as [`Scalar<f64>`].
macro_rules! plain {
    ($($method:ident($($arg:ident),*)),*; $($compare:ident),*) => {
        impl Arithmetic for f64 {
            type Mask = bool;
            #[inline(always)]
            fn splat(x: f64) -> f64 {
                x
            }
            $(#[inline(always)]
            fn $method(self $(, $arg: f64)*) -> f64 {
                Scalar(self).$method($(Scalar($arg)),*).0
            })*
            $(#[inline(always)]
            fn $compare(self, other: f64) -> bool {
                Scalar(self).$compare(Scalar(other))
            })*
            #[inline(always)]
            fn select(mask: bool, yes: f64, no: f64) -> f64 {
                if mask { yes } else { no }
            }
        }
        impl crate::Vector for f64 {}
        impl crate::Literal<f64> for f64 {}
    };
}
plain!(add(other), sub(other), mul(other), div(other), neg(), sqrt(), abs(), min(other), max(other); lt, le, eq);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Vector;

    #[test]
    fn min_max_and_sign_treat_nan_as_documented() {
        let (nan, one) = (Scalar(f32::NAN), Scalar(1.0));
        assert_eq!(nan.min(one), one);
        assert_eq!(one.max(nan).0.to_bits(), f32::NAN.to_bits());
        assert_eq!(nan.sign().0.to_bits(), 0);
        assert_eq!(Scalar(-0.0f32).sign().0.to_bits(), 0);
        assert_eq!(Scalar(-3.0f64).sign(), Scalar(-1.0));
    }

    #[test]
    fn when_hides_what_it_does_not_choose() {
        let inf = Scalar(f64::INFINITY);
        assert_eq!(Vector::select_if(Scalar(0.0), inf * 0.0, Scalar(2.0)), Scalar(2.0));
    }
}
