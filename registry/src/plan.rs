//! What a schedule is computed from: schedulers, the length of training, and the numbers that they start from.

use crate::config::{self, Entries};
use crate::contents::{optimizer, whole};
use crate::error::{Error, Result};
use crate::hints;
use crate::length::Length;
use crate::method::method;
use crate::mmcv;
use crate::read::bare_name;
use crate::recipe::AnyRecipe;
use crate::registry::Registry;
use crate::schedulers::{Chain, is_name};
use crate::wrapper;
use fallline_cpu::Cpu;
use fallline_optim::schedule::{Numbers, Scheduled, Target};
use fallline_optim::{Driver, LineSearch, Method, Optimizer};
use std::path::Path;

/// The plan of a configuration's learning rate and other numbers.
///
/// A file may be a configuration, a scheduler or a list of them. Fallline does not read all of it: a constructor
/// that makes the groups, a custom optimizer. Where the plan does not depend on that, it is read around it, with a
/// warning.
///
/// ```
/// use fallline_registry::{Plan, config::parse_python};
/// let text = "optimizer = dict(type='SGD', lr=0.2)\n\
///             param_scheduler = dict(type='CosineAnnealingLR')\n\
///             train_cfg = dict(by_epoch=True, max_epochs=8)\n";
/// let plan = Plan::from_entries(&parse_python(text, "a.py")?)?;
/// assert_eq!(plan.length(100).epochs, Some(8));
/// assert_eq!(plan.numbers()["lr"], 0.2);
/// # Ok::<(), fallline_registry::Error>(())
/// ```
#[derive(Debug)]
pub struct Plan {
    chain: Chain,
    length: Length,
    numbers: Numbers,
    warnings: Vec<String>,
}

