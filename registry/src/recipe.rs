//! From a configuration to an optimizer with its schedule.

mod search;

pub use search::SearchRecipe;

use crate::config::{self, Entries, Node, Position};
use crate::contents::{Contents, Context, whole};
use crate::error::Result;
use crate::formats::{Of, StorageOptions};
use crate::method::method;
use crate::modifiers;
use crate::paramwise::{self, Paramwise};
use crate::registry::Registry;
use crate::schedulers::{Chain, Length};
use crate::state_parts;
use crate::wrapper::Wrapped;
use crate::written::to_text;
use fallline_core::{Backend, Format};
use fallline_optim::average::Average;
use fallline_optim::gradient_config::GradientConfig;
use fallline_optim::schedule::{Schedule, Scheduled};
use fallline_optim::{AnyAlgorithm, Driver, Method, Optimizer};
use std::path::Path;
use std::sync::Arc;

/// What a configuration asks for: an algorithm with its hyperparameters, groups of parameters with others, the
/// gradient pipeline, averages, a schedule, and training options.
///
/// ```
/// use fallline_registry::Recipe;
/// let recipe = Recipe::from_text(r#"dict(type="AdamW", lr=1e-3, weight_decay=0.05)"#)?;
/// assert_eq!(recipe.algorithm().name(), "AdamW");
/// let error = Recipe::from_text("dict(type='AdmaW')").unwrap_err();
/// assert!(error.to_string().contains(r#"did you mean "AdamW"?"#));
/// # Ok::<(), fallline_registry::Error>(())
/// ```
#[derive(Debug)]
pub struct Recipe {
    algorithm: Box<dyn AnyAlgorithm>,
    storing: StorageOptions,
    paramwise: Option<Paramwise>,
    wrapper: GradientConfig,
    allow_unmatched: bool,
    /// The key `train`: this project's own training options.
    pub train: Option<Node>,
    context: Context,
}

impl Recipe {
    /// Reads inline text: a name, a Python literal, or text in any notation that files may have.
    ///
    /// # Errors
    /// [`Error`](crate::Error) names the place, what was expected, and the nearest name that exists. What evaluates the loss itself has
    /// [another recipe](AnyRecipe).
    pub fn from_text(text: &str) -> Result<Recipe> {
        Recipe::from_text_with(text, &Registry::standard())
    }

    /// Reads what [`to_source`](Recipe::to_source) returned. It may come out of a checkpoint of others: no environment
    /// variable is read, and no file.
    ///
    /// # Errors
    /// As for [`Recipe::from_text`].
    pub fn from_source(source: &str) -> Result<Recipe> {
        Recipe::from_source_with(source, &Registry::standard())
    }

    /// As [`from_source`](Recipe::from_source), with the algorithms of a registry.
    ///
    /// # Errors
    /// As for [`Recipe::from_text`].
    pub fn from_source_with(source: &str, registry: &Registry) -> Result<Recipe> {
        AnyRecipe::from_entries(&Entries::saved(source)?, registry)?.stepping()
    }

    /// As [`from_text`](Recipe::from_text), with the algorithms of a registry.
    ///
    /// # Errors
    /// As for [`Recipe::from_text`].
    pub fn from_text_with(text: &str, registry: &Registry) -> Result<Recipe> {
        AnyRecipe::from_text_with(text, registry)?.stepping()
    }

