//! Optimizers by name, from the configs people already have.
//!
//! The [table of names](names) is fixed, and the one place where algorithms meet the CPU's lanes: their
//! rules are compiled here, once. A [`Recipe`] is what a configuration asks for.

#![forbid(unsafe_code)]

mod error;
mod formats;
pub mod names;
pub mod paramwise;
mod recipe;
pub mod schedulers;
mod wrapper;

/// Reading configurations: a crate of its own, so that it is not compiled again with the rules.
pub use fallline_config as config;

pub use error::{Error, Result};
pub use names::Entry;
pub use recipe::{AnyRecipe, Recipe, SearchRecipe};
pub use schedulers::Length;
pub use wrapper::average;
