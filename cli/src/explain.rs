//! `fallline explain`: each parameter's optimizer and settings, and the rule that decided.

use crate::common::{bytes, print, print_json, table, unmatched};
use crate::error::{Error, Result};
use crate::escape::message;
use crate::source::Source;
use crate::train;
use fallline::core::Role;
use fallline::core::files::read_tensors;
use fallline::optim::{AnyAlgorithm, Lookahead, Modifiers, ModuleKind, ParamInfo, ParamPrecision};
use fallline::registry::paramwise;
use fallline::{AnyRecipe, Cpu, Format, SearchRecipe, Shape};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: fallline explain --config configs/digits.py --params runs/first/checkpoint.safetensors"
)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// The parameters: a safetensors file (names and shapes; of a checkpoint its param/<name>), or JSON
    /// {name: {"shape": [..], "module": "norm"|"dwconv"|"embedding"|"other", "dtype": "f64"|"f32"|"bf16"|"f16"}}, where
    /// only shapes are required
    #[arg(long, value_name = "FILE")]
    params: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A parameter of the file.
struct Param {
    name: String,
    shape: Shape,
    kind: ModuleKind,
    /// What it is stored as, where that is known.
    stored: Option<Format>,
}

/// Prints the table.
pub fn run(args: Args) -> Result<()> {
    let recipe = args.source.any_recipe()?;
    let options = match &recipe {
        AnyRecipe::Stepping(recipe) => &recipe.train,
        AnyRecipe::Search(recipe) => &recipe.train,
    };
    train::check(options.as_ref()).map_err(|error| args.source.located(error))?;
    let params = read(&args.params)?;
    let used = used(&recipe);
    let recipe = match recipe {
        AnyRecipe::Stepping(recipe) => recipe,
        AnyRecipe::Search(recipe) => return show(&of_search(&recipe, &params), &used, args.json),
    };
    let names = params.iter().map(|param| param.name.as_str());
    unmatched(&recipe, names, args.source.allow_unmatched).map_err(|error| args.source.located(error))?;
    let optimizer = recipe.optimizer(Cpu::scalar().shared());
    let mut found = Vec::new();
    for Param { name, shape, kind, stored } in &params {
        let computed = computed(*stored);
        let group = optimizer.group_of(&ParamInfo { name, shape, kind: *kind });
        let Some(algorithm) = optimizer.algorithm_of(group) else { continue };
        let formats = optimizer.state_storage(group).cloned().unwrap_or_default();
        let params = optimizer.param_precision(group).unwrap_or_default();
        let refused = |problem: String| {
            Error::Usage(format!("{}: parameter {name:?} of shape {shape}: {problem}", args.params.display()))
        };
        if let Some(got) = stored {
            params.check(*got).map_err(|expected| {
                refused(format!("its param_format needs {expected}, got {}", got.name()))
            })?;
        }
        let states = states_of(algorithm, name, shape, |state| {
            formats.resolve(algorithm, state, shape.elements(), computed)
        });
        let mut states = states.map_err(|reason| refused(format!("{} {reason}", algorithm.name())))?;
        states.extend(
            (params == ParamPrecision::MasterWeights).then(|| ("master", Format::F32, shape.elements())),
        );
        let bytes = states.iter().map(|&(_, format, len)| format.size(len) + 4 * format.scales(len));
        let number = |name| algorithm.get(name).and_then(|value| value.as_f64());
        let mut row = json!({
            "name": name,
            "optimizer": algorithm.name(),
            "lr": number("lr"),
            "weight_decay": number("weight_decay"),
            "state_format": format_of(&states, computed),
            "state_bytes": bytes.sum::<usize>(),
            "rule": recipe.rule_of(group),
        });
        if let Some(modifiers) = modifiers_of(algorithm) {
            row["modifiers"] = modifiers.into();
        }
        found.push(row);
    }
    show(&found, &used, args.json)
}

/// The text before the keys that were ignored.
const IGNORED: &str = "; ignored: ";

/// Returns which keys of a configuration were read, and which were ignored.
fn used(recipe: &AnyRecipe) -> String {
    let (read, ignored) = recipe.keys();
    let ignored = match ignored.is_empty() {
        true => String::new(),
        false => format!("{IGNORED}{}", ignored.join(", ")),
    };
    format!("read: {}{ignored}", read.join(", "))
}

