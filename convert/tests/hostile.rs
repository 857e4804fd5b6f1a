//! Files that were made to do harm: refused, in bounded time and memory, whatever they are.

use fallline_convert::pickle;
use fallline_convert::{Dtype, Error, Limits, Result, Tensor, Value, archive, names, safetensors};
use proptest::prelude::*;
use std::io::{Cursor, Write};
use std::time::{Duration, Instant};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// Far above what any of these needs (milliseconds), and far below what a bomb would take.
const SOON: Duration = Duration::from_secs(20);

/// No storages at all.
struct Nothing;

impl<'a> archive::Storages<'a> for Nothing {
    fn find(&mut self, key: &str) -> Result<&'a [u8]> {
        match key {
            "0" => Ok(&[0; 4096]),
            _ => Err(Error::Archive(format!("{key:?} is missing"))),
        }
    }
}

fn read(bytes: &[u8]) -> Result<Value<'static>> {
    pickle::read(bytes, &mut Nothing, &Limits::default())
}

/// Returns the message of what must be refused, soon.
fn refused(what: &str, bytes: &[u8]) -> String {
    let start = Instant::now();
    let error = match read(bytes) {
        Err(error) => error.to_string(),
        Ok(value) => panic!("{what} is taken: {value:?}"),
    };
    assert!(start.elapsed() < SOON, "{what} takes {:?}", start.elapsed());
    assert!(!error.contains('\n') && error.len() < 500, "{what}: {error}");
    error
}

#[test]
fn every_opcode_that_is_not_read_is_refused_by_its_name() {
    // The registry of extensions and buffers beside the pickle: torch.save writes neither.
    const REFUSED: &[u8] = b"\x82\x83\x84\x97\x98";
    for code in 0..=255u8 {
        // Two values below, so that nothing fails for the lack of them.
        let told = match read(&[&[0x80, 2, b'N', b'N', code][..], &[0; 16]].concat()) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("opcode {code:#x} ends the pickle"),
        };
        let named = told.contains("at byte 4: opcode") && told.ends_with("is not read");
        let unknown = told.contains("an unknown one");
        assert_eq!(named && !unknown, REFUSED.contains(&code), "{code:#x}: {told}");
    }
    for (what, bytes, says) in [
        ("EXT1", &b"\x80\x02\x82\x01."[..], "EXT1"),
        ("NEXT_BUFFER", b"\x80\x05\x97.", "NEXT_BUFFER"),
        ("protocol 6", b"\x80\x06N.", "PROTO 6"),
        ("a name with a newline missing", b"\x80\x02ctorch", "does not end"),
        (
            "a text that is longer than the file",
            b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
            "in the middle",
        ),
        ("a number that is none", b"Ione\n.", "INT"),
        ("a float that is none", b"Fone\n.", "FLOAT"),
        ("a text without its quotes", b"Sone\n.", "STRING"),
        ("a place that is none", b"Npx\n.", "PUT"),
        ("INST without a mark", b"ios\nsystem\n.", "INST"),
        ("OBJ without a class", b"(o.", "OBJ"),
        ("STACK_GLOBAL of numbers", b"K\x01K\x02\x93.", "STACK_GLOBAL"),
        ("a storage that is none", b"Pnothing\n.", "PERSID"),
    ] {
        let error = refused(what, bytes);
        assert!(error.contains(says), "{what}: {error}");
    }
}

