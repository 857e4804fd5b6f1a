//! Files of torch's as a whole.
#![no_main]

use fallline_convert::{Limits, archive, names};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits { values: 1 << 16, ..Limits::default() };
    let _ = archive::read(bytes, &limits);
    let _ = names(bytes, &limits);
});
