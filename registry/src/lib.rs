//! Optimizers by name, from the configs people already have.
//!
//! The [table of names](names) is fixed, and the one place where algorithms meet the CPU's lanes: their
//! rules are compiled here, once. A [`Recipe`] is what a configuration asks for.

#![forbid(unsafe_code)]

pub mod config;
mod error;
pub mod names;
mod recipe;
mod schedulers;

pub use error::{Error, Result};
pub use names::Entry;
pub use recipe::Recipe;
