//! States of torch's optimizers, from a file or its pickle to a checkpoint, and back to a file.
#![no_main]

use fallline_convert::{
    Container, ExportOptions, ImportOptions, Limits, Result, Value, archive, from_torch, pickle, to_torch,
};
use fallline_core::{Kernel, Link, Rule};
use fallline_optim::algorithms::{Adafactor, AdamW, AdamW8bit, Adamax, Lamb, Muon, NAdam, Sgd};
use fallline_optim::line_search::{Lbfgs, Search};
use fallline_optim::{Aliased, AnyAlgorithm, Checkpoint, Linked, Method};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

/// Rules that are never run: only states are read.
struct Unrun;

impl Link for Unrun {
    fn kernel<R: Rule>() -> &'static Kernel {
        &Of::<R>::KERNEL
    }
}

/// A rule with its kernel.
struct Of<R>(R);

impl<R: Rule> Of<R> {
    const KERNEL: Kernel = Kernel::new::<R>(&());
}

fn method<A: fallline_optim::Algorithm + Default>() -> Method {
    let algorithm: Box<dyn AnyAlgorithm> =
        Box::new(Linked::<A, Unrun>::new(A::default()).expect("defaults are in range"));
    Method::from(&*algorithm)
}

/// Algorithms whose layouts have every kind of row there is.
static METHODS: LazyLock<Vec<Method>> = LazyLock::new(|| {
    let coded = Aliased::<AdamW8bit, Unrun>::new(AdamW8bit::default()).expect("defaults are in range");
    vec![
        method::<AdamW>(),
        method::<Sgd>(),
        method::<Adafactor>(),
        method::<Lamb>(),
        method::<Adamax>(),
        method::<NAdam>(),
        method::<Muon>(),
        Method::from(&coded as &dyn AnyAlgorithm),
        Method::Search(Search::new::<Unrun>(Lbfgs::default()).expect("defaults are in range")),
    ]
});

/// A storage whose key says how many bytes it has: no archive and no sums stand between a pickle and its import.
struct Counted;

static BYTES: [u8; 1 << 14] = {
    let mut bytes = [0; 1 << 14];
    let mut i = 0;
    while i < bytes.len() {
        // Floats between 0.5 and 1 in every width, mostly.
        bytes[i] = if i % 4 == 3 { 0x3f } else { (i % 64) as u8 };
        i += 1;
    }
    bytes
};

impl<'a> pickle::Storages<'a> for Counted {
    fn find(&mut self, key: &str) -> Result<&'a [u8]> {
        let length = key.parse().ok().and_then(|length: usize| BYTES.get(..length));
        length.ok_or_else(|| fallline_convert::Error::Archive("there is no such storage".into()))
    }
}

fn convert(tree: &Value<'_>) {
    for method in &*METHODS {
        for lenient in [false, true] {
            let options = ImportOptions { number: true, lenient, ..ImportOptions::default() };
            let Ok((checkpoint, _)) = from_torch(tree, method, &options) else { continue };
            let bytes = checkpoint.to_bytes().expect("what is imported can be written");
            let again = Checkpoint::from_bytes(&bytes).expect("and read again");
            let options =
                ExportOptions { number: true, container: Container::Training, ..Default::default() };
            let groups: Vec<Method> = again
                .manifest
                .optimizer
                .iter()
                .flat_map(|optimizer| optimizer.groups())
                .filter_map(|values| {
                    let mut group = method.clone();
                    group.set(&values).ok()?;
                    Some(group)
                })
                .collect();
            if let Ok((tree, _)) = to_torch(&again, &groups, &options) {
                let file = archive::write(&tree).expect("what is exported can be written");
                archive::read(&file, &Limits::default()).expect("and read again");
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits { values: 1 << 16, ..Limits::default() };
    let tree = match archive::is_torch(bytes) {
        true => archive::read(bytes, &limits),
        false => pickle::read(bytes, &mut Counted, &limits),
    };
    if let Ok(tree) = tree {
        convert(&tree);
    }
});