    /// Reads a `.py`, `.json`, `.toml` or `.yaml` file.
    ///
    /// # Errors
    /// As for [`Recipe::from_text`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Recipe> {
        Recipe::from_file_with(path, &Registry::standard())
    }

    /// As [`from_file`](Recipe::from_file), with the algorithms of a registry.
    ///
    /// # Errors
    /// As for [`Recipe::from_text`].
    pub fn from_file_with(path: impl AsRef<Path>, registry: &Registry) -> Result<Recipe> {
        AnyRecipe::from_file_with(path, registry)?.stepping()
    }

    /// Returns what was read, as one Python literal: everything that was needed, bases and names resolved. Reads back
    /// to the same recipe, with the same registry.
    pub fn to_source(&self) -> String {
        self.context.source.to_string()
    }

    /// Returns the algorithm with its hyperparameters: of the parameters that no rule of `paramwise_cfg` decides for.
    pub fn algorithm(&self) -> &dyn AnyAlgorithm {
        &*self.algorithm
    }

    /// Returns how a state of a parameter with so many elements is stored, computed in `f32`.
    pub fn state_format(&self, state: &str, elements: usize) -> Format {
        self.storing.state_format(&*self.algorithm, state, elements)
    }

    /// Returns whether there is a schedule.
    pub fn is_scheduled(&self) -> bool {
        !self.context.chain.is_empty()
    }

    /// Returns what is worth knowing about the configuration: what it may have been thought to do, and does not.
    pub fn warnings(&self) -> &[String] {
        &self.context.warnings
    }

    /// Returns the keys at the top that were read, and those that were ignored.
    pub fn keys(&self) -> (&[String], &[String]) {
        (&self.context.read, &self.context.ignored)
    }

    /// Returns the average of the weights that an `EMAHook` of `custom_hooks` asks for. The trainer's to keep:
    /// [`Driver::averaged`].
    pub fn average(&self) -> Option<Average> {
        self.context.average
    }

    /// Returns how long the configuration says that training is (`train.epochs`, or MMEngine's `train_cfg`), in
    /// epochs of so many iterations.
    pub fn length(&self, epoch_length: u64) -> Length {
        Length { epoch: epoch_length, ..self.context.length }
    }

    /// Returns the entries of `param_scheduler`.
    pub fn chain(&self) -> &Chain {
        &self.context.chain
    }

    /// Returns the same with a schedule over `factor` times as many steps.
    pub fn stretched(mut self, factor: f64) -> Recipe {
        self.context.chain = self.context.chain.stretched(factor);
        self
    }

    /// Builds the optimizer on a backend, with the groups of `paramwise_cfg` and the gradient pipeline of the
    /// wrapper.
    ///
    /// Its first step fails where a key of `custom_keys` matches none of the parameters that are bound, unless that
    /// is [allowed](Recipe::allow_unmatched).
    pub fn optimizer(&self, backend: Arc<dyn Backend>) -> Driver {
        let mut driver = Driver::new(backend, self.algorithm.boxed()).with_gradients(self.wrapper.clone());
        let stored = self.storing.apply(&mut driver, 0);
        let added = stored.map_err(|error| error.to_string()).and_then(|()| match &self.paramwise {
            Some(paramwise) => {
                paramwise.add_to(&mut driver, self.allow_unmatched).map_err(|error| error.to_string())
            }
            None => Ok(()),
        });
        if let Err(error) = added {
            unreachable!("formats and groups were checked when the recipe was read: {error}");
        }
        driver
    }

    /// Lets keys of `paramwise_cfg.custom_keys` match no parameter.
    pub fn allow_unmatched(mut self, allow: bool) -> Recipe {
        self.allow_unmatched = allow;
        self
    }

    /// Returns whether keys of `paramwise_cfg.custom_keys` may match no parameter.
    pub fn allows_unmatched(&self) -> bool {
        self.allow_unmatched
    }

    /// Returns the keys of `paramwise_cfg.custom_keys` that match none of these names, with their positions.
    pub fn unmatched<'n>(&self, names: impl Iterator<Item = &'n str> + Clone) -> Vec<String> {
        self.unmatched_at(names).into_iter().map(|(rule, _)| rule).collect()
    }

    /// As [`unmatched`](Recipe::unmatched), with the positions apart.
    pub fn unmatched_at<'n>(&self, names: impl Iterator<Item = &'n str> + Clone) -> Vec<(String, Position)> {
        self.paramwise.as_ref().map_or(Vec::new(), |paramwise| paramwise.unmatched(names))
    }

    /// Returns the rule that puts parameters into a group of [`optimizer`](Recipe::optimizer), in a human-readable
    /// form.
    pub fn rule_of(&self, group: usize) -> String {
        self.paramwise.as_ref().map_or(paramwise::BASE.into(), |paramwise| paramwise.rule_of(group))
    }

    /// Returns the gradient pipeline: accumulation, clipping, loss scaling.
    pub fn gradient_config(&self) -> &GradientConfig {
        &self.wrapper
    }

    /// Returns the schedule, which sets the optimizer's first values. `epoch_length` is the number of iterations in
    /// an epoch, for entries with `convert_to_iter_based`. An entry that does not say where it ends does so with
    /// [training](Recipe::length), as in MMEngine's `Runner`. Where the length of training is not known, the entry
    /// has no end ([`Chain::without_end`]).
    ///
    /// # Errors
    /// When an entry is wrong, or the optimizer has not what it schedules.
    pub fn schedule<S: Scheduled + ?Sized>(&self, epoch_length: u64, optimizer: &mut S) -> Result<Schedule> {
        self.schedule_over(self.length(epoch_length), optimizer)
    }

    /// As [`schedule`](Recipe::schedule), for training of another length than the configuration says.
    ///
    /// # Errors
    /// As [`schedule`](Recipe::schedule).
    pub fn schedule_over<S: Scheduled + ?Sized>(
        &self,
        length: Length,
        optimizer: &mut S,
    ) -> Result<Schedule> {
        self.context.chain.schedule(length, optimizer)
    }

    /// Returns the optimizer's configuration as a Python literal, from which the same optimizer is built, with the
    /// same registry.
    pub fn to_text(&self) -> String {
        let algorithm = &*self.algorithm;
        let around = modifiers::to_text(algorithm);
        let get = |name: &str| algorithm.get(name).filter(|_| !modifiers::is_of_wrap(algorithm, name));
        to_text(algorithm.name(), algorithm.table(), get, &around, &self.storing)
    }
}

