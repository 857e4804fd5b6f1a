//! What algorithms are written with.

// No single family needs all of it.
#![cfg_attr(not(feature = "all-algorithms"), allow(unused_imports))]

pub(super) use super::papers;
pub(super) use crate::hyper::{HyperError, Hyperparameters, Range};
pub(super) use crate::program::{Site, Steps, Variant};
pub(super) use crate::{Algorithm, Info, Reference, Sparse, State, StorageDefaults, alias, hyperparameters};
pub(super) use fallline_core::math::{exp, flag, ln, pow, powf, single, sqrt};
pub(super) use fallline_core::{Link, Literal, Number, Vector, rule};
