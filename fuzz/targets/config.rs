//! Configurations in every notation: read or refused, never a panic.
#![no_main]

use fallline_config::Entries;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(entries) = Entries::inline(text) {
        let _ = entries.to_dict();
    }
});