/// What a configuration asks for, whatever kind of optimizer that is.
///
/// ```
/// use fallline_registry::AnyRecipe;
/// let recipe = AnyRecipe::from_text("dict(type='LBFGS', history_size=10)")?;
/// assert!(matches!(recipe, AnyRecipe::Search(_)));
/// # Ok::<(), fallline_registry::Error>(())
/// ```
#[derive(Debug)]
pub enum AnyRecipe {
    /// Steps on gradients.
    Stepping(Recipe),
    /// Evaluates the loss itself.
    Search(SearchRecipe),
}

impl AnyRecipe {
    /// As [`Recipe::from_text`].
    ///
    /// # Errors
    /// As for [`Recipe::from_text`].
    pub fn from_text(text: &str) -> Result<AnyRecipe> {
        AnyRecipe::from_text_with(text, &Registry::standard())
    }

    /// As [`Recipe::from_text_with`].
    ///
    /// # Errors
    /// As for [`Recipe::from_text`].
    pub fn from_text_with(text: &str, registry: &Registry) -> Result<AnyRecipe> {
        AnyRecipe::from_entries(&Entries::inline(text)?, registry)
    }

    /// As [`Recipe::from_file`].
    ///
    /// # Errors
    /// As for [`Recipe::from_text`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<AnyRecipe> {
        AnyRecipe::from_file_with(path, &Registry::standard())
    }

    /// As [`Recipe::from_file_with`].
    ///
    /// # Errors
    /// As for [`Recipe::from_text`].
    pub fn from_file_with(path: impl AsRef<Path>, registry: &Registry) -> Result<AnyRecipe> {
        AnyRecipe::from_entries(&config::load(path)?, registry)
    }

    /// Reads entries.
    ///
    /// # Errors
    /// As for [`Recipe::from_text`].
    pub fn from_entries(entries: &Entries, registry: &Registry) -> Result<AnyRecipe> {
        let whole = whole(entries)?;
        let train = entries.get_present("train")?.filter(|_| whole.is_none()).cloned();
        AnyRecipe::of(Contents::read(entries, whole.as_ref())?, train, registry)
    }

    fn of(contents: Contents<'_>, train: Option<Node>, registry: &Registry) -> Result<AnyRecipe> {
        let Contents { wrapped: Wrapped { optimizer, paramwise, wrapper }, context } = contents;
        match method(optimizer, registry)? {
            Method::Algorithm(algorithm) => {
                let paramwise = paramwise
                    .map(|node| Paramwise::read(node, (optimizer, &*algorithm), registry))
                    .transpose()?;
                let storing = StorageOptions::read(optimizer, Of::Algorithm(&*algorithm))?;
                let allow_unmatched = false;
                Ok(AnyRecipe::Stepping(Recipe {
                    algorithm,
                    storing,
                    paramwise,
                    wrapper,
                    allow_unmatched,
                    train,
                    context,
                }))
            }
            Method::Search(search) => {
                if let Some(node) = paramwise {
                    return Err(paramwise::of_search(&node.at));
                }
                if wrapper != GradientConfig::default() {
                    let problem = "accumulation, clipping and loss scales do not go with a search".into();
                    return Err(fallline_optim::Error::Groups { algorithm: search.name(), problem }.into());
                }
                let storing = StorageOptions::read(optimizer, Of::Search(&search))?;
                Ok(AnyRecipe::Search(SearchRecipe { search, storing, train, context }))
            }
        }
    }

    /// Returns the recipe of an optimizer that steps on gradients.
    ///
    /// # Errors
    /// [`NeedsObjective`](fallline_optim::Error::NeedsObjective) for a search.
    pub fn stepping(self) -> Result<Recipe> {
        match self {
            AnyRecipe::Stepping(recipe) => Ok(recipe),
            AnyRecipe::Search(SearchRecipe { search, .. }) => {
                Err(fallline_optim::Error::NeedsObjective { algorithm: search.name() }.into())
            }
        }
    }

    fn context(&self) -> &Context {
        match self {
            AnyRecipe::Stepping(recipe) => &recipe.context,
            AnyRecipe::Search(recipe) => &recipe.context,
        }
    }

    /// As [`Recipe::warnings`].
    pub fn warnings(&self) -> &[String] {
        &self.context().warnings
    }

    /// As [`Recipe::keys`].
    pub fn keys(&self) -> (&[String], &[String]) {
        (&self.context().read, &self.context().ignored)
    }

    /// Returns the bytes of state for each element of a large parameter in `f32`: the sum and its formula. There is
    /// no sum where it depends on the parameter's shape. Rules of `paramwise_cfg` are not counted.
    pub fn state_bytes(&self) -> (Option<f64>, String) {
        let storing = match self {
            AnyRecipe::Stepping(recipe) => &recipe.storing,
            AnyRecipe::Search(recipe) => &recipe.storing,
        };
        let parts = state_parts::parts(&self.method(), storing);
        (state_parts::bytes(&parts), state_parts::formula(&parts))
    }

    /// As [`Recipe::length`].
    pub fn length(&self, epoch_length: u64) -> Length {
        Length { epoch: epoch_length, ..self.context().length }
    }

    /// As [`Recipe::chain`].
    pub fn chain(&self) -> &Chain {
        &self.context().chain
    }

    /// Returns the method that the name in the configuration means, with its hyperparameters.
    pub fn method(&self) -> Method {
        match self {
            AnyRecipe::Stepping(recipe) => Method::from(recipe.algorithm()),
            AnyRecipe::Search(recipe) => Method::Search(recipe.search.clone()),
        }
    }

    /// Returns the optimizer, on a backend.
    pub fn optimizer(&self, backend: Arc<dyn Backend>) -> Box<dyn Optimizer> {
        match self {
            AnyRecipe::Stepping(recipe) => Box::new(recipe.optimizer(backend)),
            AnyRecipe::Search(recipe) => Box::new(recipe.optimizer(backend)),
        }
    }

    /// As [`Recipe::schedule`].
    ///
    /// # Errors
    /// As [`Recipe::schedule`].
    pub fn schedule<S: Scheduled + ?Sized>(&self, epoch_length: u64, optimizer: &mut S) -> Result<Schedule> {
        self.schedule_over(self.length(epoch_length), optimizer)
    }

    /// As [`Recipe::schedule_over`].
    ///
    /// # Errors
    /// As [`Recipe::schedule`].
    pub fn schedule_over<S: Scheduled + ?Sized>(
        &self,
        length: Length,
        optimizer: &mut S,
    ) -> Result<Schedule> {
        self.context().chain.schedule(length, optimizer)
    }

    /// As [`Recipe::allow_unmatched`]; a search has no rules that could match nothing.
    pub fn allow_unmatched(self, allow: bool) -> AnyRecipe {
        match self {
            AnyRecipe::Stepping(recipe) => AnyRecipe::Stepping(recipe.allow_unmatched(allow)),
            search => search,
        }
    }
}
