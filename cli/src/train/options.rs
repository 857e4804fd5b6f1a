//! The key `train` of a configuration.

use crate::digits::data::TRAIN;
use crate::digits::network;
use crate::error::{Error, Result};
use fallline::optim::average::Average;
use fallline::registry::config::{Node, Value};

/// What to train, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// An average of the weights, which is tested instead of them.
    pub average: Option<Average>,
    /// Passes over the training images.
    pub epochs: u64,
    /// The epochs that the schedule is written for, where it is scaled to the run.
    pub written_for: Option<u64>,
    /// Images of a step; the last of an epoch may have fewer.
    pub batch_size: usize,
    /// The widths of the hidden layers.
    pub hidden: Vec<usize>,
    /// The seed of the start values and of the order of the images.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { average: None, epochs: 40, written_for: None, batch_size: 32, hidden: vec![512], seed: 0 }
    }
}

/// The widest hidden layer and the longest run that are not a mistake.
pub const MOST: i64 = 1 << 20;

/// The largest network that is not a mistake: a gigabyte in `f32`.
const MOST_ELEMENTS: usize = 1 << 28;

impl Options {
    /// Reads them; what is not given has its default.
    pub fn read(node: Option<&Node>) -> Result<Options> {
        let mut options = Options::default();
        let Some(node) = node.filter(|node| !node.value.is_none()) else { return Ok(options) };
        let wrong = |at: &Node, key: &str, expected: &str| {
            let problem = format!("{key} must be {expected}, got {}", at.value);
            Error::Setting { at: at.at.clone(), problem, nearest: None }
        };
        let dict = node.value.as_dict().ok_or_else(|| wrong(node, "train", "a dict"))?;
        for (key, value) in dict.iter() {
            let whole = |expected: &str, least: i64, most: i64| {
                value
                    .value
                    .as_int()
                    .filter(|x| (least..=most).contains(x))
                    .ok_or_else(|| wrong(value, key, expected))
            };
            match key {
                "average" if value.value.is_none() => {}
                "average" => options.average = Some(fallline::registry::average(value)?),
                "epochs" => {
                    options.epochs = whole(&format!("an int from 0 to {MOST}"), 0, MOST)? as u64;
                }
                "batch_size" => {
                    let expected = format!("an int from 1 to {TRAIN}");
                    options.batch_size = whole(&expected, 1, TRAIN as i64)? as usize;
                }
                "seed" => options.seed = whole("an int from 0", 0, i64::MAX)? as u64,
                "hidden" => {
                    let widths = match &value.value {
                        Value::List(items) => {
                            items.iter().map(|item| item.value.as_int()).collect::<Option<Vec<_>>>()
                        }
                        _ => None,
                    };
                    let widths = widths.filter(|widths| widths.iter().all(|x| (1..=MOST).contains(x)));
                    let widths = widths
                        .ok_or_else(|| wrong(value, key, &format!("a list of ints from 1 to {MOST}")))?;
                    options.hidden = widths.into_iter().map(|x| x as usize).collect();
                    if network::elements(&options.hidden).is_none_or(|all| all > MOST_ELEMENTS) {
                        let expected = format!("widths of at most {MOST_ELEMENTS} weights and biases in all");
                        return Err(wrong(value, key, &expected));
                    }
                }
                _ => {
                    let known = ["epochs", "batch_size", "hidden", "seed", "average"];
                    let near = fallline::registry::names::nearest(key, known);
                    let hint = near.map(|near| format!(" (did you mean {near:?}?)")).unwrap_or_default();
                    let at = dict.key_at(key).unwrap_or(&node.at);
                    let (at, problem) = (at.clone(), format!("train has no {key:?}{hint}"));
                    return Err(Error::Setting { at, problem, nearest: near.map(str::to_owned) });
                }
            }
        }
        Ok(options)
    }
}
