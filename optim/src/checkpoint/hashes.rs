//! Hashes of a checkpoint's entries and of its manifest, by which a load notices what has changed since it was written.
//!
//! They are in the manifest, under `hashes`: 64 bits of XXH3 for each entry and for each key of the manifest, in hexadecimal.
//! Readers that do not know them pass over them.

use super::{Entry, dtype};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hasher;
use twox_hash::XxHash3_64;

/// The key of the hashes in the manifest.
const HASHES: &str = "hashes";
/// The hash that this version writes and knows.
const ALGORITHM: &str = "xxh3-64";
/// Bytes that are searched for NaNs and hashed at a time: they stay in the cache between the two.
const CHUNK: usize = 1 << 15;

/// The hashes of a checkpoint.
#[derive(Serialize, Deserialize)]
struct Hashes {
    algorithm: String,
    /// By the entry's key.
    entries: BTreeMap<String, String>,
    /// By the manifest's key.
    manifest: BTreeMap<String, String>,
}

/// Returns a manifest's text with the hashes of what it says and of the entries.
pub(super) fn added<'v>(
    manifest: &str,
    entries: impl Iterator<Item = (&'v str, &'v TensorView<'v>)>,
) -> serde_json::Result<String> {
    let told: Told = serde_json::from_str(manifest)?;
    let hashes = Hashes {
        algorithm: ALGORITHM.to_owned(),
        entries: entries.map(|(key, view)| (key.to_owned(), hex(of_view(view)))).collect(),
        manifest: told.values.into_iter().map(|(key, hash)| (key, hex(hash))).collect(),
    };
    let hashes = serde_json::to_string(&hashes)?;
    let open = manifest.trim_end().strip_suffix('}').unwrap_or_default();
    Ok(format!("{open},\"{HASHES}\":{hashes}}}"))
}

