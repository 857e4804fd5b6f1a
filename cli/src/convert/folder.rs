//! What trainers save as folders: the file with the optimizer's state, and DeepSpeed's shards of it.

use crate::error::{Error, Result};
use fallline::convert::{self, Limits, Named, archive, deepspeed};
use fallline::core::files::{self, read_tensors};
use std::path::{Path, PathBuf};

/// What DeepSpeed's shards end with, and its files of models.
const SHARD: &str = "_optim_states.pt";
const MODEL: &str = "_model_states.pt";

/// Returns the file in a folder that has the optimizer's state, where trainers put it.
pub fn in_folder(folder: &Path) -> Result<PathBuf> {
    // DeepSpeed names the newest of its folders.
    let latest = files::read(&folder.join("latest"), 4096).ok();
    let newest = latest
        .as_deref()
        .and_then(|tag| std::str::from_utf8(tag).ok())
        .map(str::trim)
        .map(|tag| folder.join(Path::new(tag).file_name().unwrap_or_default()));
    let folder = newest.as_deref().filter(|newest| newest.is_dir()).unwrap_or(folder);
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    let ending = |end: &str| names.iter().find(|name| name.ends_with(end)).cloned();
    let usual = ["optimizer.pt", "optimizer.bin", "optimizer.pth"];
    let found = usual.into_iter().find(|name| names.iter().any(|known| known == name)).map(str::to_owned);
    let found = found.or_else(|| ending(SHARD)).or_else(|| ending(MODEL));
    found.map(|name| folder.join(name)).ok_or_else(|| {
        let problem =
            format!("the folder has no optimizer's state ({}, or DeepSpeed's …{SHARD})", usual.join(", "));
        Error::Malformed { path: folder.to_owned(), problem }
    })
}

/// Joins DeepSpeed's shards: the others are in the folder of the given one.
pub fn joined(
    shard: &Path,
    tree: &convert::Value<'_>,
    names: Option<&[Named]>,
) -> Result<convert::Value<'static>> {
    let malformed = |path: &Path, problem: String| Error::Malformed { path: path.to_owned(), problem };
    let wrong = |error: convert::Error| malformed(shard, error.to_string());
    let limits = Limits::default();
    let folder = shard.parent().unwrap_or(Path::new(""));
    let name = shard.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let count = deepspeed::shards(tree).map_err(wrong)?;
    let parts = name.split_once("pp_rank_").and_then(|(before, rest)| {
        let (_, after) = rest.split_once('_')?;
        let model = after.strip_suffix(SHARD)?;
        Some((format!("{before}pp_rank_"), format!("_{after}"), folder.join(format!("{model}{MODEL}"))))
    });
    let (before, after, model) = parts.ok_or_else(|| {
        let problem =
            format!("it is a shard of DeepSpeed's, whose name is not …zero_pp_rank_N_mp_rank_NN{SHARD}");
        malformed(shard, problem)
    })?;
    // One by one: a file may say that there are any number.
    let path = |rank: usize| folder.join(format!("{before}{rank}{after}"));
    if let Some(missing) = (0..count).map(path).find(|path| !path.is_file()) {
        let missing = missing.file_name().unwrap_or_default().display();
        return Err(malformed(shard, format!("it is one of {count} shards, and {missing} is missing")));
    }
    let paths: Vec<PathBuf> = (0..count).map(path).collect();
    let entries = std::fs::read_dir(if folder == Path::new("") { Path::new(".") } else { folder });
    let names_there =
        entries.map_err(Error::io(folder))?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let other = |name: &String| {
        name.starts_with(&before) && name.ends_with(SHARD) && !paths.iter().any(|path| path.ends_with(name))
    };
    if let Some(other) = names_there.filter(other).min() {
        let problem = format!(
            "{other} stands beside it: shards of several model-parallel ranks, or of another run, are not joined"
        );
        return Err(malformed(shard, problem));
    }
    let read = |path: &PathBuf| read_tensors(path).map_err(Error::io(path));
    let bytes = paths.iter().map(read).collect::<Result<Vec<_>>>()?;
    let trees = bytes.iter().zip(&paths).map(|(bytes, path)| {
        archive::read(bytes, &limits).map_err(|error| malformed(path, error.to_string()))
    });
    let trees = trees.collect::<Result<Vec<_>>>()?;
    let shapes = match names {
        Some(names) => {
            let shaped = names.iter().filter_map(|(name, shape)| Some((name.clone(), shape.clone()?)));
            shaped.collect()
        }
        None if model.is_file() => {
            let bytes = read(&model)?;
            let tree =
                archive::read(&bytes, &limits).map_err(|error| malformed(&model, error.to_string()))?;
            deepspeed::shapes(&tree).map_err(|error| malformed(&model, error.to_string()))?
        }
        None => {
            let model = model.file_name().unwrap_or_default().display();
            let problem =
                format!("{model} is missing beside it, which has the parameters' shapes (--params FILE)");
            return Err(malformed(shard, problem));
        }
    };
    deepspeed::join(&trees, &shapes).map_err(wrong)
}
