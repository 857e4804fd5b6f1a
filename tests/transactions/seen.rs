//! What can be seen of a trainer from outside, and what a fault has done to it.

use crate::table::Row;
use crate::trainer::{Act, Done, Trainer};
use fallline::optim::Error;
use fallline::{Checkpoint, Optimizer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The kinds of facts, in the order in which they are told.
const KINDS: [&str; 12] = [
    "params",
    "steps",
    "states",
    "average",
    "loss scale",
    "mode",
    "window",
    "iterations",
    "scaler's count",
    "averaged iterations",
    "remembered",
    "hyperparameters",
];

/// All facts at one time: by kind and name, as texts of bits, or why they cannot be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    facts: BTreeMap<(usize, String), Result<String, String>>,
    saved: Result<Vec<u8>, String>,
}

/// A run without a fault: what there was before each step and after the last.
pub struct Undisturbed {
    pub seen: Vec<Seen>,
    pub values: Vec<Vec<Vec<f64>>>,
    pub saved: Vec<Checkpoint>,
}

impl Undisturbed {
    /// Of so many steps.
    pub fn run(mut trainer: Trainer, act: Act, steps: usize) -> Undisturbed {
        let mut run = Undisturbed { seen: Vec::new(), values: Vec::new(), saved: Vec::new() };
        for t in 0..=steps {
            run.seen.push(Seen::of(&trainer));
            run.values.push(trainer.values());
            run.saved.push(trainer.optimizer.save().expect("a good device"));
            if t < steps {
                act(&mut trainer, t).expect("a good step");
            }
        }
        run
    }
}