/// Compares entries and manifest with the manifest's hashes, if it has any.
///
/// # Errors
/// The first entry that is missing, added or changed, by name, and how many more there are; else the first such key of
/// the manifest.
pub(super) fn verify(manifest: &str, entries: &[(String, TensorView<'_>)]) -> Result<(), String> {
    let told: Told =
        serde_json::from_str(manifest).map_err(|error| format!("its hashes cannot be read: {error}"))?;
    let Some(hashes) = told.hashes else { return Ok(()) };
    if hashes.algorithm != ALGORITHM {
        let algorithm = hashes.algorithm;
        return Err(format!("its hashes are of {algorithm:?}, and this fallline knows {ALGORITHM:?}"));
    }
    let known: BTreeMap<&str, &TensorView<'_>> =
        entries.iter().map(|(key, view)| (key.as_str(), view)).collect();
    let entries = known.iter().map(|(key, view)| (*key, || of_view(view)));
    compare(&hashes.entries, entries, |key| key.to_owned())?;
    let values = told.values.iter().map(|(key, hash)| (key.as_str(), || *hash));
    compare(&hashes.manifest, values, |key| format!("the manifest's {key:?}"))
}

/// Compares what is there with its hashes.
fn compare<'k, H: FnOnce() -> u64>(
    hashes: &BTreeMap<String, String>,
    there: impl Iterator<Item = (&'k str, H)>,
    named: impl Fn(&str) -> String,
) -> Result<(), String> {
    let (mut added, mut changed) = (Vec::new(), Vec::new());
    let mut absent: BTreeMap<&str, &str> =
        hashes.iter().map(|(key, hash)| (key.as_str(), hash.as_str())).collect();
    for (key, hash) in there {
        match absent.remove(key) {
            None => added.push(key),
            Some(was) if u64::from_str_radix(was, 16) == Ok(hash()) => {}
            Some(_) => changed.push(key),
        }
    }
    let absent: Vec<&str> = absent.into_keys().collect();
    let more = |count: usize| if count > 1 { format!(", and {} more", count - 1) } else { String::new() };
    let told = |keys: &[&str], problem: &str| {
        keys.first().map(|key| Err(format!("{} {problem}{}", named(key), more(keys.len()))))
    };
    told(&absent, "is missing, but there is a hash of it")
        .or_else(|| told(&added, "was added or renamed: there is no hash of it"))
        .or_else(|| told(&changed, "does not match its hash"))
        .unwrap_or(Ok(()))
}

fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}

impl Entry {
    /// Returns a hash of its type, shape and elements, in which all NaNs are one. Devices and ranks may differ in the
    /// payloads of NaNs where their numbers are the same.
    pub fn hash(&self) -> u64 {
        hash(dtype(self.format), self.shape.dims(), &self.bytes)
    }
}

fn of_view(view: &TensorView<'_>) -> u64 {
    hash(view.dtype(), view.shape(), view.data())
}

/// Copies bytes in another way, if there is one.
type Copied = fn(&[u8]) -> Option<Vec<u8>>;

/// Returns a hash of a tensor's type, shape and elements, in which all NaNs are one.
fn hash(dtype: Dtype, shape: &[usize], bytes: &[u8]) -> u64 {
    let mut about = format!("{dtype:?}").into_bytes();
    shape.iter().for_each(|extent| about.extend((*extent as u64).to_le_bytes()));
    let seed = XxHash3_64::oneshot(&about);
    let one_nan: Option<Copied> = match dtype {
        Dtype::F64 => Some(with_one_nan::<f64, 8>),
        Dtype::F32 => Some(with_one_nan::<f32, 4>),
        Dtype::BF16 => Some(with_one_nan::<bf16, 2>),
        Dtype::F16 => Some(with_one_nan::<f16, 2>),
        _ => None,
    };
    let one_nan = |bytes| one_nan.and_then(|one_nan| one_nan(bytes));
    if bytes.len() <= CHUNK {
        return XxHash3_64::oneshot_with_seed(seed, one_nan(bytes).as_deref().unwrap_or(bytes));
    }
    let mut hasher = XxHash3_64::with_seed(seed);
    bytes.chunks(CHUNK).for_each(|chunk| hasher.write(one_nan(chunk).as_deref().unwrap_or(chunk)));
    hasher.finish()
}

/// A float in little-endian bytes.
trait Float<const N: usize>: Copy {
    const NAN: Self;
    fn is_nan(bytes: [u8; N]) -> bool;
    fn to_bytes(self) -> [u8; N];
}

macro_rules! float {
    ($t:ty, $n:literal, $is_nan:expr) => {
        impl Float<$n> for $t {
            const NAN: $t = <$t>::NAN;
            fn is_nan(bytes: [u8; $n]) -> bool {
                $is_nan(bytes)
            }
            fn to_bytes(self) -> [u8; $n] {
                self.to_le_bytes()
            }
        }
    };
}
float!(f64, 8, |bytes| f64::from_le_bytes(bytes).is_nan());
float!(f32, 4, |bytes| f32::from_le_bytes(bytes).is_nan());
// On the bits, which are compared many at a time.
float!(bf16, 2, |bytes| u16::from_le_bytes(bytes) & 0x7fff > 0x7f80);
float!(f16, 2, |bytes| u16::from_le_bytes(bytes) & 0x7fff > 0x7c00);

/// Returns floats with one NaN in place of all, if there are any.
fn with_one_nan<T: Float<N>, const N: usize>(bytes: &[u8]) -> Option<Vec<u8>> {
    // Without a way out of the loop it is compiled to vectors.
    let any = bytes.as_chunks::<N>().0.iter().fold(false, |any, bytes| any | T::is_nan(*bytes));
    if !any {
        return None;
    }
    let mut copy = bytes.to_vec();
    let nans = copy.as_chunks_mut::<N>().0.iter_mut().filter(|bytes| T::is_nan(**bytes));
    nans.for_each(|bytes| *bytes = T::NAN.to_bytes());
    Some(copy)
}

/// A manifest's hashes, and those of what it says by key.
struct Told {
    hashes: Option<Hashes>,
    values: BTreeMap<String, u64>,
}

impl<'de> Deserialize<'de> for Told {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Told, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Told;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Told, A::Error> {
                let mut told = Told { hashes: None, values: BTreeMap::new() };
                while let Some(key) = map.next_key::<String>()? {
                    let twice = match key == HASHES {
                        true => told.hashes.replace(map.next_value()?).is_some(),
                        false => told.values.insert(key.clone(), map.next_value_seed(Meaning)?).is_some(),
                    };
                    if twice {
                        return Err(A::Error::custom(format!("{key:?} is there twice")));
                    }
                }
                Ok(told)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// The hash of what a JSON value says. Spaces, the order of keys and the way in which a number is written do not count.
struct Meaning;

/// Returns the hash of a value of this type.
fn of_type(tag: u8, bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(u64::from(tag), bytes)
}

impl<'de> DeserializeSeed<'de> for Meaning {
    type Value = u64;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Meaning {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<u64, E> {
        Ok(of_type(b'0', &[]))
    }

    fn visit_bool<E>(self, value: bool) -> Result<u64, E> {
        Ok(of_type(b'b', &[value.into()]))
    }

    fn visit_i64<E>(self, value: i64) -> Result<u64, E> {
        Ok(of_type(b'i', &i128::from(value).to_le_bytes()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<u64, E> {
        Ok(of_type(b'i', &i128::from(value).to_le_bytes()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<u64, E> {
        Ok(of_type(b'f', &value.to_le_bytes()))
    }

    fn visit_str<E>(self, value: &str) -> Result<u64, E> {
        Ok(of_type(b's', value.as_bytes()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<u64, A::Error> {
        let mut hash = of_type(b'[', &[]);
        while let Some(item) = items.next_element_seed(Meaning)? {
            hash = of_type(b',', &[hash.to_le_bytes(), item.to_le_bytes()].concat());
        }
        Ok(hash)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<u64, A::Error> {
        // A sum has no order.
        let mut hash = of_type(b'{', &[]);
        while let Some((key, value)) = entries.next_entry_seed(Meaning, Meaning)? {
            hash = hash.wrapping_add(of_type(b':', &[key.to_le_bytes(), value.to_le_bytes()].concat()));
        }
        Ok(of_type(b'}', &hash.to_le_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(text: &str) -> u64 {
        Meaning.deserialize(&mut serde_json::Deserializer::from_str(text)).unwrap()
    }

    #[test]
    fn a_value_is_hashed_by_what_it_says() {
        let text = r#"{"a":[1e-8,null,true],"b":{"c":"\u00e9","d":-3}}"#;
        let same = r#"{ "b": {"d": -3, "c": "é"}, "a": [0.00000001, null, true] }"#;
        assert_eq!(meaning(text), meaning(same));
        let others =
            ["1", "1.0", "\"1\"", "[1]", "[[1]]", "{\"1\":1}", "null", "false", "true", "[]", "{}", "-1"];
        for (i, one) in others.iter().enumerate() {
            for other in &others[..i] {
                assert_ne!(meaning(one), meaning(other), "{one} {other}");
            }
        }
        assert_ne!(meaning("[1,2]"), meaning("[2,1]"));
        assert_ne!(meaning(r#"{"a":1,"b":2}"#), meaning(r#"{"a":2,"b":1}"#));
    }

    #[test]
    fn all_nans_are_one() {
        for len in [3, 3 * CHUNK / 4] {
            let mut values = vec![1.5f32; len];
            let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
            let whole = hash(Dtype::F32, &[len], &bytes(&values));
            let mut found = Vec::new();
            for bits in [0x7fc0_0000, 0xffc0_0000, 0x7f80_0001, 0xffff_ffff, 0x7f80_0000u32] {
                *values.last_mut().unwrap() = f32::from_bits(bits);
                found.push(hash(Dtype::F32, &[len], &bytes(&values)));
            }
            assert!(found[..4].iter().all(|other| *other == found[0]));
            // Infinity is none.
            assert!(found[4] != found[0] && found[0] != whole);
        }
        let of = |dtype, bits: [u16; 2]| hash(dtype, &[2], &bits.map(u16::to_le_bytes).concat());
        assert_eq!(of(Dtype::BF16, [1, 0xff81]), of(Dtype::BF16, [1, 0x7fc0]));
        assert_ne!(of(Dtype::BF16, [1, 0xff80]), of(Dtype::BF16, [1, 0x7f80]));
        assert_eq!(of(Dtype::F16, [1, 0xfc01]), of(Dtype::F16, [1, 0x7e00]));
        assert_ne!(of(Dtype::F16, [1, 0x7c00]), of(Dtype::F16, [1, 0x7e00]));
        let of = |bits: u64| hash(Dtype::F64, &[], &bits.to_le_bytes());
        assert_eq!(of(0xfff0_0000_0000_0001), of(f64::NAN.to_bits()));
        // Integers are what they are.
        let of = |bits: u32| hash(Dtype::I32, &[1], &bits.to_le_bytes());
        assert_ne!(of(0x7fc0_0000), of(0xffc0_0000));
    }

    #[test]
    fn pieces_hash_as_the_whole() {
        let bytes: Vec<u8> = (0..3 * CHUNK + 40).map(|i| (i * 7 % 251) as u8).collect();
        let mut about = b"U8".to_vec();
        about.extend((bytes.len() as u64).to_le_bytes());
        let whole = XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(&about), &bytes);
        assert_eq!(hash(Dtype::U8, &[bytes.len()], &bytes), whole);
    }

    /// A file that was written keeps its hashes in later versions.
    #[test]
    fn hashes_stay() {
        assert_eq!(hex(hash(Dtype::F32, &[1, 2], &[0, 0, 128, 63, 0, 0, 192, 127])), "0ab12e3aedcfcaa1");
        assert_eq!(hex(meaning(r#"{"a":[1,2.5,"x",null,true]}"#)), "?");
    }
}
