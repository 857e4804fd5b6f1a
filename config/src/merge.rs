//! A configuration over its bases, as MMEngine merges them.

use std::sync::Arc;

use super::error::ConfigError;
use super::heap::{Entry, Fields, Heap, Item, Map, MapId, Obj};
use super::limits::MAX_DEPTH;
use super::run::Missing;

/// The key of a dict that replaces what is below it.
pub(super) const DELETE: &str = "_delete_";

/// Merges the entries of `child` over those of `base`. A dict merges into a dict; with a truthy `_delete_` in it,
/// which is taken out, it replaces the base's value. All else replaces. A key that the base lacks is taken as it is.
/// `missing`: bases that are not read, which may have any key that `base` has not.
pub(super) fn over(
    heap: &mut Heap,
    child: &Fields,
    base: &Fields,
    missing: &[Missing],
    depth: usize,
) -> Fields {
    let mut merged = base.clone();
    for (key, entry) in child {
        let item = match (&entry.item.obj, base.get(key)) {
            (Obj::Map(id), below) if below.is_some() || !missing.is_empty() => {
                dict(heap, key, *id, entry, below, missing, depth)
            }
            _ => entry.item.clone(),
        };
        merged.insert(key.clone(), Entry { key_at: entry.key_at.clone(), item });
    }
    merged
}

/// Merges a dict over what the base has under its key.
fn dict(
    heap: &mut Heap,
    key: &str,
    id: MapId,
    entry: &Entry,
    below: Option<&Entry>,
    missing: &[Missing],
    depth: usize,
) -> Item {
    let at = entry.item.at.clone();
    let poison = |error: ConfigError| Item { obj: Obj::Poison(Arc::new(error)), at: at.clone() };
    let mut child = heap.map(id).clone();
    if let Err(fault) = heap.charge(child.entries.len() + 1, &at) {
        return Item { obj: Obj::Poison(fault), at };
    }
    let replaces = match child.entries.shift_remove(DELETE).map(|entry| entry.item.obj) {
        Some(Obj::Poison(fault) | Obj::Imported(fault)) => return Item { obj: Obj::Poison(fault), at },
        Some(flag) => truthy(heap, &flag),
        None => false,
    };
    if !replaces {
        let Some(below) = below else {
            return poison(missing[0].error(key));
        };
        match &below.item.obj {
            Obj::Poison(fault) | Obj::Imported(fault) => return Item { obj: Obj::Poison(fault.clone()), at },
            // A value may hold itself: `x["x"] = x`.
            Obj::Map(_) if depth == MAX_DEPTH => {
                return poison(ConfigError::TooDeep { at: at.clone(), limit: MAX_DEPTH });
            }
            Obj::Map(base) => {
                let base = heap.map(*base).clone();
                child.entries = over(heap, &child.entries, &base.entries, &[], depth + 1);
                child.poison = child.poison.or(base.poison);
            }
            other => {
                let (base, base_type) = (below.item.at.clone(), other.type_name());
                return poison(ConfigError::Inherit { at: at.clone(), key: key.to_owned(), base, base_type });
            }
        }
    }
    Item {
        obj: Obj::Map(heap.new_map(Map { entries: child.entries, poison: child.poison, config: false })),
        at,
    }
}

/// Returns whether Python takes a value for true.
pub(super) fn truthy(heap: &Heap, obj: &Obj) -> bool {
    match obj {
        Obj::None | Obj::Poison(_) | Obj::Imported(_) => false,
        Obj::Bool(v) => *v,
        Obj::Int(v) => *v != 0,
        Obj::Float(v) => *v != 0.0,
        Obj::Str(v) => !v.is_empty(),
        Obj::Seq(id) => !heap.seq(*id).items.is_empty(),
        Obj::Map(id) => !heap.map(*id).entries.is_empty(),
    }
}
