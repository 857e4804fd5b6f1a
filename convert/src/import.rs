//! From a source's state to a checkpoint.

mod groups;
pub(crate) mod param;
mod states;

pub use param::ImportOptions;

use crate::layout::{self, Steps};
use crate::report::Report;
use crate::value::{Key, Value, count};
use crate::{Error, Result, deepspeed, lbfgs, locate};
use fallline_core::{Compute, Shape};
use fallline_optim::checkpoint::{Entry, OptimizerManifest};
use fallline_optim::{Checkpoint, Method};
use param::Param;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Turns the state of an optimizer of torch's kind into a checkpoint. `base` is what it is a state of, with the hyperparameters
/// that the file does not have; those that it has are taken from it.
///
/// # Errors
/// What is missing, does not fit or cannot be imported, with the path to it.
pub fn from_torch(root: &Value<'_>, base: &Method, options: &ImportOptions) -> Result<(Checkpoint, Report)> {
    let layout = layout::of(base.name())?;
    if deepspeed::is_shard(root) {
        let problem = "it is a shard of DeepSpeed's ZeRO, which has a part of each parameter: the shards are joined first";
        return Err(Error::value("the file", problem));
    }
    let found = locate::optimizer(root, options.key.as_deref())?;
    let (at, optimizer) = (found.at.as_str(), found.optimizer);
    let prefix = if at.is_empty() { String::new() } else { format!("{at}.") };
    let weights = locate::weights_beside(&found);
    let left_out = locate::others(&found, weights.as_ref().map(|(key, _)| key.as_str()));
    let mut report = Report { left_out, opaque: root.opaque_values(), ..Report::default() };
    let in_model: Vec<String> =
        weights.iter().flat_map(|(_, tensors)| tensors).map(|(name, _)| name.to_string()).collect();
    let weights = weights.map(|(key, tensors)| {
        (key, tensors.into_iter().map(|(name, value)| (options.renamed(&name), value)).collect::<Vec<_>>())
    });

    let none = Value::None;
    let list = optimizer.get("param_groups").unwrap_or(&none).as_items(&format!("{prefix}param_groups"))?;
    let mut read = groups::Groups { layout, base, options, report: &mut report };
    let mut methods = Vec::new();
    let mut ids = Vec::new();
    for (g, group) in list.iter().enumerate() {
        let at = format!("{prefix}param_groups[{g}]");
        let (method, own) = read.group(&at, group)?;
        methods.push(method);
        ids.push(own);
    }
    let Some(first) = list.first() else {
        return Err(Error::value(format!("{prefix}param_groups"), "it is empty"));
    };
    // Its state would be imported as often.
    let mut seen = HashSet::new();
    if let Some(id) = ids.iter().flatten().find(|id| !seen.insert(*id)) {
        return Err(Error::value(format!("{prefix}param_groups"), format!("parameter {id} is in it twice")));
    }
    options.check_rename(source_names(&ids, list, in_model, options))?;
    let params = names(&ids, list, weights.as_ref().map(|(_, tensors)| &tensors[..]), options, read.report)?;

    let mut checkpoint = Checkpoint::default();
    let mut manifest = OptimizerManifest::new(base.name());
    checkpoint.manifest.set_mode(read.mode(first));
    let places = merge(&ids, &methods, &mut manifest);
    let shared = base.algorithm().map_or(&[][..], |algorithm| algorithm.spec().shared);
    for name in shared.iter().map(|(name, _)| *name) {
        let value = read.shared(&format!("{prefix}param_groups[0]"), first, name)?;
        manifest.insert_shared(name, value);
    }

    let state_at = format!("{prefix}state");
    let states = optimizer.get("state").unwrap_or(&none).as_dict(&state_at)?;
    let by_id: HashMap<&Key, &Value<'_>> = states.iter().map(|(key, value)| (key, value)).collect();
    let known: HashSet<&Key> = params.iter().map(|param| &param.id).collect();
    for (key, _) in states.iter().filter(|(key, _)| !known.contains(key)) {
        let way = format!("{state_at}.{key}");
        match options.lenient {
            true => report.left_out.push(way),
            false => return Err(Error::value(way, "no group has this parameter")),
        }
    }
    if let Method::Search(_) = base
        && let Some(state) = params.first().and_then(|param| by_id.get(&param.id))
    {
        let at = format!("{state_at}.{}", params[0].id);
        lbfgs::import(&at, state, &params, &mut checkpoint, &mut manifest, &mut report)?;
    }
    for param in &params {
        // A search has one state of all parameters, which is read above.
        let Method::Algorithm(algorithm) = &methods[param.group] else { continue };
        let at = format!("{state_at}.{}", param.id);
        let algorithm = &**algorithm;
        let found = by_id.get(&param.id).copied();
        // FusedAdam and others count in the group.
        let step = list[param.group].get("step");
        let mut reader = states::Reader {
            layout,
            algorithm,
            options,
            at: &at,
            name: &param.name,
            step,
            coded: Vec::new(),
        };
        let taken = match reader.read(found, param.shape.as_deref(), &mut checkpoint, &mut report) {
            Err(error) if options.lenient => {
                report.left_out.push(at.clone());
                report.warnings.push(format!("{:?} starts anew: {error}", param.name));
                reader.coded.clear();
                param.shape.as_deref().map(|shape| (Shape::from(shape), Compute::F32, None))
            }
            read => read?,
        };
        let Some((shape, compute, stepped)) = taken else { continue };
        let steps = match (layout.steps, stepped) {
            (_, None) => 0,
            (Steps::Group, Some(_)) => {
                count(&format!("{prefix}param_groups[{}].k", param.group), list[param.group].get("k"))?
            }
            (_, Some(steps)) => steps,
        };
        checkpoint.insert_steps(&param.name, steps);
        manifest.insert_param(&param.name, &shape, places[param.group], compute);
        for (state, format) in reader.coded {
            manifest.insert_format(&param.name, state, format);
        }
    }
    add_weights(&mut checkpoint, weights, &params, options, &mut report)?;
    let order: Vec<Vec<&str>> = (0..ids.len())
        .map(|group| {
            params.iter().filter(|param| param.group == group).map(|param| param.name.as_str()).collect()
        })
        .collect();
    checkpoint.manifest.origin = Some(serde_json::json!({ "groups": order }));
    checkpoint.manifest.trainer = progress(root);
    checkpoint.manifest.optimizer = Some(manifest);
    Ok((checkpoint, report))
}

