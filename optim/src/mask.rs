//! Elements that never have a momentum, which signs cannot say.
//!
//! What is compressed to signs and a scale has no zeros. Some momenta are always 0, as those of embedding rows that
//! no example of this phase of training reaches. Compression makes ±s of them, and the residual accumulates. A mask
//! keeps such elements at 0: DeepSpeed's `exp_avg_mask`, an option of its parameter groups.
//!
//! | algorithm | what is multiplied by the mask |
//! |---|---|
//! | `OnebitAdam`, `OnebitLamb` | the momentum, in compression, on one rank too; not with `non_freeze` |
//! | `ZeroOneAdam` | what came back from an exchange, of gradients or of steps; on one rank nothing |
//!
//! Errors of compression are not masked, there or here. A mask is no part of a checkpoint: the one that is set counts, since
//! it may be another in the next phase of training.

use crate::{AnyAlgorithm, Error, MaskPolicy, Result};
use core::ops::Range;
use fallline_core::Shape;
use fallline_core::ranks::fingerprint;

/// Which elements of a group's parameters have a momentum; see the [module](self).
///
/// ```
/// # use fallline_optim::{Driver, Result};
/// # fn with(optimizer: &mut Driver) -> Result<()> {
/// use fallline_optim::mask::MomentumMask;
/// let short = optimizer.add_group(|name| name == "positions.weight", &[])?;
/// optimizer.set_momentum_mask(short, Some(MomentumMask::Rows(0..128)))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum MomentumMask {
    /// Those of some rows, by their place in the first dimension; the others have none. In configurations
    /// `exp_avg_mask=128` for the first so many, or `exp_avg_mask=(0, 128)`.
    Rows(Range<usize>),
    /// What each element's is multiplied by, 0 or 1 mostly, in row-major order: of parameters with as many elements.
    Elements(Vec<f32>),
}

impl MomentumMask {
    /// Refuses algorithms that take no mask.
    ///
    /// # Errors
    /// [`Error::Groups`].
    pub fn check(algorithm: &dyn AnyAlgorithm) -> Result<()> {
        match algorithm.spec().replicas.momentum_mask {
            MaskPolicy::Never => Err(MomentumMask::refused(algorithm.name())),
            MaskPolicy::OnExchange | MaskPolicy::Always => Ok(()),
        }
    }

    /// Returns the error of what takes no mask.
    pub fn refused(algorithm: &'static str) -> Error {
        let problem = "it takes no exp_avg_mask: it does not compress momenta".into();
        Error::Groups { algorithm, problem }
    }

    /// Returns a factor for every element of a parameter, or why it does not fit.
    pub(crate) fn values(&self, shape: &Shape) -> Result<Vec<f32>, String> {
        match self {
            MomentumMask::Rows(rows) => {
                let count = shape.dims().first().copied().unwrap_or(0);
                if rows.start > rows.end || rows.end > count {
                    let Range { start, end } = rows;
                    return Err(format!(
                        "has {count} rows, and its exp_avg_mask names rows {start} to {end}"
                    ));
                }
                let row = shape.elements().checked_div(count).unwrap_or(0);
                let own = rows.start * row..rows.end * row;
                Ok((0..shape.elements()).map(|i| f32::from(u8::from(own.contains(&i)))).collect())
            }
            MomentumMask::Elements(values) if values.len() == shape.elements() => Ok(values.clone()),
            MomentumMask::Elements(values) => {
                let (own, got) = (shape.elements(), values.len());
                Err(format!("has {own} elements, and its exp_avg_mask {got}"))
            }
        }
    }

    /// Returns what ranks compare of it.
    pub(crate) fn text(&self) -> String {
        match self {
            MomentumMask::Rows(rows) => format!("rows {rows:?}"),
            MomentumMask::Elements(values) => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                format!("{} elements with hash {:016x}", values.len(), fingerprint(&bytes))
            }
        }
    }
}
