//! The allow-list of classes and functions that a pickle may name, and what each means.

use crate::tensor::Dtype;

/// What a name means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Global {
    /// Makes a tensor of a storage, an offset, a shape and strides.
    Tensor,
    /// Makes a tensor a parameter: here it stays what it is.
    Parameter,
    /// The class of storages of an element type.
    Storage(Dtype),
    /// A class that is a dict.
    Dict,
    /// `defaultdict`, whose first argument makes new values.
    DefaultDict,
    /// A class that is a tuple.
    Tuple,
    /// A class or function whose values are skipped.
    Opaque(&'static str),
}

/// Names that checkpoints have in addition to what is read: MMEngine's message hub, numpy scalars, states of random
/// number generators, element types. What they make is a [`Value::Opaque`](crate::value::Value::Opaque).
const PASSED_OVER: &[(&str, &str, &str)] = &[
    ("mmengine.logging.history_buffer", "HistoryBuffer", "a HistoryBuffer"),
    ("__builtin__", "getattr", "an attribute"),
    ("builtins", "getattr", "an attribute"),
    ("numpy._core.multiarray", "_reconstruct", "a numpy array"),
    ("numpy.core.multiarray", "_reconstruct", "a numpy array"),
    ("numpy._core.multiarray", "scalar", "a numpy scalar"),
    ("numpy.core.multiarray", "scalar", "a numpy scalar"),
    ("numpy", "ndarray", "a numpy array"),
    ("numpy", "dtype", "a numpy type"),
    ("_codecs", "encode", "bytes"),
    ("__builtin__", "bytearray", "bytes"),
    ("__builtin__", "set", "a set"),
    ("__builtin__", "complex", "a complex number"),
    ("collections", "deque", "a deque"),
    ("torch", "device", "a device"),
    ("torch", "float32", "a type"),
    ("torch", "float64", "a type"),
    ("torch", "float16", "a type"),
    ("torch", "bfloat16", "a type"),
    ("torch", "int64", "a type"),
];

/// Looks a name up.
pub(super) fn find(module: &str, name: &str) -> Option<Global> {
    if let ("torch", Some(dtype)) = (module, Dtype::ALL.into_iter().find(|dtype| dtype.storage() == name)) {
        return Some(Global::Storage(dtype));
    }
    Some(match (module, name) {
        ("torch._utils", "_rebuild_tensor_v2") => Global::Tensor,
        ("torch._utils", "_rebuild_parameter") => Global::Parameter,
        ("collections", "OrderedDict" | "Counter") => Global::Dict,
        ("collections", "defaultdict") => Global::DefaultDict,
        ("torch", "Size") => Global::Tuple,
        _ => {
            let known = PASSED_OVER.iter().find(|(m, n, _)| (*m, *n) == (module, name));
            Global::Opaque(known?.2)
        }
    })
}
