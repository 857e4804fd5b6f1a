//! A loss that an optimizer evaluates itself.

use crate::{Binding, Result};

/// A model and its data, as far as an optimizer that evaluates the loss itself needs to know them.
///
/// ```
/// use fallline_optim::{Binding, Objective, Result, param};
/// /// `(x − 3)²`.
/// struct Parabola { x: Vec<f64>, grad: Vec<f64> }
/// impl Objective for Parabola {
///     fn evaluate(&mut self) -> Result<f64> {
///         let off = self.x[0] - 3.0;
///         self.grad[0] = 2.0 * off;
///         Ok(off * off)
///     }
///     fn bindings(&mut self) -> Vec<Binding<'_>> {
///         vec![param("x", &mut self.x, &self.grad)]
///     }
/// }
/// ```
pub trait Objective {
    /// Returns the loss where the parameters are now; computes the gradients too.
    ///
    /// # Errors
    /// [`Error::Objective`](crate::Error::Objective) for whatever the training loop cannot do.
    fn evaluate(&mut self) -> Result<f64>;

    /// Returns the parameters and the gradients that [`evaluate`](Objective::evaluate) has computed: the same
    /// parameters each time.
    fn bindings(&mut self) -> Vec<Binding<'_>>;
}