/// Groups of one parameter each, as MMEngine makes them, become one where they have the same hyperparameters. Returns
/// the place of each.
fn merge(ids: &[Vec<Key>], methods: &[Method], manifest: &mut OptimizerManifest) -> Vec<usize> {
    let ones = ids.iter().all(|own| own.len() == 1) && ids.len() > 1;
    let mut texts: HashMap<String, usize> = HashMap::new();
    let mut places = Vec::new();
    for (group, method) in methods.iter().enumerate() {
        let key = if ones { format!("{method:?}") } else { group.to_string() };
        let next = texts.len();
        let place = *texts.entry(key).or_insert(next);
        if place == next {
            manifest.push_values(method.name(), method.table(), |name| method.get(name));
        }
        places.push(place);
    }
    places
}

type Tensors<'v, 'a> = [(String, &'v Value<'a>)];

/// Gives every parameter its name.
fn names(
    ids: &[Vec<Key>],
    groups: &[Value<'_>],
    weights: Option<&Tensors<'_, '_>>,
    options: &ImportOptions,
    report: &mut Report,
) -> Result<Vec<Param>> {
    let count: usize = ids.iter().map(Vec::len).sum();
    let shape = |value: &Value<'_>| match value {
        Value::Tensor(tensor) => Some(tensor.shape().to_vec()),
        _ => None,
    };
    let of_weights =
        |name: &str| weights?.iter().find(|(known, _)| known == name).and_then(|(_, v)| shape(v));
    let own: Vec<Option<&[Value<'_>]>> =
        groups.iter().map(|group| group.get("param_names")?.as_items("").ok()).collect();
    // FSDP and DeepSpeed's shards, joined, have names where others have numbers.
    let by_name: Option<Vec<String>> = ids
        .iter()
        .flatten()
        .map(|id| match id {
            Key::Str(name) => Some(options.renamed(name)),
            _ => None,
        })
        .collect();
    let given = options.names.as_ref().map(|given| {
        given.iter().map(|(name, shape)| (options.renamed(name), shape.clone())).collect::<Vec<_>>()
    });
    let named: Vec<(String, Option<Vec<usize>>)> = if let Some(names) = by_name {
        let shape = |name: &str| given.as_ref()?.iter().find(|(known, _)| known == name)?.1.clone();
        if let Some((name, _)) = given.iter().flatten().find(|(name, _)| !names.contains(name)) {
            let hint = prefix_hint(name, names.iter().map(String::as_str));
            return Err(Error::Names(format!("the optimizer has no parameter {name:?}{hint}")));
        }
        names.into_iter().map(|name| (name.clone(), shape(&name))).collect()
    } else if let Some(given) = given {
        given
    } else if own.iter().all(Option::is_some) {
        let texts = own.into_iter().flatten().flatten().filter_map(|name| match name {
            Value::Str(text) => Some((options.renamed(text), None)),
            _ => None,
        });
        texts.collect()
    } else if options.number {
        (0..count).map(|i| (i.to_string(), None)).collect()
    } else if let Some(weights) = weights {
        // The model's order is the optimizer's where no group gathers some of several.
        let one_each = ids.iter().all(|own| own.len() == 1);
        if ids.len() > 1 && !one_each {
            return Err(Error::Names(
                "its groups may have another order than the model: give the parameters' names in the order of the \
                 optimizer, group by group"
                    .into(),
            ));
        }
        weights.iter().map(|(name, value)| (name.clone(), shape(value))).collect()
    } else {
        return Err(Error::Names(
            "it has no names of parameters: give them in the order of the optimizer, or let them be numbered"
                .into(),
        ));
    };
    if named.len() != count {
        let (got, what) =
            (named.len(), if options.names.is_some() { "were given" } else { "are in the file" });
        return Err(Error::Names(format!(
            "the optimizer has {count} parameters, but {got} names {what}: give those of the optimizer, in its order"
        )));
    }
    let mut seen = BTreeSet::new();
    if let Some((name, _)) = named.iter().find(|(name, _)| !seen.insert(name.as_str()) || name.is_empty()) {
        let renamed = if options.rename.is_empty() { "" } else { " once names are renamed" };
        return Err(Error::Names(format!("the name {name:?} is given twice, or empty{renamed}")));
    }
    if let (Some(_), Some(tensors)) = (&options.names, weights) {
        let unknown: Vec<&str> =
            named.iter().map(|(name, _)| name.as_str()).filter(|name| of_weights(name).is_none()).collect();
        if let Some(name) = unknown.first() {
            let hint = prefix_hint(name, tensors.iter().map(|(name, _)| name.as_str()));
            let count = unknown.len();
            let problem = format!(
                "{count} of the names given, {name:?} first, {} no tensor of the model in the file{hint}",
                if count == 1 { "is" } else { "are" }
            );
            // Who has names of their own has none of the model's.
            let own = count == named.len() && hint.is_empty();
            match own || options.lenient {
                true => report.warnings.push(problem),
                false => return Err(Error::Names(problem)),
            }
        }
    }
    let places =
        ids.iter().enumerate().flat_map(|(group, own)| own.iter().map(move |id| (group, id.clone())));
    let mut params = Vec::new();
    for ((group, id), (name, shape)) in places.zip(named) {
        let of_weights = of_weights(&name);
        if let (Some(given), Some(has)) = (&shape, &of_weights)
            && given != has
        {
            return Err(Error::Names(format!(
                "{name:?} is given as {given:?}, but the model in the file has it as {has:?}"
            )));
        }
        params.push(Param { id, group, name, shape: shape.or(of_weights) });
    }
    Ok(params)
}

/// Returns all names that a rule may rename: of the model, of the optimizer, and those given.
fn source_names(
    ids: &[Vec<Key>],
    groups: &[Value<'_>],
    in_model: Vec<String>,
    options: &ImportOptions,
) -> Vec<String> {
    let mut names = in_model;
    names.extend(ids.iter().flatten().filter_map(|id| match id {
        Key::Str(name) => Some(name.to_string()),
        _ => None,
    }));
    let own = groups.iter().filter_map(|group| group.get("param_names")?.as_items("").ok()).flatten();
    names.extend(own.filter_map(|name| match name {
        Value::Str(text) => Some(text.to_string()),
        _ => None,
    }));
    names.extend(options.names.iter().flatten().map(|(name, _)| name.clone()));
    names
}

/// Returns a hint where a name differs from another by a prefix only.
fn prefix_hint<'n>(name: &str, mut others: impl Iterator<Item = &'n str>) -> String {
    let beginning = |long: &str, short: &str| {
        let rest = long.strip_suffix(short)?;
        rest.ends_with('.').then(|| rest.to_owned())
    };
    let hint = others.find_map(|other| {
        let before = beginning(other, name).map(|prefix| format!("{prefix}="));
        let rule = before.or_else(|| beginning(name, other).map(|prefix| format!("{prefix}=")))?;
        Some(format!(" (it has {other:?}: rename {rule})"))
    });
    hint.unwrap_or_default()
}

/// Imports the values of the optimizer's parameters.
fn add_weights(
    checkpoint: &mut Checkpoint,
    weights: Option<(String, Vec<(String, &Value<'_>)>)>,
    params: &[Param],
    options: &ImportOptions,
    report: &mut Report,
) -> Result<()> {
    let Some((key, tensors)) = weights else { return Ok(()) };
    let wanted: BTreeSet<&str> = params.iter().map(|param| param.name.as_str()).collect();
    for (name, value) in tensors.iter().filter(|(name, _)| wanted.contains(name.as_str())) {
        let Value::Tensor(tensor) = value else { continue };
        let way = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
        let format = match tensor.float(&way) {
            Err(_) if options.lenient => {
                report.left_out.push(way);
                continue;
            }
            format => format?,
        };
        let shape = Shape::from(tensor.shape());
        checkpoint.insert_param(name, Entry { format, shape, bytes: tensor.to_bytes()? });
        report.weights += 1;
    }
    Ok(())
}

/// Returns how far the run was, where the file says so as MMEngine does.
fn progress(root: &Value<'_>) -> Option<serde_json::Value> {
    let whole = |key: &str| match root.get("meta")?.get(key)? {
        Value::Int(x) => Some(*x),
        _ => None,
    };
    let (epoch, iter) = (whole("epoch")?, whole("iter")?);
    Some(serde_json::json!({ "epoch": epoch, "iter": iter }))
}
