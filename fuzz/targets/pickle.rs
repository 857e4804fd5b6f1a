//! Pickles: what is read is written and read again.
#![no_main]

use fallline_convert::{Error, Limits, Result, archive, pickle};
use libfuzzer_sys::fuzz_target;

/// Every storage is there, with as many bytes as its key is long.
struct Zeros;

static ZEROS: [u8; 4096] = [0; 4096];

impl<'a> archive::Storages<'a> for Zeros {
    fn find(&mut self, key: &str) -> Result<&'a [u8]> {
        ZEROS.get(..key.len() * 4).ok_or_else(|| Error::Archive("none".into()))
    }
}

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits { values: 1 << 16, ..Limits::default() };
    if let Ok(value) = pickle::read(bytes, &mut Zeros, &limits) {
        let file = archive::write(&value).expect("what is read can be written");
        archive::read(&file, &Limits::default()).expect("and read again");
    }
});