#[test]
fn what_is_passed_over_is_never_called() {
    let opaque =
        |bytes: &[u8], class: &str| assert_eq!(read(bytes).unwrap(), Value::opaque(class), "{class}");
    // What classic attacks begin with: each is a name, and what it makes is a mark without a meaning.
    opaque(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.", "os.system");
    opaque(b"(X\x02\x00\x00\x00idios\nsystem\n.", "os.system");
    opaque(b"(cos\nsystem\nX\x02\x00\x00\x00ido.", "os.system");
    opaque(b"\x80\x04X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93)R.", "os.system");
    opaque(b"\x80\x02c__builtin__\neval\n.", "builtins.eval");
    opaque(b"\x80\x02ctorch.storage\n_load_from_bytes\n)R.", "torch.storage._load_from_bytes");
    opaque(b"\x80\x04ca\nB\n)}\x92}b.", "a.B");
    // getattr(HistoryBuffer, "mean"): MMEngine's message hub has it.
    let bytes = b"\x80\x02c__builtin__\ngetattr\ncmmengine.logging.history_buffer\nHistoryBuffer\nX\x04\x00\x00\x00mean\x86R.";
    opaque(bytes, "builtins.getattr");
    // Whatever is put into it is gone, too.
    opaque(b"\x80\x02ca\nB\n)R(K\x01K\x02uK\x03a}b.", "a.B");
    // A name is shown without what a terminal would take for a command.
    opaque(b"\x80\x02ca\x1b[31m\nB\n.", "a?[31m.B");
}

#[test]
fn protocol_0_is_text() {
    let value = |bytes: &[u8]| read(bytes).unwrap();
    assert_eq!(value(b"I-12\n."), Value::Int(-12));
    assert_eq!((value(b"I01\n."), value(b"I00\n.")), (Value::Bool(true), Value::Bool(false)));
    assert_eq!(value(b"L123L\n."), Value::Int(123));
    assert_eq!(value(b"L99999999999999999999L\n."), Value::opaque("a number of more than 64 bits"));
    assert_eq!(value(b"F1e-3\n."), Value::Float(1e-3));
    assert_eq!(value(b"S'a\\'\\x41\\n'\n."), Value::str("a'A\n"));
    assert_eq!(value(b"V\\u00e9\xe9\\U0001f600\n."), Value::str("\u{e9}\u{e9}\u{1f600}"));
    assert_eq!(value(b"(I1\nI2\nlp0\n0g0\n."), Value::List(vec![Value::Int(1), Value::Int(2)]));
    assert_eq!(value(b"(Va\nI1\nd."), Value::dict([("a", Value::Int(1))]));
}

/// Returns `{"k": {"k": … }}` by references: 2^depth values of a pickle with three opcodes a level.
fn laughs(depth: usize) -> Vec<u8> {
    let mut bytes = vec![0x80, 2, b']', b'q', 0];
    for level in 0..depth {
        bytes.extend([b'h', level as u8, b'h', level as u8, 0x86, b'q', level as u8 + 1]);
    }
    bytes.push(b'.');
    bytes
}

#[test]
fn structures_that_grow_or_contain_themselves_are_refused() {
    let error = refused("a billion laughs", &laughs(60));
    assert!(error.contains("more than"), "{error}");
    let ten = read(&laughs(10)).unwrap();
    assert!(matches!(ten, Value::Tuple(_)));
    // Names and the whole: dicts that share a dict.
    let error = refused("a list in itself", b"\x80\x02]q\x00h\x00a.");
    assert!(error.contains("contains itself"), "{error}");
    let error = refused("a dict in itself", b"\x80\x02}q\x00X\x01\x00\x00\x00kh\x00s.");
    assert!(error.contains("contains itself"), "{error}");
    let error = refused("a longer way round", b"\x80\x02]q\x00]q\x01h\x00ah\x01\x86q\x02h\x00h\x02a.");
    assert!(error.contains("itself") || error.contains("levels"), "{error}");
    let deep = [&[0x80, 2][..], &b"]".repeat(100_000), &b"a".repeat(99_999), b"."].concat();
    let error = refused("a deep list", &deep);
    assert!(error.contains("levels"), "{error}");
    // A memo that is written all over: four billion places, few of them taken.
    let far = b"\x80\x02Nr\xff\xff\xff\xffj\xff\xff\xff\xff0";
    assert!(refused("a far memo", far).contains("in the middle"));
    // Many values from few bytes.
    let many = [&[0x80, 2, b'('][..], &b"]".repeat(5_000_000), b"t."].concat();
    assert!(refused("five million lists", &many).contains("more than"));
    // The same in the memo, on the stack and in marks, from a byte each.
    for (what, opcode) in
        [("five million places", 0x94), ("five million copies", b'2'), ("five million marks", b'(')]
    {
        let many = [&b"\x80\x04N"[..], &vec![opcode; 5_000_000], b"."].concat();
        assert!(refused(what, &many).contains("more than"), "{what}");
    }
    // A large value that is copied by every call.
    let mut copies = vec![0x80, 2, b'}', b'q', 0, b'('];
    (0..100_000u32).for_each(|i| copies.extend([&[b'J'][..], &i.to_le_bytes(), b"N"].concat()));
    copies.extend(b"uccollections\nOrderedDict\nq\x01h\x00\x85q\x02");
    (0..500_000).for_each(|_| copies.extend(b"h\x01h\x02R"));
    assert!(refused("copies", &copies).contains("more than"));
    // The same with a call that only looks at its arguments.
    let mut looks = vec![0x80, 2, b'('];
    looks.extend(b"N".repeat(1_000_000));
    looks.extend(b"tq\x00cnumpy\ndtype\nq\x01");
    (0..500_000).for_each(|_| looks.extend(b"h\x01h\x00R"));
    looks.push(b'0');
    assert!(refused("looks", &looks).contains("in the middle"));
}

/// Returns a tensor with these numbers, of a storage with 4,096 bytes.
fn tensor(elements: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let int = |x: i64| [&[0x8a, 8][..], &x.to_le_bytes()].concat();
    let tuple =
        |list: &[i64]| [b"(".to_vec(), list.iter().flat_map(|&x| int(x)).collect(), b"t".to_vec()].concat();
    let mut bytes =
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
            .to_vec();
    bytes.extend(b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu");
    bytes.extend([int(elements), b"tQ".to_vec(), int(offset), tuple(shape), tuple(strides)].concat());
    bytes.extend(b"\x89N\x74R.");
    bytes
}

#[test]
fn tensors_stay_within_their_storage() {
    let good = read(&tensor(1024, 0, &[32, 32], &[1, 32])).unwrap();
    let Value::Tensor(good) = good else { panic!("no tensor") };
    assert_eq!(good.numbers().len(), 1024);
    let huge = i64::MAX;
    for (what, bytes) in [
        ("a storage of other elements", tensor(1 << 40, 0, &[4], &[1])),
        ("a negative storage", tensor(-1, 0, &[4], &[1])),
        ("behind the end", tensor(1024, 1000, &[100], &[1])),
        ("a stride too wide", tensor(1024, 0, &[4], &[huge])),
        ("strides that wrap", tensor(1024, 0, &[3, 3], &[huge, huge])),
        ("extents that wrap", tensor(1024, 0, &[1 << 33, 1 << 33], &[0, 0])),
        ("one element, repeated for ever", tensor(1024, 0, &[1 << 40], &[0])),
        ("a negative extent", tensor(1024, 0, &[-1], &[1])),
        ("a negative stride", tensor(1024, 3, &[3], &[-1])),
        ("a negative offset", tensor(1024, -1, &[3], &[1])),
        ("an offset behind the end, of nothing", tensor(1024, 2000, &[0], &[1])),
        ("more strides than extents", tensor(1024, 0, &[3], &[1, 1])),
        ("a thousand dimensions", tensor(1024, 0, &[1; 1000], &[1; 1000])),
    ] {
        refused(what, &bytes);
    }
    // A view that repeats elements is what it stands for, as long as that is not far more than there is.
    let Value::Tensor(repeated) = read(&tensor(1024, 0, &[1025], &[0])).unwrap() else { panic!("no tensor") };
    assert_eq!(repeated.numbers().len(), 1025);
    let error = refused("a gigabyte of one element", &tensor(1024, 0, &[1 << 28], &[0]));
    assert!(error.contains("bytes of tensors"), "{error}");
    // So are tensors that share a storage.
    let one = tensor(1024, 0, &[1024], &[1]);
    let mut many = vec![0x80, 2, b'('];
    many.extend(&one[2..one.len() - 1]);
    many.extend([b'q', 0]);
    (0..100_000).for_each(|_| many.extend([b'h', 0]));
    many.extend(b"t.");
    let error = refused("one storage a hundred thousand times", &many);
    assert!(error.contains("bytes of tensors"), "{error}");
    // A text that stands for bytes is decoded wherever an array has it.
    let mut arrays = b"\x80\x02(c_codecs\nencode\nX\x00\x00\x10\x00".to_vec();
    arrays.resize(arrays.len() + (1 << 20), b'a');
    arrays.extend(b"X\x06\x00\x00\x00latin1\x86Rq\x00cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85Rq\x01");
    arrays.extend(b"cnumpy.core.multiarray\nscalar\nq\x02");
    let mut long = arrays.clone();
    for _ in 0..100_000 {
        arrays.extend(b"h\x02h\x01h\x00\x86R0");
    }
    arrays.extend(b"t.");
    assert!(read(&arrays).is_ok());
    // As long as may be.
    let short = long.windows(4).position(|at| at == [0, 0, 0x10, 0]).unwrap();
    long[short..short + 4].copy_from_slice(&(1u32 << 16).to_le_bytes());
    long.drain(short + 4..short + 4 + (1 << 20) - (1 << 16));
    for _ in 0..100_000 {
        long.extend(b"h\x02h\x01h\x00\x86R0");
    }
    long.extend(b"t.");
    let error = refused("one text decoded a hundred thousand times", &long);
    assert!(error.contains("values"), "{error}");
    // And the name of what is never built does not grow.
    let mut nested = b"\x80\x02ca\nB\n)Rq\x00ctorch._utils\n_rebuild_tensor_v2\nq\x01".to_vec();
    nested.extend(b"h\x00");
    (0..100_000).for_each(|_| nested.extend(b"q\x02h\x01h\x02\x85R"));
    nested.push(b'.');
    assert_eq!(read(&nested).unwrap(), Value::opaque("a tensor of a.B"));
    // The stride of a single row may be anything.
    let Value::Tensor(row) = read(&tensor(1024, 0, &[2, 1, 3], &[3, huge, 1])).unwrap() else {
        panic!("no tensor")
    };
    assert_eq!(row.bytes().len(), 24);
}

type Options = SimpleFileOptions;

fn zipped(entries: &[(&str, &[u8])], options: Options) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn stored() -> Options {
    Options::default().compression_method(CompressionMethod::Stored)
}

fn archive_error(what: &str, bytes: &[u8]) -> String {
    let start = Instant::now();
    let error = match archive::read(bytes, &Limits::default()) {
        Err(error) => error.to_string(),
        Ok(value) => panic!("{what} is taken: {value:?}"),
    };
    assert!(start.elapsed() < SOON, "{what} takes {:?}", start.elapsed());
    error
}

/// Returns a small file as torch would have it.
fn good() -> Vec<u8> {
    let numbers: Vec<u8> = (0..64u8).collect();
    let tensor = Tensor::new(Dtype::Float32, vec![4, 4], numbers).unwrap();
    let state = Value::Dict(vec![(
        0.into(),
        Value::dict([("step", Value::Int(3)), ("exp_avg", Value::Tensor(tensor))]),
    )]);
    let group = Value::dict([("lr", Value::Float(0.1)), ("params", Value::List(vec![Value::Int(0)]))]);
    archive::write(&Value::dict([("state", state), ("param_groups", Value::List(vec![group]))])).unwrap()
}

/// Returns the bytes with a change at every place that has a pattern.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    let places: Vec<usize> =
        (0..bytes.len() - from.len()).filter(|&i| bytes[i..].starts_with(from)).collect();
    assert!(!places.is_empty());
    places.into_iter().for_each(|i| changed[i..i + to.len()].copy_from_slice(to));
    changed
}

#[test]
fn archives_that_lie_are_refused() {
    let none: &[u8] = b"\x80\x02N.";
    let good = good();
    assert!(archive::read(&good, &Limits::default()).is_ok());
    for (what, name, says) in [
        ("up and away", "../data.pkl", "elsewhere"),
        ("an absolute name", "/etc/data.pkl", "elsewhere"),
        ("a drive", "c:/data.pkl", "elsewhere"),
        ("a backslash", "a\\data.pkl", "elsewhere"),
        ("a name with a NUL", "a\0/data.pkl", "elsewhere"),
        ("no folder", "data.pkl", "no data.pkl"),
        ("another file", "a/other.pkl", "no data.pkl"),
    ] {
        let error = archive_error(what, &zipped(&[(name, none)], stored()));
        assert!(error.contains(says), "{what}: {error}");
    }
    let error =
        archive_error("two of them", &zipped(&[("a/data.pkl", none), ("b/data.pkl", none)], stored()));
    assert!(error.contains("two data.pkl"), "{error}");
    let error = archive_error("no bytes", b"");
    assert!(error.contains("not a file of torch.save"), "{error}");
    let old =
        archive_error("torch's old format", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.");
    assert!(old.contains("cut short"), "{old}");
    let old = archive_error("another version", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02K\x01.");
    assert!(old.contains("another version"), "{old}");
    let twice =
        replaced(&zipped(&[("a/data.pkl", none), ("a/data.pkm", none)], stored()), b"data.pkm", b"data.pkl");
    let error = archive_error("the same name twice", &twice);
    assert!(error.contains("same name"), "{error}");
    let big = replaced(&good, b"little", b"bigger");
    let error = archive_error("a changed entry", &big);
    assert!(error.to_lowercase().contains("checksum") || error.contains("crc"), "{error}");
    // Method 8 is deflate: a bomb would need it.
    let mut deflated = good.clone();
    let directory = good.windows(4).position(|at| at == b"PK\x01\x02").unwrap();
    deflated[directory + 10] = 8;
    let error = archive_error("a compressed entry", &deflated);
    assert!(error.contains("compressed"), "{error}");
    // A size that the file does not have.
    let mut sized = good.clone();
    sized[directory + 20..directory + 28].copy_from_slice(&[0xfe; 8]);
    archive_error("an entry of 4 GB", &sized);
    // Two entries on the same bytes.
    let second = directory + good[directory + 4..].windows(4).position(|at| at == b"PK\x01\x02").unwrap() + 4;
    let mut overlapping = good.clone();
    let (from, to) = (directory + 42, second + 42);
    overlapping.copy_within(from..from + 4, to);
    overlapping.copy_within(directory + 16..directory + 28, second + 16);
    archive_error("entries on the same bytes", &overlapping);
    // More entries than there are.
    let end = good.len() - 22;
    let mut counted = good.clone();
    counted[end + 8..end + 12].copy_from_slice(&[0xfe, 0xff, 0xfe, 0xff]);
    archive_error("65,534 entries", &counted);
    for length in (0..good.len()).step_by(7).chain(good.len() - 30..good.len()) {
        archive_error("a cut file", &good[..length]);
    }
    // A storage that is missing, or on the way elsewhere.
    for key in ["7", "../data.pkl", ""] {
        let mut wrong = tensor(1024, 0, &[4], &[1]);
        let place = wrong.windows(6).position(|at| at == b"X\x01\x00\x00\x000").unwrap();
        let text =
            [b"X".to_vec(), (key.len() as u32).to_le_bytes().to_vec(), key.as_bytes().to_vec()].concat();
        wrong.splice(place..place + 6, text);
        let error = archive_error("a storage elsewhere", &zipped(&[("a/data.pkl", &wrong)], stored()));
        assert!(error.contains("missing"), "{error}");
    }
    let one = Limits { entries: 1, ..Limits::default() };
    assert!(matches!(archive::read(&good, &one), Err(Error::Limit { .. })));
    let small = Limits { pickle_bytes: 10, ..Limits::default() };
    assert!(matches!(archive::read(&good, &small), Err(Error::Limit { .. })));
}

#[test]
fn safetensors_that_lie_are_refused() {
    let Ok(tree) = archive::read(GOOD.get_or_init(good), &Limits::default()) else { panic!("a good file") };
    let bytes = safetensors::write(&tree).unwrap();
    assert_eq!(safetensors::read(&bytes, &Limits::default()).unwrap(), tree);
    let header = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let tree = |tree: &str| header(&serde_json::json!({ "__metadata__": { "torch": tree } }).to_string());
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a header of 2^64 bytes", [&u64::MAX.to_le_bytes()[..], &bytes[8..]].concat()),
        ("a header of 1 GB", [&(1u64 << 30).to_le_bytes()[..], &bytes[8..]].concat()),
        ("no tree", header("{}")),
        ("a tree nested deeply", tree(&"[".repeat(100_000))),
        ("a tensor that is not there", tree(r#"{"$tensor": "x"}"#)),
        ("an object that is no dict", tree(r#"{"a": 1}"#)),
        ("a key that is a list", tree(r#"{"$dict": [[[], 1]]}"#)),
        ("a number of more than 64 bits", tree("99999999999999999999999")),
        (
            "overlapping offsets",
            [
                header(r#"{"__metadata__":{"torch":"null"},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#),
                vec![0; 6],
            ]
            .concat(),
        ),
        (
            "a shape that wraps",
            header(r#"{"__metadata__":{"torch":"null"},"a":{"dtype":"U8","shape":[9223372036854775807,9223372036854775807],"data_offsets":[0,1]}}"#),
        ),
    ];
    for (what, bytes) in cases {
        let start = Instant::now();
        assert!(safetensors::read(&bytes, &Limits::default()).is_err(), "{what} is taken");
        assert!(start.elapsed() < SOON, "{what}");
    }
    // The same tensor a million times is a million values of a small file: limited as well.
    let few = Limits { values: 1000, ..Limits::default() };
    let many = tree(&format!("[{}1]", "1,".repeat(2000)));
    assert!(matches!(safetensors::read(&many, &few), Err(Error::Limit { .. })));
}

#[test]
fn lists_of_names_are_read_or_refused() {
    let read = |text: &str| names(text.as_bytes(), &Limits::default());
    assert_eq!(read("a\n\n b \n").unwrap(), [("a".to_owned(), None), ("b".to_owned(), None)]);
    assert_eq!(read(r#"["b", "a"]"#).unwrap()[0].0, "b");
    assert_eq!(read(r#"{"b": {"shape": [2, 3]}, "a": {}}"#).unwrap()[0], ("b".to_owned(), Some(vec![2, 3])));
    for wrong in ["[1]", "{\"a\": {\"shape\": [-1]}}", "[\"a\"", "{\"a\": {\"shape\": 3}}"] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
    assert!(names(b"\xff\xfe", &Limits::default()).is_err());
    let safetensors = safetensors::write(&Value::None).unwrap();
    assert!(names(&safetensors, &Limits::default()).unwrap_err().to_string().contains("safetensors"));
}

static GOOD: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();

/// Returns a pickle's opcodes with arguments that mostly fit, in any order.
fn opcodes() -> impl Strategy<Value = Vec<u8>> {
    let one = prop_oneof![
        Just(b"(".to_vec()),
        Just(b"N".to_vec()),
        Just(b"]".to_vec()),
        Just(b"}".to_vec()),
        Just(b")".to_vec()),
        Just(b"t".to_vec()),
        Just(b"\x85".to_vec()),
        Just(b"\x86".to_vec()),
        Just(b"a".to_vec()),
        Just(b"e".to_vec()),
        Just(b"s".to_vec()),
        Just(b"u".to_vec()),
        Just(b"R".to_vec()),
        Just(b"b".to_vec()),
        Just(b"Q".to_vec()),
        Just(b"ccollections\nOrderedDict\n".to_vec()),
        Just(b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec()),
        Just(b"ctorch\nFloatStorage\n".to_vec()),
        Just(b"X\x07\x00\x00\x00storage".to_vec()),
        Just(tensor(1024, 0, &[2, 3], &[3, 1])[2..].to_vec()).prop_map(|mut bytes| {
            bytes.pop();
            bytes
        }),
        Just(b"cnumpy\ndtype\n".to_vec()),
        Just(b"cnumpy.core.multiarray\nscalar\n".to_vec()),
        Just(b"cnumpy.core.multiarray\n_reconstruct\n".to_vec()),
        Just(b"ccopy_reg\n_reconstructor\n".to_vec()),
        Just(b"cdeepspeed.utils.tensor_fragment\nfragment_address\n".to_vec()),
        Just(b"X\x02\x00\x00\x00f8C\x08\x00\x00\x00\x00\x00\x00\xf0?".to_vec()),
        Just(b"P('storage', <class 'torch.FloatStorage'>, '0', 'cpu', 1024)\n".to_vec()),
        Just(b"I7\n".to_vec()),
        Just(b"d".to_vec()),
        Just(b"l".to_vec()),
        Just(b"o".to_vec()),
        Just(b"0".to_vec()),
        Just(b"1".to_vec()),
        Just(b"\x93".to_vec()),
        Just(b"\x94".to_vec()),
        (0..4u8).prop_map(|place| vec![b'q', place]),
        (0..4u8).prop_map(|place| vec![b'h', place]),
        any::<u8>().prop_map(|x| vec![b'K', x]),
        any::<[u8; 8]>().prop_map(|x| [&[b'G'][..], &x].concat()),
        any::<[u8; 9]>().prop_map(|x| [&[0x8a, 9][..], &x].concat()),
        any::<u8>().prop_map(|x| vec![x]),
    ];
    proptest::collection::vec(one, 0..60).prop_map(|parts| [b"\x80\x02", &parts.concat()[..], b"."].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 2_000 } else { 20_000 }))]

    /// Whatever is read is written and read as the same again; whatever is not is an error, never a panic.
    #[test]
    fn any_opcodes_are_read_or_refused(bytes in opcodes()) {
        if let Ok(value) = read(&bytes) {
            let file = archive::write(&value).unwrap();
            let again = archive::read(&file, &Limits::default()).unwrap();
            // What was never built is written as None.
            if value.skipped_keys().is_empty() {
                prop_assert_eq!(format!("{:?}", values(&again)), format!("{:?}", values(&value)));
            }
        }
    }

    #[test]
    fn a_damaged_file_is_read_or_refused(
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<proptest::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let mut bytes = GOOD.get_or_init(good).clone();
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = archive::read(&bytes, &Limits::default());
    }

    #[test]
    fn any_bytes_are_refused_quickly(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = archive::read(&[b"PK\x03\x04", &bytes[..]].concat(), &Limits::default());
        let _ = read(&bytes);
        let _ = safetensors::read(&bytes, &Limits::default());
        let _ = names(&bytes, &Limits::default());
    }
}

/// Returns a tree with every tensor as its numbers, whatever view of its storage it is.
fn values(value: &Value<'_>) -> Vec<String> {
    match value {
        Value::Tensor(tensor) => {
            vec![format!("{:?} {:?} {:?}", tensor.dtype(), tensor.shape(), tensor.bytes())]
        }
        Value::List(items) | Value::Tuple(items) => {
            let kind = if matches!(value, Value::List(_)) { "list" } else { "tuple" };
            [kind.to_owned()].into_iter().chain(items.iter().flat_map(values)).collect()
        }
        Value::Dict(entries) => entries
            .iter()
            .flat_map(|(key, value)| [vec![format!("{key:?}")], values(value)].concat())
            .collect(),
        other => vec![format!("{other:?}")],
    }
}
