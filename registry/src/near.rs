//! Names that do not exist, and those that are near.

/// The characters of the longest text that is a mistyped name: the table of distances grows with them.
const LONGEST: usize = 64;

/// Returns the names of some kind, for an error.
pub(crate) fn known_are<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> String {
    let names: Vec<N> = names.into_iter().collect();
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    format!("known are {}", names.join(", "))
}

/// Returns what to say of an optimizer's name that does not exist: the nearest that do, and where all are.
pub fn near_are<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let lower: String = name.chars().take(LONGEST).collect::<String>().to_lowercase();
    let likeness = |candidate: &str| strsim::jaro_winkler(&lower, &candidate.to_lowercase());
    let mut near: Vec<(f64, &str)> = known.into_iter().map(|name| (likeness(name), name)).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    let near: Vec<&str> = near.iter().take(3).map(|(_, name)| *name).collect();
    format!("near are {} (`fallline list` prints all)", near.join(", "))
}

/// Returns the name that is nearest to one that does not exist, if any is near.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.chars().count() > LONGEST {
        return None;
    }
    let lower = name.to_lowercase();
    let distance = |candidate: &str| strsim::damerau_levenshtein(&lower, &candidate.to_lowercase());
    let best = known.into_iter().map(|candidate| (distance(candidate), candidate)).min()?;
    (best.0 <= 1 + name.chars().count() / 3).then_some(best.1)
}
