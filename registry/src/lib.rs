//! Optimizers by name, from the configs people already have.
//!
//! The [table of shipped names](names) is the one place where these algorithms meet the CPU's lanes: their rules are
//! compiled here, once. A [`Registry`] has them, and algorithms of other crates. A [`Recipe`] is what a configuration
//! asks for.
//!
//! An internal crate: depend on `fallline`, which re-exports it as `fallline::registry`.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod changes;
mod contents;
mod error;
mod formats;
mod hints;
mod hooks;
mod length;
mod method;
mod mmcv;
mod modifiers;
pub mod names;
mod near;
pub mod paramwise;
mod plan;
mod read;
mod recipe;
mod registry;
pub mod schedulers;
mod state_parts;
mod wrapper;
mod written;

/// Reading configurations: a separate crate, so that it is not compiled again with the rules.
pub use fallline_config as config;

pub use changes::{change, replace_optimizer};
pub use error::{Error, Result};
pub use length::Length;
pub use names::Entry;
pub use plan::Plan;
pub use recipe::{AnyRecipe, Recipe, SearchRecipe};
pub use registry::Registry;
pub use wrapper::average;
