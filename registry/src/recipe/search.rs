//! From a configuration to an optimizer that evaluates the loss itself.

use crate::config::Node;
use crate::contents::Context;
use crate::error::Result;
use crate::formats::StorageOptions;
use crate::schedulers::Length;
use crate::written::to_text;
use fallline_core::Backend;
use fallline_optim::LineSearch;
use fallline_optim::line_search::Search;
use fallline_optim::schedule::{Schedule, Scheduled};
use std::sync::Arc;

/// What a configuration asks for that evaluates the loss itself: a search with its hyperparameters, and a schedule.
#[derive(Debug)]
pub struct SearchRecipe {
    pub(super) search: Search,
    pub(super) storing: StorageOptions,
    /// The key `train`: this project's own training options.
    pub train: Option<Node>,
    pub(super) context: Context,
}

impl SearchRecipe {
    /// Returns the search with its hyperparameters.
    pub fn search(&self) -> &Search {
        &self.search
    }

    /// Returns the optimizer, on a backend.
    pub fn optimizer(&self, backend: Arc<dyn Backend>) -> LineSearch {
        LineSearch::new(backend, self.search.clone())
    }

    /// As [`Recipe::to_source`](crate::Recipe::to_source).
    pub fn to_source(&self) -> String {
        self.context.source.to_string()
    }

    /// As [`Recipe::to_text`](crate::Recipe::to_text).
    pub fn to_text(&self) -> String {
        let search = &self.search;
        to_text(search.name(), search.table(), |name| search.get(name), "", &self.storing)
    }

    /// As [`Recipe::schedule`](crate::Recipe::schedule).
    ///
    /// # Errors
    /// As [`Recipe::schedule`](crate::Recipe::schedule).
    pub fn schedule<S: Scheduled + ?Sized>(&self, epoch_length: u64, optimizer: &mut S) -> Result<Schedule> {
        let length = Length { epoch: epoch_length, ..self.context.length };
        self.context.chain.schedule(length, optimizer)
    }
}