fn bits(values: &[f64]) -> String {
    format!("{:x?}", values.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
}

impl Seen {
    /// What there is now.
    pub fn of(trainer: &Trainer) -> Seen {
        let Trainer { optimizer, held, .. } = trainer;
        let mut facts = BTreeMap::new();
        let mut tell = |kind: &str, name: &str, value: Result<String, String>| {
            let place = KINDS.iter().position(|known| *known == kind).expect("a kind");
            facts.insert((place, name.to_owned()), value);
        };
        for held in held {
            tell("params", &held.name, held.values().map(|values| bits(&values)));
        }
        for param in optimizer.params() {
            let name = &param.name;
            tell("steps", name, Ok(param.steps.to_string()));
            let states = param.states.iter().copied().chain(["master"]);
            let read = |state| match optimizer.state(name, state) {
                Ok(None) => Ok(String::new()),
                Ok(Some(values)) => Ok(format!("{state} {}, ", bits(&values))),
                Err(error) => Err(error.to_string()),
            };
            let states: Result<String, String> = states.map(read).collect();
            if states.as_ref().map_or(true, |states| !states.is_empty()) {
                tell("states", name, states);
            }
            match optimizer.average(name) {
                Ok(None) => {}
                Ok(Some(values)) => tell("average", name, Ok(bits(&values))),
                Err(error) => tell("average", name, Err(error.to_string())),
            }
        }
        tell("loss scale", "", Ok(optimizer.loss_scale().to_string()));
        tell("mode", "", Ok(optimizer.mode().to_string()));
        let saved = optimizer.save().and_then(|checkpoint| checkpoint.to_bytes());
        let saved = saved.map_err(|error| error.to_string());
        if let Ok(bytes) = &saved {
            let (manifest, tensors) = parts(bytes);
            let number = |value: &Value| Ok(value.to_string());
            for (name, entry) in tensors.iter().filter_map(|(key, e)| Some((key.strip_prefix("window/")?, e)))
            {
                tell("window", name, Ok(format!("{entry:x?}")));
            }
            tell("iterations", "", number(&manifest["wrapper"]["done"]));
            tell("scaler's count", "", number(&manifest["wrapper"]["scaler"]["steps"]));
            tell("averaged iterations", "", number(&manifest["average_steps"]));
            for (name, value) in manifest["optimizer"]["shared"].as_object().into_iter().flatten() {
                tell("remembered", name, number(value));
            }
            tell("hyperparameters", "", number(&manifest["optimizer"]["groups"]));
        }
        Seen { facts, saved }
    }

    /// What differs.
    fn differs(&self, expected: &Seen) -> Option<String> {
        let keys = self.facts.keys().chain(expected.facts.keys());
        let other: Vec<_> = keys.filter(|key| self.facts.get(*key) != expected.facts.get(*key)).collect();
        if !other.is_empty() {
            return Some(self.list(&other));
        }
        (self.saved != expected.saved).then(|| "the checkpoint alone".to_owned())
    }

    /// Facts by kind: the names where not all of them are meant.
    fn list(&self, keys: &[&(usize, String)]) -> String {
        let mut keys = keys.to_vec();
        keys.sort();
        keys.dedup();
        let kinds = keys.chunk_by(|one, other| one.0 == other.0);
        let kinds = kinds.map(|of_kind| {
            let kind = of_kind[0].0;
            let named =
                of_kind.iter().filter(|key| !key.1.is_empty()).map(|key| match self.facts.get(*key) {
                    None => format!(" {} (none)", key.1),
                    Some(Ok(value)) if value.len() < 9 => format!(" {} ({value})", key.1),
                    Some(_) => format!(" {}", key.1),
                });
            let own = match self.facts.get(of_kind[0]) {
                Some(Ok(value)) if of_kind[0].1.is_empty() && value.len() < 9 => format!(" ({value})"),
                _ => String::new(),
            };
            format!("{}{own}{}", KINDS[kind], named.collect::<String>())
        });
        kinds.collect::<Vec<_>>().join(", ")
    }

    /// What a fault has left: what is as after a step, what is as neither before nor after it, what cannot be read.
    fn told(&self, before: &Seen, after: &Seen) -> String {
        let (mut stepped, mut other, mut unread) = (Vec::new(), Vec::new(), Vec::new());
        let mut keys: Vec<_> =
            before.facts.keys().chain(after.facts.keys()).chain(self.facts.keys()).collect();
        keys.sort();
        keys.dedup();
        // What only a checkpoint tells is not there to see where none can be saved.
        let unseen = |key: &(usize, String)| key.0 >= 6 && self.saved.is_err();
        for key in keys.iter().copied().filter(|key| !unseen(key)) {
            let [old, new, now] = [before, after, self].map(|seen| seen.facts.get(key));
            match now {
                Some(Err(_)) => unread.push(key),
                _ if now == old => {}
                _ if now == new => stepped.push(key),
                _ => other.push(key),
            }
        }
        let changed = |key: &&&(usize, String)| before.facts.get(**key) != after.facts.get(**key);
        let all = keys.iter().filter(changed).count();
        let mut told = Vec::new();
        if !stepped.is_empty() {
            let all = stepped.len() == all;
            told.push(if all {
                "all as the step".to_owned()
            } else {
                format!("as the step: {}", self.list(&stepped))
            });
        }
        if !other.is_empty() {
            told.push(format!("otherwise: {}", self.list(&other)));
        }
        if !unread.is_empty() {
            told.push(format!("cannot be read: {}", self.list(&unread)));
        }
        if told.is_empty() { "nothing".to_owned() } else { told.join("; ") }
    }

    fn saves(&self, before: &Seen, after: &Seen) -> String {
        match &self.saved {
            Err(error) => error.clone(),
            saved if *saved == before.saved => "as before".to_owned(),
            saved if *saved == after.saved => "as after".to_owned(),
            Ok(_) => "neither".to_owned(),
        }
    }
}

/// A checkpoint's manifest and the bytes of its tensors.
fn parts(bytes: &[u8]) -> (Value, BTreeMap<String, Vec<u8>>) {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let data = &bytes[8 + length..];
    let manifest = serde_json::from_str(header["__metadata__"]["fallline"].as_str().unwrap()).unwrap();
    let tensors = header.iter().filter(|(key, _)| *key != "__metadata__").map(|(key, entry)| {
        let place = |i: usize| entry["data_offsets"][i].as_u64().unwrap() as usize;
        (key.clone(), data[place(0)..place(1)].to_vec())
    });
    (manifest, tensors.collect())
}

/// An error with its kind.
pub fn tell(error: &Error) -> String {
    let text = format!("{error:?}");
    let mut words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let kind = words.next().unwrap_or_default();
    match error {
        Error::Backend(_) | Error::Hyper(_) => {
            format!("{kind}/{}: {error}", words.next().unwrap_or_default())
        }
        _ => format!("{kind}: {error}"),
    }
}

/// What comes of a call that may panic.
pub fn attempt(call: impl FnOnce() -> Result<Done, Error>) -> Result<Done, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(done) => done.map_err(|error| tell(&error)),
        Err(cause) => {
            let text = cause.downcast_ref::<String>().map(String::as_str);
            let text = text.or(cause.downcast_ref::<&str>().copied()).unwrap_or("no text");
            Err(format!("a panic: {text}"))
        }
    }
}