/// Returns the modifiers of an optimizer, if any.
fn modifiers_of(algorithm: &dyn AnyAlgorithm) -> Option<String> {
    let Modifiers { cautious, lookahead, .. } = algorithm.modifiers();
    let lookahead = lookahead.map(|Lookahead { k, alpha }| format!("Lookahead(k={k}, alpha={alpha})"));
    let each: Vec<String> = cautious.then(|| "cautious".to_owned()).into_iter().chain(lookahead).collect();
    (!each.is_empty()).then(|| each.join(", "))
}

/// Returns what a search keeps of all parameters together, it keeps of none of them alone.
fn of_search(recipe: &SearchRecipe, params: &[Param]) -> Vec<serde_json::Value> {
    let search = recipe.search();
    let number = |name| search.get(name).and_then(|value| value.as_f64());
    let row = |Param { name, stored, .. }: &Param| {
        json!({
            "name": name,
            "optimizer": search.name(),
            "lr": number("lr"),
            "weight_decay": number("weight_decay"),
            "state_format": format_of(&[], computed(*stored)),
            "state_bytes": 0,
            "rule": paramwise::BASE,
        })
    };
    params.iter().map(row).collect()
}

/// Returns what the states of a parameter are kept in where nothing else is said.
fn computed(stored: Option<Format>) -> Format {
    if stored == Some(Format::F64) { Format::F64 } else { Format::F32 }
}

/// Prints the rows.
fn show(found: &[serde_json::Value], used: &str, json: bool) -> Result<()> {
    if json {
        // There is no place for it among the parameters.
        if used.contains(IGNORED) {
            eprintln!("{}", message(used));
        }
        return print_json(&found.into());
    }
    let mut keys = vec!["name", "optimizer", "lr", "weight_decay", "state_format", "state_bytes", "rule"];
    // A column only where there is something in it.
    if found.iter().any(|row| row["modifiers"].is_string()) {
        keys.insert(2, "modifiers");
    }
    let mut rows = vec![keys.iter().map(|key| key.replace('_', " ")).collect::<Vec<_>>()];
    for row in found {
        let cell = |key: &str| match &row[key] {
            serde_json::Value::Number(count) if key == "state_bytes" => {
                bytes(count.as_u64().unwrap_or_default())
            }
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Null => "-".into(),
            other => other.to_string(),
        };
        rows.push(keys.iter().map(|key| cell(key)).collect());
    }
    let total: u128 = found.iter().filter_map(|row| row["state_bytes"].as_u64()).map(u128::from).sum();
    let short = u64::try_from(total).ok().filter(|&total| total >= 1024).map(bytes);
    let short = short.map(|short| format!(" ({short})")).unwrap_or_default();
    let count = found.len();
    print(&format!(
        "{}\n{count} parameters, {total} bytes of states{short}\n{}\n",
        table(&rows),
        message(used)
    ))
}

/// A parameter's states, each with its format and elements.
fn states_of(
    algorithm: &dyn AnyAlgorithm,
    name: &str,
    shape: &Shape,
    format_of: impl Fn(&str) -> Format,
) -> Result<Vec<(&'static str, Format, usize)>, String> {
    let states = algorithm.program_of(name, shape)?.operands(Role::State);
    let each = states.into_iter().map(|state| {
        let elements = algorithm.state(state).shape(shape).elements();
        (state, format_of(state), elements)
    });
    Ok(each.collect())
}