impl Plan {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error`] names the place, what was expected, and the nearest name that exists.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Plan> {
        Plan::from_entries(&config::load(path)?)
    }

    /// Reads entries.
    ///
    /// # Errors
    /// As [`from_file`](Plan::from_file).
    pub fn from_entries(entries: &Entries) -> Result<Plan> {
        Plan::from_entries_with(entries, &Registry::standard())
    }

    /// As [`from_entries`](Plan::from_entries), with the algorithms of a registry.
    ///
    /// # Errors
    /// As [`from_file`](Plan::from_file).
    pub fn from_entries_with(entries: &Entries, registry: &Registry) -> Result<Plan> {
        let mut plan = Plan {
            chain: Chain::default(),
            length: Length::new(1),
            numbers: Numbers::default(),
            warnings: Vec::new(),
        };
        if let Some(list) = entries.list()? {
            plan.chain = Chain::read(list)?;
            return Ok(plan);
        }
        let whole = whole(entries)?;
        let kind = whole.as_ref().and_then(|node| node.value.as_dict()?.get("type")?.value.as_str());
        if let (Some(node), true) = (&whole, kind.is_some_and(|kind| is_name(bare_name(kind)))) {
            plan.chain = Chain::read(node)?;
            return Ok(plan);
        }
        let has_optimizer =
            ["optim_wrapper", "optimizer", "type"].iter().any(|key| entries.key_at(key).is_some());
        if has_optimizer {
            plan.start(entries, registry)?;
        }
        if whole.is_none() {
            hints::check_top(entries)?;
            plan.chain = Chain::from_entries(entries)?;
            plan.length = match Length::from_entries(entries, 1) {
                Err(_) if !plan.chain.needs_length() => Length::new(1),
                read => read?,
            };
        }
        if plan.chain.is_empty() {
            if let Some(error) = mmcv::scheduled(entries) {
                return Err(error);
            }
            if !has_optimizer {
                let (at, what) = (entries.at().clone(), "there is nothing to schedule in it".to_owned());
                let hint = "it has neither a param_scheduler nor an optimizer".into();
                return Err(Error::Misplaced { at, what, hint });
            }
            plan.warnings
                .push(format!("{}: there is no param_scheduler: the values are constant", entries.at()));
        }
        if plan.length.epochs.is_none() && plan.length.iterations.is_some() && plan.chain.counts_epochs() {
            plan.warnings.push(format!(
                "{}: train_cfg counts iterations: MMEngine's runner ends no epoch before the run does, and leaves entries \
                 with by_epoch=True at their first values; here an epoch is --iters-per-epoch iterations",
                entries.at()
            ));
        }
        Ok(plan)
    }

    /// Returns the schedulers.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Returns how long training is, in epochs of so many iterations.
    pub fn length(&self, epoch: u64) -> Length {
        Length { epoch, ..self.length }
    }

    /// Returns the optimizer's numbers, without those that `paramwise_cfg` multiplies; none where there is no
    /// optimizer.
    pub fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// Returns what is worth knowing about the plan: what it was read around, and what it leaves out.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Takes the numbers of the optimizer.
    fn start(&mut self, entries: &Entries, registry: &Registry) -> Result<()> {
        let error = match AnyRecipe::from_entries(entries, registry) {
            Ok(recipe) => {
                self.numbers = numbers_of(&recipe.method());
                let whole = whole(entries)?;
                let (node, is_wrapper) = optimizer(entries, whole.as_ref())?;
                self.warnings.extend(wrapper::read_as(node).filter(|_| is_wrapper));
                return Ok(());
            }
            Err(error) => error,
        };
        // A constructor, a wrapper, an optimizer or groups of somebody's own: none of them changes a plan.
        let aside = match &error {
            Error::Unsupported { .. } => true,
            // MMEngine hands what it does not know to the groups.
            Error::UnknownKey { what, .. } => what == "paramwise_cfg" || what.starts_with("custom_keys["),
            // One that is called as one here, in other letters, is another one; one that is nearly called so is a slip.
            Error::UnknownName { what: "optimizer", name, nearest, .. } => {
                nearest.as_ref().is_none_or(|near| near.eq_ignore_ascii_case(name))
            }
            _ => false,
        };
        if !aside {
            return Err(error);
        }
        let whole = whole(entries)?;
        let (node, is_wrapper) = optimizer(entries, whole.as_ref())?;
        let inner = node.value.as_dict().and_then(|dict| dict.get("optimizer"));
        let Some(node) = (if is_wrapper { inner } else { Some(node) }) else { return Err(error) };
        self.numbers = match method(node, registry) {
            Ok(method) => numbers_of(&method),
            Err(_) => {
                let dict = node.value.as_dict();
                let numbers = dict.into_iter().flat_map(config::Dict::iter);
                let numbers = numbers.filter_map(|(key, node)| Some((key, node.value.as_float()?)));
                let mut numbers = Numbers::new(numbers);
                let betas = dict.and_then(|dict| dict.get("betas")?.value.as_list());
                if let Some(beta) = betas.and_then(|betas| betas.first()?.value.as_float())
                    && numbers.get("momentum").is_none()
                {
                    numbers.insert("momentum", beta);
                }
                numbers
            }
        };
        if self.numbers.get("lr").is_none() {
            return Err(error);
        }
        self.warnings.push(format!("{error}; the values are those of the optimizer's own numbers"));
        Ok(())
    }
}

/// Returns the numbers of an optimizer's first group.
fn numbers_of(method: &Method) -> Numbers {
    let backend = Cpu::scalar().shared();
    let optimizer: Box<dyn Optimizer> = match method.clone() {
        Method::Algorithm(algorithm) => Box::new(Driver::new(backend, algorithm)),
        Method::Search(search) => Box::new(LineSearch::new(backend, search)),
    };
    let mut numbers = Numbers::default();
    for hyper in method.table() {
        if let Some(value) = optimizer.get(0, hyper.name).and_then(|value| value.as_f64()) {
            numbers.insert(hyper.name, value);
        }
    }
    if let Ok(momentum) = optimizer.scheduled(0, &Target::Momentum) {
        numbers.insert("momentum", momentum);
    }
    numbers
}
