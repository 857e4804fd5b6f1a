//! Codes of the driver, and faults of kernels.

/// A result code of the driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(pub i32);

macro_rules! statuses {
    ($($name:ident = $value:literal, $symbol:literal, $text:literal;)*) => {
        impl Status {
            $(pub const $name: Status = Status($value);)*

            /// Returns the name and the description of a code, with a zero at the end of each.
            pub fn names(self) -> Option<(&'static str, &'static str)> {
                match self.0 {
                    $($value => Some((concat!("CUDA_", $symbol, "\0"), concat!($text, "\0"))),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    SUCCESS = 0, "SUCCESS", "no error";
    INVALID_VALUE = 1, "ERROR_INVALID_VALUE", "invalid argument";
    OUT_OF_MEMORY = 2, "ERROR_OUT_OF_MEMORY", "out of memory";
    NO_DEVICE = 100, "ERROR_NO_DEVICE", "no CUDA-capable device is detected";
    INVALID_DEVICE = 101, "ERROR_INVALID_DEVICE", "invalid device ordinal";
    INVALID_CONTEXT = 201, "ERROR_INVALID_CONTEXT", "invalid device context";
    INVALID_PTX = 218, "ERROR_INVALID_PTX", "a PTX JIT compilation failed";
    FILE_NOT_FOUND = 301, "ERROR_FILE_NOT_FOUND", "file not found";
    INVALID_HANDLE = 400, "ERROR_INVALID_HANDLE", "invalid resource handle";
    ILLEGAL_STATE = 401, "ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state";
    NOT_FOUND = 500, "ERROR_NOT_FOUND", "named symbol not found";
    NOT_READY = 600, "ERROR_NOT_READY", "device not ready";
    ILLEGAL_ADDRESS = 700, "ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered";
    OUT_OF_RESOURCES = 701, "ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch";
    TIMEOUT = 702, "ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated";
    PEER_ENABLED = 704, "ERROR_PEER_ACCESS_ALREADY_ENABLED", "peer access is already enabled";
    ILLEGAL_INSTRUCTION = 715, "ERROR_ILLEGAL_INSTRUCTION", "an illegal instruction was encountered";
    MISALIGNED = 716, "ERROR_MISALIGNED_ADDRESS", "misaligned address";
    LAUNCH_FAILED = 719, "ERROR_LAUNCH_FAILED", "unspecified launch failure";
    NOT_SUPPORTED = 801, "ERROR_NOT_SUPPORTED", "operation not supported";
    CAPTURE_UNSUPPORTED = 900, "ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing";
    CAPTURE_INVALIDATED = 901, "ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture";
    CAPTURE_UNJOINED = 904, "ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work";
    CAPTURE_ISOLATION = 905, "ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream";
    CAPTURED_EVENT = 907, "ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream";
    UNKNOWN = 999, "ERROR_UNKNOWN", "unknown error";
}

/// Why a kernel, a copy or a product was stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// The code that all later calls give.
    pub status: Status,
    /// What happened.
    pub message: String,
}

impl Fault {
    pub fn new(status: Status, message: impl Into<String>) -> Fault {
        Fault { status, message: message.into() }
    }
}
