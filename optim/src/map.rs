//! Maps from entries, in any order.

use std::collections::BTreeMap;

/// Inserts the entries one by one. `collect` would sort them first, by a sort that is compiled for each type of entry and
/// weighs more than the map.
pub(crate) fn map_of<K: Ord, V>(entries: impl IntoIterator<Item = (K, V)>) -> BTreeMap<K, V> {
    let mut map = BTreeMap::new();
    for (key, value) in entries {
        map.insert(key, value);
    }
    map
}
