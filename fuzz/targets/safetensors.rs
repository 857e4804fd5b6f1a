//! Checkpoints, and trees of torch's as safetensors: what is read is written as it was.
#![no_main]

use fallline_convert::{Limits, safetensors};
use fallline_optim::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(checkpoint) = Checkpoint::from_bytes(bytes) {
        let again = checkpoint.to_bytes().expect("what is read can be written");
        let again = Checkpoint::from_bytes(&again).expect("and read again");
        assert!(again == checkpoint || format!("{again:?}") == format!("{checkpoint:?}"));
    }
    if let Ok(tree) = safetensors::read(bytes, &Limits::default()) {
        let again = safetensors::write(&tree).expect("what is read can be written");
        safetensors::read(&again, &Limits::default()).expect("and read again");
    }
});
