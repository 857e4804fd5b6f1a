//! The learning rate, which training loops set by hand.

use super::Driver;
use crate::Result;
use crate::hyper::Value;

const LR: &str = "lr";

impl Driver {
    /// Returns the learning rate of a group; none where there is no such group, or its algorithm has no `lr`.
    ///
    /// ```
    /// # fn with(mut optimizer: fallline_optim::Driver) -> fallline_optim::Result<()> {
    /// optimizer.set_lr(1e-4)?;
    /// assert_eq!(optimizer.lr(0), Some(1e-4));
    /// # Ok(())
    /// # }
    /// ```
    pub fn lr(&self, group: usize) -> Option<f64> {
        match self.engine.setup.groups.get(group)?.algorithm.get(LR)? {
            Value::Float(lr) => Some(lr),
            _ => None,
        }
    }

    /// Sets the learning rate of all groups, or of none. For that of one group, use [`Optimizer::set`](crate::Optimizer::set).
    ///
    /// # Errors
    /// Where it is out of range, or an algorithm has no `lr`.
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        let groups = &mut self.engine.setup.groups;
        // Several are tried first, so that a refusal changes none.
        for group in groups.iter().skip(1) {
            group.algorithm.boxed().set(&[(LR, lr.into())])?;
        }
        for group in groups {
            group.algorithm.set(&[(LR, lr.into())])?;
        }
        Ok(())
    }
}
