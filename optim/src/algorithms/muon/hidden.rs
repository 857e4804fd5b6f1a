//! Which parameters are hidden matrices, and what steps the rest.

use crate::program::Variant;
use fallline_core::Shape;

/// Parameters that AdamW steps.
pub(in crate::algorithms) const REST: Variant = Variant(1);

/// The hyperparameters that tell hidden matrices from the rest.
#[derive(Clone, Copy, Debug)]
pub(in crate::algorithms) struct Hidden<'a> {
    /// Whether parameters of more than two dimensions are matrices, too.
    pub(in crate::algorithms) flatten: bool,
    /// What steps the rest.
    pub(in crate::algorithms) rest: Option<&'a str>,
    /// Parts of the names of matrices that the rest takes as well.
    pub(in crate::algorithms) adamw_names: &'a [String],
}

impl Hidden<'_> {
    /// Returns which of the two programs a parameter takes.
    pub(in crate::algorithms) fn variant(&self, name: &str, shape: &Shape) -> Result<Variant, String> {
        if self.adamw_names.iter().any(|part| name.contains(part.as_str())) {
            return Ok(REST);
        }
        let rank = shape.rank();
        match rank == 2 || (self.flatten && rank > 2) {
            true => Ok(Variant::ONLY),
            false if self.rest.is_some() => Ok(REST),
            false if rank > 2 => Err(format!(
                "takes matrices only, and this has {rank} dimensions; flatten=True takes it as one, rest=\"AdamW\" \
                 gives it to AdamW"
            )),
            false => Err(format!(
                "takes matrices only, and this has {rank} dimensions; rest=\"AdamW\" gives it to AdamW"
            )),
        }
    }

    /// Checks that they go together.
    pub(in crate::algorithms) fn check(&self) -> Result<(), String> {
        match self.rest {
            None if !self.adamw_names.is_empty() => Err("adamw_names needs rest=\"AdamW\"".to_owned()),
            None | Some("AdamW") => Ok(()),
            Some(other) => Err(format!("rest must be None or AdamW, got {other:?}")),
        }
    }
}

/// Gives an algorithm what its hyperparameters `flatten`, `rest`, `adamw_names` and `rest_*` mean: which parameters are
/// hidden matrices, and the AdamW that steps the rest.
macro_rules! hidden_matrices {
    ($algorithm:ident) => {
        impl $algorithm {
            /// Returns which parameters are hidden matrices.
            fn hidden(&self) -> $crate::algorithms::muon::Hidden<'_> {
                let $algorithm { flatten, rest, adamw_names, .. } = self;
                $crate::algorithms::muon::Hidden { flatten: *flatten, rest: rest.as_deref(), adamw_names }
            }
        }

        /// What steps the rest.
        impl $crate::program::Delegates<$crate::algorithms::AdamW> for $algorithm {
            fn delegate(&self) -> $crate::algorithms::AdamW {
                $crate::algorithms::AdamW {
                    lr: self.rest_lr.unwrap_or(self.lr),
                    betas: self.rest_betas,
                    eps: self.rest_eps,
                    weight_decay: self.rest_weight_decay,
                    ..Default::default()
                }
            }
        }
    };
}
pub(in crate::algorithms) use hidden_matrices;

/// Returns the rows and columns of a parameter that is taken as a matrix.
pub(in crate::algorithms) fn dims(shape: &Shape) -> (usize, usize) {
    match shape.dims() {
        [] => (1, 1),
        [rows, rest @ ..] => (*rows, Shape::from(rest).elements()),
    }
}
