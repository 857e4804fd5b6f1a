//! What a text is printed for, and the text.

/// The PTX version and architecture that a text is printed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// PTX 7.0 for compute capability 7.0 and later.
    Sm70,
    /// PTX 7.1 for compute capability 8.0 and later, which rounds two numbers to 16 bits in one instruction.
    Sm80,
}

impl Target {
    /// Every target.
    pub const ALL: [Target; 2] = [Target::Sm70, Target::Sm80];

    /// Returns the best target for a device of this compute capability; `None` if it is too old for any.
    ///
    /// ```
    /// use fallline_cuda::ptx::Target;
    /// assert_eq!(Target::of_device(9, 0), Some(Target::Sm80));
    /// assert_eq!(Target::of_device(7, 5), Some(Target::Sm70));
    /// assert_eq!(Target::of_device(6, 1), None);
    /// ```
    pub const fn of_device(major: u32, _minor: u32) -> Option<Target> {
        match major {
            0..=6 => None,
            7 => Some(Target::Sm70),
            _ => Some(Target::Sm80),
        }
    }

    /// Returns the PTX version, as the text states it.
    pub const fn version(self) -> &'static str {
        match self {
            Target::Sm70 => "7.0",
            Target::Sm80 => "7.1",
        }
    }

    /// Returns the architecture, as the text states it.
    pub const fn architecture(self) -> &'static str {
        match self {
            Target::Sm70 => "sm_70",
            Target::Sm80 => "sm_80",
        }
    }
}

/// A printed kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Ptx {
    /// The name of its entry.
    pub entry: String,
    /// A whole module with this one entry.
    pub text: String,
    /// What it was printed for.
    pub target: Target,
}
