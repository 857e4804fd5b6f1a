//! The allow-list of classes and functions that a pickle may name, and what each means.

use crate::tensor::Dtype;
use std::sync::Arc;

/// What a name means.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Global {
    /// Makes a tensor of a storage, an offset, sizes and strides.
    Tensor,
    /// The same with the element type among the arguments: its storage has none.
    TypedTensor,
    /// Calls another of these for a subclass of `torch.Tensor`, whose attributes are ignored.
    TensorSubclass,
    /// Makes a tensor a parameter: here it stays what it is.
    Parameter,
    /// The class of storages of an element type.
    Storage(Dtype),
    /// The class of storages without one.
    UntypedStorage,
    /// A class that is a dict.
    Dict,
    /// `defaultdict`, whose first argument makes new values.
    DefaultDict,
    /// A class whose attributes are read as a dict.
    Record,
    /// A class that is a tuple.
    Tuple,
    /// `codecs.encode`, which protocols below 3 write bytes with.
    Encode,
    /// `bytes` and `bytearray`.
    Bytes,
    /// `copyreg._reconstructor` and `copyreg.__newobj__`: their first argument is the class.
    Object,
    /// numpy's element types.
    NumpyDtype,
    /// A numpy scalar, of an element type and bytes.
    NumpyScalar,
    /// A numpy array whose contents follow.
    NumpyArray,
    /// A numpy array of a buffer, as protocol 5 writes it.
    NumpyBuffer,
    /// Any other name: what it makes is never built.
    Opaque(Arc<str>),
}

impl Global {
    /// Returns the bytes of an element, of a class of storages.
    pub fn width(&self) -> Option<usize> {
        match self {
            Global::Storage(dtype) => Some(dtype.bytes()),
            Global::UntypedStorage => Some(1),
            Global::Opaque(name) => match name.strip_prefix("torch.")? {
                "QInt8Storage" | "QUInt8Storage" | "QUInt4x2Storage" | "QUInt2x4Storage" => Some(1),
                "QInt32Storage" => Some(4),
                "ComplexFloatStorage" => Some(8),
                "ComplexDoubleStorage" => Some(16),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The longest name that is kept for messages.
const LONGEST: usize = 120;

/// Looks a name up.
pub(super) fn find(module: &str, name: &str) -> Global {
    if let ("torch", Some(dtype)) = (module, Dtype::ALL.into_iter().find(|dtype| dtype.storage() == name)) {
        return Global::Storage(dtype);
    }
    match (module, name) {
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::Tensor,
        ("torch._utils", "_rebuild_tensor_v3") => Global::TypedTensor,
        ("torch._tensor", "_rebuild_from_type" | "_rebuild_from_type_v2") => Global::TensorSubclass,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Global::Parameter,
        ("torch.storage" | "torch", "UntypedStorage") => Global::UntypedStorage,
        ("collections", "OrderedDict" | "Counter") => Global::Dict,
        ("collections", "defaultdict") => Global::DefaultDict,
        ("deepspeed.utils.tensor_fragment", "fragment_address") => Global::Record,
        ("torch", "Size") => Global::Tuple,
        ("_codecs" | "codecs", "encode") => Global::Encode,
        ("__builtin__" | "builtins", "bytes" | "bytearray") => Global::Bytes,
        ("copy_reg" | "copyreg", "_reconstructor" | "__newobj__") => Global::Object,
        ("numpy", "dtype") => Global::NumpyDtype,
        ("numpy._core.multiarray" | "numpy.core.multiarray", "scalar") => Global::NumpyScalar,
        ("numpy._core.multiarray" | "numpy.core.multiarray", "_reconstruct") => Global::NumpyArray,
        ("numpy._core.numeric" | "numpy.core.numeric", "_frombuffer") => Global::NumpyBuffer,
        _ => Global::Opaque(dotted(module, name)),
    }
}

/// Returns a name for messages, in which nothing is left that a terminal would take for a command.
fn dotted(module: &str, name: &str) -> Arc<str> {
    let module = match module {
        "__builtin__" => "builtins",
        "copy_reg" => "copyreg",
        other => other,
    };
    let all = module.chars().chain(['.']).chain(name.chars());
    all.take(LONGEST).map(|c| if c.is_control() { '?' } else { c }).collect::<String>().into()
}
