//! Hashes of a checkpoint's entries and of its manifest, by which a load notices what has changed since it was written.
//!
//! They are in the manifest, under `hashes`: 64 bits of XXH3 for each entry and for each key of the manifest, in hexadecimal.
//! Readers that do not know them pass over them.

use super::{Entry, dtype};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::cmp::Ordering;
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
struct Hashes<'t> {
    algorithm: String,
    /// By the entry's key.
    #[serde(borrow)]
    entries: Digests<'t>,
    /// By the manifest's key.
    #[serde(borrow)]
    manifest: Digests<'t>,
}

/// Hashes by key; none for what is no hash. There may be hundreds of thousands: keys are those of the text, in its order.
#[derive(Default)]
struct Digests<'t>(Vec<(Cow<'t, str>, Option<u64>)>);

/// Returns a manifest's text with the hashes of what it says and of the entries.
pub(super) fn added<'v>(
    manifest: &str,
    entries: impl Iterator<Item = (&'v str, &'v TensorView<'v>)>,
) -> serde_json::Result<String> {
    let told: Told<'_> = serde_json::from_str(manifest)?;
    let hashes = Hashes {
        algorithm: ALGORITHM.to_owned(),
        entries: Digests(entries.map(|(key, view)| (key.into(), Some(of_view(view)))).collect()),
        manifest: told.values,
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
    let told: Told<'_> =
        serde_json::from_str(manifest).map_err(|error| format!("its hashes cannot be read: {error}"))?;
    let Some(hashes) = told.hashes else { return Ok(()) };
    if hashes.algorithm != ALGORITHM {
        let algorithm = hashes.algorithm;
        return Err(format!("its hashes are of {algorithm:?}, and this fallline knows {ALGORITHM:?}"));
    }
    let entries = entries.iter().map(|(key, view)| (key.as_str(), view)).collect();
    compare(hashes.entries, entries, |view| Some(of_view(view)), |key| key.to_owned())?;
    let values = told.values.0.iter().map(|(key, hash)| (&**key, *hash)).collect();
    compare(hashes.manifest, values, |hash| hash, |key| format!("the manifest's {key:?}"))
}

/// Compares what is there with its hashes.
fn compare<T: Copy>(
    Digests(mut hashes): Digests<'_>,
    mut there: Vec<(&str, T)>,
    hash: impl Fn(T) -> Option<u64>,
    named: impl Fn(&str) -> String,
) -> Result<(), String> {
    hashes.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    there.sort_unstable_by_key(|(key, _)| *key);
    let (mut absent, mut added, mut changed) = (Vec::new(), Vec::new(), Vec::new());
    let (mut hashes, mut there) = (hashes.iter().peekable(), there.into_iter().peekable());
    loop {
        let order = match (hashes.peek(), there.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((known, _)), Some((key, _))) => (**known).cmp(key),
        };
        let known = hashes.next_if(|_| order.is_le());
        match (known, there.next_if(|_| order.is_ge())) {
            (Some((_, was)), Some((key, found))) if *was != hash(found) => changed.push(key),
            (Some((known, _)), None) => absent.push(&**known),
            (None, Some((key, _))) => added.push(key),
            _ => {}
        }
    }
    let more = |count: usize| if count > 1 { format!(", and {} more", count - 1) } else { String::new() };
    let told = |keys: &[&str], problem: &str| {
        keys.first().map(|key| Err(format!("{} {problem}{}", named(key), more(keys.len()))))
    };
    told(&absent, "is missing, but there is a hash of it")
        .or_else(|| told(&added, "was added or renamed: there is no hash of it"))
        .or_else(|| told(&changed, "does not match its hash"))
        .unwrap_or(Ok(()))
}

impl Serialize for Digests<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, hash)| (key, hash.map(hex))))
    }
}

/// A text of JSON, which is copied only where something in it is escaped.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'t>(#[serde(borrow)] Cow<'t, str>);

impl<'de: 't, 't> Deserialize<'de> for Digests<'t> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digests<'t>, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Digests<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("hashes by key")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Digests<'de>, A::Error> {
                let mut digests = Digests::default();
                while let Some((Text(key), Text(hash))) = map.next_entry()? {
                    digests.0.push((key, u64::from_str_radix(&hash, 16).ok()));
                }
                Ok(digests)
            }
        }
        deserializer.deserialize_map(Keys)
    }
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

/// Returns a hash of a tensor's type, shape and elements, in which all NaNs are one.
fn hash(dtype: Dtype, shape: &[usize], bytes: &[u8]) -> u64 {
    let mut about = format!("{dtype:?}").into_bytes();
    shape.iter().for_each(|extent| about.extend((*extent as u64).to_le_bytes()));
    let seed = XxHash3_64::oneshot(&about);
    if bytes.len() <= CHUNK {
        return XxHash3_64::oneshot_with_seed(seed, one_nan(dtype, bytes).as_deref().unwrap_or(bytes));
    }
    let mut hasher = XxHash3_64::with_seed(seed);
    bytes.chunks(CHUNK).for_each(|chunk| hasher.write(one_nan(dtype, chunk).as_deref().unwrap_or(chunk)));
    hasher.finish()
}

/// Returns elements with one NaN in place of all, if there are any.
fn one_nan(dtype: Dtype, bytes: &[u8]) -> Option<Vec<u8>> {
    match dtype {
        Dtype::F64 => with_one_nan::<f64, 8>(bytes),
        Dtype::F32 => with_one_nan::<f32, 4>(bytes),
        Dtype::BF16 => with_one_nan::<bf16, 2>(bytes),
        Dtype::F16 => with_one_nan::<f16, 2>(bytes),
        _ => None,
    }
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
struct Told<'t> {
    hashes: Option<Hashes<'t>>,
    values: Digests<'t>,
}

impl<'de: 't, 't> Deserialize<'de> for Told<'t> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Told<'t>, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Told<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Told<'de>, A::Error> {
                let mut told = Told { hashes: None, values: Digests::default() };
                while let Some(Text(key)) = map.next_key()? {
                    if key != HASHES {
                        told.values.0.push((key, Some(map.next_value_seed(Meaning)?)));
                    } else if told.hashes.replace(map.next_value()?).is_some() {
                        return Err(A::Error::duplicate_field(HASHES));
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
        assert_eq!(hex(meaning(r#"{"a":[1,2.5,"x",null,true]}"#)), "68cc6ff3ff0f5707");
    }
}