/// Returns the name of the states' format, or each one's where they differ.
fn format_of(states: &[(&'static str, Format, usize)], computed: Format) -> String {
    let Some((_, first, _)) = states.first() else { return computed.name().into() };
    if states.iter().all(|(_, format, _)| format.name() == first.name()) {
        return first.name().into();
    }
    let each = states.iter().map(|(state, format, _)| format!("{state}={}", format.name()));
    each.collect::<Vec<_>>().join(", ")
}

/// Reads the parameters of a file, in the order of JSON or of the names. A file without any is refused.
fn read(path: &Path) -> Result<Vec<Param>> {
    let params = read_any(path)?;
    match params.is_empty() {
        true => Err(Error::Malformed { path: path.to_owned(), problem: "it has no parameters".into() }),
        false => Ok(params),
    }
}

fn read_any(path: &Path) -> Result<Vec<Param>> {
    let bytes = read_tensors(path).map_err(Error::io(path))?;
    let malformed = |problem: String| Error::Malformed { path: path.to_owned(), problem };
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{') {
        return read_json(&bytes).map_err(|error| match error {
            Unread::At(error) if error.line() > 0 => {
                // The parser stands behind a name that is there twice.
                let problem = error.to_string();
                let back = twice(&problem).map_or(0, |name| json!(name).to_string().len() - 1);
                let column = error.column().saturating_sub(back).max(1);
                Error::malformed_at(path, problem, error.line(), column)
            }
            Unread::At(error) => malformed(error.to_string()),
            Unread::Parameter(problem) => malformed(problem),
        });
    }
    let file = safetensors::SafeTensors::deserialize(&bytes)
        .map_err(|error| malformed(format!("neither JSON nor safetensors: {error}")))?;
    // Of a checkpoint or a trace the parameters, of a plain file all tensors.
    let ours = file.names().iter().any(|name| name.starts_with("param/"));
    let mut params = Vec::new();
    for (key, tensor) in file.tensors() {
        let Some(name) = (if ours { key.strip_prefix("param/") } else { Some(&*key) }) else { continue };
        let shape = Shape::from(tensor.shape());
        let stored = match tensor.dtype() {
            safetensors::Dtype::F64 => Some(Format::F64),
            safetensors::Dtype::F32 => Some(Format::F32),
            safetensors::Dtype::BF16 => Some(Format::Bf16),
            safetensors::Dtype::F16 => Some(Format::F16),
            _ => None,
        };
        params.push(Param { name: name.to_owned(), kind: ModuleKind::guess(name, &shape), shape, stored });
    }
    params.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(params)
}

/// A parameter in JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    shape: Vec<usize>,
    module: Option<String>,
    dtype: Option<String>,
}

/// The members of a JSON object, in its order. A name given twice is refused, which a map would not notice.
struct Members<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Members<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Each<V> {
            type Value = Members<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<V>, A::Error> {
                let (mut members, mut seen) = (Vec::new(), HashSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("{name:?}{TWICE}")));
                    }
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each(PhantomData))
    }
}

/// The parameters of a file, each with what it says of them.
type Parameters = Members<Members<serde_json::Value>>;

/// What is said of a member behind its name.
const TWICE: &str = " appears twice";

/// Returns the name that is there twice, if an error is about one.
fn twice(problem: &str) -> Option<&str> {
    let (name, _) = problem.strip_prefix('"')?.split_once(&format!("\"{TWICE}"))?;
    Some(name)
}

/// What no tensor has more elements than, so that bytes of states can be counted.
const MOST: usize = 1 << 48;

/// Why JSON has no parameters.
enum Unread {
    /// The parser stopped there.
    At(serde_json::Error),
    /// A parameter is wrong.
    Parameter(String),
}

fn read_json(bytes: &[u8]) -> Result<Vec<Param>, Unread> {
    let parameters: Parameters = serde_json::from_slice(bytes).map_err(Unread::At)?;
    described_params(parameters).map_err(Unread::Parameter)
}

/// Returns what a parser says, in other words than Rust's.
fn plain(error: &serde_json::Error) -> String {
    error.to_string().replace("expected usize", "expected a whole number from 0")
}

fn described_params(Members(described): Parameters) -> Result<Vec<Param>, String> {
    let each = described.into_iter().map(|(name, Members(value))| {
        let Described { shape, module, dtype } = serde_json::from_value(value.into_iter().collect())
            .map_err(|error| format!("parameter {name:?}: {}", plain(&error)))?;
        let shape = Shape::from(&shape[..]);
        if shape.elements() > MOST {
            return Err(format!("parameter {name:?}: no tensor has as many elements as {shape}"));
        }
        let kind = match module {
            None => ModuleKind::guess(&name, &shape),
            Some(kind) => ModuleKind::from_name(&kind).ok_or_else(|| {
                let known = ModuleKind::ALL.map(|(name, _)| name).join(", ");
                format!("parameter {name:?}: module must be one of {known}, got {kind:?}")
            })?,
        };
        let stored = match dtype {
            None => None,
            Some(dtype) => {
                Some(Format::ALL.into_iter().find(|format| format.name() == dtype).ok_or_else(|| {
                    let known = Format::ALL.map(Format::name).join(", ");
                    format!("parameter {name:?}: dtype must be one of {known}, got {dtype:?}")
                })?)
            }
        };
        Ok(Param { name, shape, kind, stored })
    });
    each.collect()
}
