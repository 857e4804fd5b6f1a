//! Configurations from the command line, and changes of them.

use crate::common::warn;
use crate::error::{Error, Result, Text};
use crate::registry::registry;
use fallline::registry::config::{Change, Entries, load};
use fallline::registry::{change, replace_optimizer};
use fallline::{AnyRecipe, Recipe};
use std::path::{Path, PathBuf};

/// Where an optimizer's configuration comes from.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("configuration").required(true).args(["optimizer", "config"])))]
pub struct Source {
    /// A configuration inline: `AdamW` or `dict(type="AdamW", lr=1e-4)`
    #[arg(long, value_name = "TEXT")]
    pub optimizer: Option<String>,
    /// A configuration file: .py, .json, .toml or .yaml
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub changes: Changes,
    /// Warn instead of failing if a rule in paramwise_cfg matches no parameter
    #[arg(long)]
    pub allow_unmatched: bool,
}

impl Source {
    /// Reads it, for an optimizer that steps on gradients.
    pub fn recipe(&self) -> Result<Recipe> {
        stepping(self.any_recipe()?).map_err(|error| self.located(error))
    }

    /// Reads it, for any optimizer.
    pub fn any_recipe(&self) -> Result<AnyRecipe> {
        let recipe = self.read().map_err(|error| self.located(error))?;
        recipe.warnings().iter().for_each(|warning| warn(warning));
        self.changes.warn_unread(recipe.keys().1);
        Ok(recipe.allow_unmatched(self.allow_unmatched))
    }

    fn read(&self) -> Result<AnyRecipe> {
        let mut entries = match (&self.optimizer, &self.config) {
            (Some(text), _) => Entries::inline(text).map_err(fallline::registry::Error::from)?,
            (None, Some(path)) => load(path).map_err(fallline::registry::Error::from)?,
            (None, None) => return Err(Error::Usage("pass --optimizer TEXT or --config FILE".into())),
        };
        self.changes.apply(&mut entries)?;
        Ok(AnyRecipe::from_entries(&entries, registry())?)
    }

    /// Adds the texts that positions of an error may be in.
    pub fn located(&self, error: impl Into<Error>) -> Error {
        let inline = self.optimizer.iter().map(|text| Text::inline("--optimizer", text));
        error.into().within(inline.chain(self.changes.texts()).collect())
    }
}

/// Changes of a configuration.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Changes {
    /// Set a value of the configuration: optim_wrapper.optimizer.lr=1e-3, param_scheduler.0.end=5 (repeatable)
    ///
    /// The path has keys and indices of lists, separated by dots. The value is a Python literal, or a word without
    /// quotes. A dict merges into a dict, unless `_delete_=True` is in it.
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
}

impl Changes {
    /// Applies them, one after the other.
    pub fn apply(&self, entries: &mut Entries) -> Result<()> {
        for text in &self.set {
            let parsed = Change::parse(text, &name_of(text)).map_err(fallline::registry::Error::from);
            change(entries, &parsed?)?;
        }
        Ok(())
    }

    /// Warns of changes of keys that are ignored.
    pub fn warn_unread(&self, ignored: &[String]) {
        for text in &self.set {
            let key = text.split(['.', '=']).next().unwrap_or_default().trim();
            if ignored.iter().any(|ignored| ignored == key) {
                warn(&format!("{}: changes nothing, as `{key}` is not read", name_of(text)));
            }
        }
    }

    /// Returns the texts that positions of an error may be in.
    pub fn texts(&self) -> impl Iterator<Item = Text> + '_ {
        // Of two changes of one path the last one holds.
        self.set.iter().rev().map(|text| Text {
            name: Some(name_of(text)),
            shown: "--set".into(),
            text: text.clone(),
        })
    }
}

/// Returns what positions in a change have as their file.
fn name_of(text: &str) -> String {
    format!("--set {}", text.split('=').next().unwrap_or_default().trim())
}

/// Reads the configuration that an argument has inline.
pub fn inline(argument: &str, text: &str) -> Result<AnyRecipe> {
    AnyRecipe::from_text_with(text, registry())
        .map_err(|error| Error::from(error).within(vec![Text::inline(argument, text)]))
}

/// Returns an optimizer that steps on gradients, or says which command takes another.
fn stepping(recipe: AnyRecipe) -> Result<Recipe> {
    use fallline::optim::Error::NeedsObjective;
    recipe.stepping().map_err(|error| match Error::from(error) {
        Error::Config(fallline::registry::Error::Optim(NeedsObjective { algorithm })) => Error::Usage(format!(
            "{algorithm} evaluates the loss itself, where this command has gradients: `fallline minimize` takes it"
        )),
        other => other,
    })
}

/// Reads the configuration of `train`: a file, or the text of a default, with another optimizer and other values.
pub fn trained(
    file: Option<&Path>,
    default: &str,
    optimizer: Option<&str>,
    changes: &Changes,
) -> Result<Recipe> {
    let read = || {
        let mut entries = match file {
            Some(path) => load(path),
            None => Entries::inline(default),
        }
        .map_err(fallline::registry::Error::from)?;
        if let Some(text) = optimizer {
            replace_optimizer(&mut entries, text)?;
        }
        changes.apply(&mut entries)?;
        stepping(AnyRecipe::from_entries(&entries, registry())?)
    };
    let inline = optimizer.map(|text| Text::inline("--optimizer", text));
    read().map_err(|error: Error| error.within(inline.into_iter().chain(changes.texts()).collect()))
}
