//! The page about an algorithm.

/// What people should know about an algorithm.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// One sentence.
    pub summary: &'static str,
    /// Which kind it is: `momentum`, `adaptive`, `sign`, …
    pub family: &'static str,
    /// The package whose semantics it has.
    pub source: &'static str,
    /// Where it differs from the paper or from the source.
    pub differences: &'static str,
    /// Papers and sources.
    pub references: &'static [Reference],
}

/// A paper or a source.
#[derive(Clone, Copy, Debug)]
pub struct Reference {
    /// Authors, year, title.
    pub text: &'static str,
    /// Where to find it: an arXiv number, a package and version.
    pub at: &'static str,
}

impl Reference {
    /// Creates a paper or a source, and where to find it.
    pub const fn new(text: &'static str, at: &'static str) -> Reference {
        Reference { text, at }
    }
}
