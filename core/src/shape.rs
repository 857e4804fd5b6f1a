//! The shape of a tensor.

use core::fmt;

/// The shape of a tensor: its dimensions, outermost first. Empty for a 0-dimensional one, which has one element.
///
/// ```
/// use fallline_core::Shape;
/// assert_eq!(Shape::from([3, 4]).elements(), 12);
/// assert_eq!(Shape::from([]).elements(), 1);
/// assert_eq!(Shape::from([5, 0]).elements(), 0);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Shape(Box<[usize]>);

impl Shape {
    /// Returns the number of elements: the product of the dimensions, 1 without any.
    ///
    /// Saturates instead of wrapping, so that no allocation can succeed for a count that overflowed.
    #[inline]
    pub fn elements(&self) -> usize {
        if self.0.contains(&0) {
            return 0;
        }
        self.0.iter().fold(1, |product, &extent| product.saturating_mul(extent))
    }

    /// Returns the dimensions.
    #[inline]
    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// Returns the number of dimensions.
    #[inline]
    pub fn rank(&self) -> usize {
        self.0.len()
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Shape(dims.into())
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        Shape(dims.into())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter()).finish()
    }
}