/// The row of what was done, or failed, in place of step `at`. The next step is `then`.
pub fn row(
    trainer: &mut Trainer,
    (done, act): (Result<Done, String>, Act),
    run: &Undisturbed,
    (at, then): (usize, usize),
) -> Row {
    let (before, after) = (&run.seen[at], &run.seen[at + 1]);
    let now = Seen::of(trainer);
    let told = match done {
        Ok(done) => format!("no error: {done}"),
        Err(told) => told,
    };
    let (left, save) = (now.told(before, after), now.saves(before, after));
    let (next, stuck) = go_on(trainer, act, then, run);
    let reload = stuck.then(|| match trainer.go_back(&run.saved[at], &run.values[at]) {
        Ok(()) => go_on(trainer, act, at, run).0.join(", then "),
        Err(error) => tell(&error),
    });
    let next: Vec<String> = next.into_iter().map(|next| shortened(&told, next)).collect();
    let (next, reload) = (next.join(", then "), reload.map(|told| plain(&told)));
    Row { told: plain(&told), left, save: plain(&save), next: plain(&next), reload }
}

/// An error that repeats the one that was told, in words.
fn shortened(told: &str, next: String) -> String {
    let cause = next.strip_prefix("Poisoned: a step failed half-way (");
    let cause = cause.and_then(|rest| {
        rest.strip_suffix("): parameters and states may not fit together; reload a checkpoint")
    });
    match cause {
        Some(cause) if told.ends_with(cause) => "Poisoned by that error".to_owned(),
        _ if next == told => "the same error".to_owned(),
        _ => next,
    }
}

/// Without the driver's words: which call failed is known.
fn plain(text: &str) -> String {
    let (mut plain, mut rest) = (String::new(), text);
    while let Some(start) = rest.find("cuda:0: ") {
        let (before, words) = rest.split_at(start);
        let ends = [("(CUDA_ERROR_", ")"), ("CUBLAS_STATUS_", "FAILED"), ("no memory for ", "bytes")];
        let ends = ends.into_iter().filter_map(|(code, end)| {
            let at = words.find(code)?;
            Some((at + words[at..].find(end)? + end.len(), code))
        });
        let Some((end, code)) = ends.min() else { break };
        let what = match code {
            _ if words[..end].contains("refuses further work") => "refuses further work",
            "no memory for " => "has no memory",
            _ => "failed",
        };
        plain += before;
        plain += "cuda:0 ";
        plain += what;
        rest = &words[end..];
    }
    plain + rest
}

/// Tries a step until it goes through, three times at most: a driver tells some failures in the call after. Says what
/// comes of it, and whether it did not.
fn go_on(trainer: &mut Trainer, act: Act, t: usize, run: &Undisturbed) -> (Vec<String>, bool) {
    let mut told = Vec::new();
    for _ in 0..3 {
        match attempt(|| act(trainer, t)) {
            Ok(_) => {
                let now = Seen::of(trainer);
                told.push(match now.differs(&run.seen[t + 1]) {
                    None => "as undisturbed".to_owned(),
                    Some(what) => format!("otherwise: {what}"),
                });
                return (told, false);
            }
            Err(error) if told.last() == Some(&error) => break,
            Err(error) => told.push(error),
        }
    }
    (told, true)
}
