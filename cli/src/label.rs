//! What a picture or a table calls an optimizer or a schedule.

use crate::numbers::{DIGITS, short};
use fallline::AnyRecipe;
use fallline::optim::Method;
use fallline::optim::hyper::{Hyper, Value};
use fallline::registry::config::{Node, Value as Literal, parse_inline};

/// A name, and the settings that are not the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub name: String,
    /// `lr=0.001, weight_decay=0.1`; may be empty.
    pub settings: String,
}

impl Label {
    /// Returns what a recipe's optimizer is called: its name, the learning rate, and what was set to something else than
    /// the default.
    pub fn of_recipe(recipe: &AnyRecipe) -> Label {
        Label::of_method(&recipe.method())
    }

    /// As [`of_recipe`](Label::of_recipe), of a method.
    pub fn of_method(method: &Method) -> Label {
        // What follows from another setting says nothing new.
        let set = |hyper: &&Hyper| hyper.counts && !hyper.kept && hyper.name != "initial_lr";
        let settings = method.table().iter().filter(set).filter_map(|hyper| {
            let value = method.get(hyper.name)?;
            let told = hyper.name == "lr" || value != (hyper.default)();
            told.then(|| format!("{}={}", hyper.name, setting(&value)))
        });
        let settings = settings.collect::<Vec<_>>().join(", ");
        Label { name: method.name().to_owned(), settings }
    }

    /// Returns what the schedulers of an inline text are called.
    pub fn of_schedulers(text: &str) -> Label {
        let Ok(node) = parse_inline(text) else {
            return Label { name: text.to_owned(), settings: String::new() };
        };
        let inner = node.value.as_dict().and_then(|dict| dict.get("param_scheduler"));
        let node = inner.unwrap_or(&node);
        match &node.value {
            Literal::List(entries) => {
                let labels: Vec<Label> = entries.iter().map(entry).collect();
                let names: Vec<&str> = labels.iter().map(|label| label.name.as_str()).collect();
                let each = |label: &Label| match label.settings.is_empty() {
                    true => label.name.clone(),
                    false => format!("{}: {}", label.name, label.settings),
                };
                let settings = labels.iter().map(each).collect::<Vec<_>>().join("; ");
                Label { name: names.join(" + "), settings }
            }
            _ => entry(node),
        }
    }
}

/// Returns what one scheduler is called.
fn entry(node: &Node) -> Label {
    let Some(dict) = node.value.as_dict() else {
        let name = node.value.as_str().map_or_else(|| node.value.to_string(), str::to_owned);
        return Label { name, settings: String::new() };
    };
    let name = dict.get("type").and_then(|node| node.value.as_str()).unwrap_or("schedule").to_owned();
    let others = dict.iter().filter(|(key, _)| *key != "type");
    let settings = others.map(|(key, node)| format!("{key}={}", literal(&node.value)));
    Label { name, settings: settings.collect::<Vec<_>>().join(", ") }
}

/// Returns a setting of a scheduler, with numbers kept short.
fn literal(value: &Literal) -> String {
    match value {
        Literal::Float(number) => short(*number, DIGITS),
        other => other.to_string(),
    }
}

/// Returns a setting of an optimizer, with numbers kept short.
fn setting(value: &Value) -> String {
    match value {
        Value::Float(number) => short(*number, DIGITS),
        Value::List(values) => {
            format!("({})", values.iter().map(setting).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optimizers_are_named_with_what_was_set() {
        let label = |text: &str| Label::of_recipe(&AnyRecipe::from_text(text).unwrap());
        let adam = label("dict(type='AdamW', betas=(0.9, 0.95), lr=1.5e-4, weight_decay=0.01)");
        assert_eq!((adam.name.as_str(), adam.settings.as_str()), ("AdamW", "lr=1.5e-4, betas=(0.9, 0.95)"));
        assert_eq!(label("SGD").settings, "lr=0.001");
        assert_eq!(label("dict(type='Lion', lr=0.01)").settings, "lr=0.01");
        assert!(label("dict(type='LBFGS', line_search_fn='strong_wolfe')").settings.contains("strong_wolfe"));
    }

    #[test]
    fn schedules_are_named_by_their_entries() {
        let label = Label::of_schedulers("dict(type='StepLR', step_size=3, gamma=0.5)");
        assert_eq!((label.name.as_str(), label.settings.as_str()), ("StepLR", "step_size=3, gamma=0.5"));
        let label = Label::of_schedulers("[dict(type='LinearLR', end=5), dict(type='PolyLR')]");
        assert_eq!(label.name, "LinearLR + PolyLR");
        assert_eq!(label.settings, "LinearLR: end=5; PolyLR");
        assert_eq!(Label::of_schedulers("PolyLR").name, "PolyLR");
    }
}
