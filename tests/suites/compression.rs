//! The compression to one bit an element: what DeepSpeed's gives, and what must hold of it.

use crate::common::{Random, backends, bits};
use fallline::core::Storage;
use fallline::core::host::{Slice, SliceMut};
use fallline::optim::compression::Compression;
use fallline::{Backend, Compute, Native};
use proptest::prelude::*;
use safetensors::SafeTensors;

fn stored(backend: &dyn Backend, compute: Compute, values: &[f64]) -> Storage {
    let mut storage = backend.allocate(&[(compute.format(), values.len())]).unwrap().remove(0);
    backend.write(&mut storage, Slice::from(values)).unwrap();
    storage
}

fn values(backend: &dyn Backend, storage: &Storage) -> Vec<f64> {
    let mut values = vec![0.0f64; storage.len()];
    backend.read(storage, SliceMut::from(values.as_mut_slice())).unwrap();
    values
}

#[test]
fn a_world_of_one_gives_what_the_source_gives() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/compression.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |key: &str| -> Vec<f64> {
        let view = file.tensor(key).unwrap();
        view.data().as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()
    };
    let compression = Compression::new::<Native>();
    for backend in backends() {
        let backend = &*backend;
        let zeros = vec![0.0; numbers("worker_error/0").len()];
        let mut worker = stored(backend, Compute::F32, &zeros);
        let mut server = stored(backend, Compute::F32, &zeros);
        for t in 0..6 {
            let mut filled = numbers(&format!("x/{t}"));
            let own = filled.len();
            assert!(own < zeros.len(), "the buffer is filled up with zeros");
            filled.resize(zeros.len(), 0.0);
            let mut x = stored(backend, Compute::F32, &filled);
            compression.quantize_1bit(backend, Compute::F32, &mut x, &mut worker).unwrap();
            // The mean of what one worker sent is what it sent.
            compression.quantize_1bit(backend, Compute::F32, &mut x, &mut server).unwrap();
            let found = [&x, &worker, &server].map(|storage| values(backend, storage));
            let scale = found[0].iter().fold(0.0f64, |most, x| most.max(x.abs()));
            for (what, found) in ["result", "worker_error", "server_error"].iter().zip(&found) {
                for (i, (got, expected)) in found.iter().zip(numbers(&format!("{what}/{t}"))).enumerate() {
                    // Errors add up from round to round. In each the scale has the roundings of a sum of 40 squares, of
                    // a root and a division (at most 25 half units), and each element three of its own, at a size
                    // of at most 4 scales (10² against a root mean square of half of that).
                    let allowed =
                        f64::from(t + 1) * 2.0 * (25.0 + 3.0 * 4.0) * 0.5 * f64::from(f32::EPSILON) * scale;
                    assert!((got - expected).abs() <= allowed, "{what}/{t}[{i}]: {got} is not {expected}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    #[test]
    fn signs_and_what_they_leave_out_are_the_whole(
        n in prop_oneof![0..40usize, 4000..5000usize], seed in any::<u64>(), double in any::<bool>(),
    ) {
        let compute = if double { Compute::F64 } else { Compute::F32 };
        let epsilon = if double { f64::EPSILON } else { f64::from(f32::EPSILON) };
        let mut random = Random(seed);
        let (x, error) = (random.units(n), random.units(n));
        let mut first = None;
        for backend in backends() {
            let backend = &*backend;
            let (mut to, mut left) = (stored(backend, compute, &x), stored(backend, compute, &error));
            let before: Vec<f64> =
                values(backend, &to).iter().zip(values(backend, &left)).map(|(x, e)| x + e).collect();
            let scale = Compression::new::<Native>().quantize_1bit(backend, compute, &mut to, &mut left).unwrap();
            let (signs, left) = (values(backend, &to), values(backend, &left));
            let norm = before.iter().map(|x| x * x).sum::<f64>().sqrt();
            // 25 roundings of a sum of squares (tests/suites/properties.rs), halved by the root, one of each x + e, doubled.
            prop_assert!((scale * (n as f64).sqrt() - norm).abs() <= 16.0 * epsilon * norm);
            for ((sign, left), whole) in signs.iter().zip(&left).zip(&before) {
                prop_assert_eq!(sign.abs(), if double { scale } else { f64::from(scale as f32) });
                // |x + e| below 2: where it rounds to 0 exactly, its sign is not the rounded one's.
                prop_assert!(whole.abs() <= 2.0 * epsilon || (*sign > 0.0) == (*whole > 0.0) || scale == 0.0);
                // A rounding of x + e and one of the difference, of numbers below 4.
                prop_assert!((sign + left - whole).abs() <= 4.0 * epsilon);
            }
            let found = (scale.to_bits(), bits(&signs), bits(&left));
            prop_assert!(*first.get_or_insert_with(|| found.clone()) == found, "{}", backend.describe());
        }
    }
}

#[test]
fn zeros_count_as_positive_and_errors_must_fit() {
    for backend in backends() {
        let backend = &*backend;
        let compression = Compression::new::<Native>();
        let (mut x, mut error) =
            (stored(backend, Compute::F32, &[0.0, -0.0, -3.0]), stored(backend, Compute::F32, &[0.0; 3]));
        let scale = compression.quantize_1bit(backend, Compute::F32, &mut x, &mut error).unwrap();
        let s = f64::from(scale as f32);
        assert_eq!(values(backend, &x), [s, s, -s]);
        let mut short = stored(backend, Compute::F32, &[0.0; 2]);
        let refused = compression.quantize_1bit(backend, Compute::F32, &mut x, &mut short).unwrap_err();
        assert!(refused.to_string().contains("the error of a compression"), "{refused}");
        assert_eq!(values(backend, &x), [s, s, -s]);
    }
}
