//! What seals traits.

/// Lanes and backends are sealed until 1.0: their contracts may still grow.
pub trait Sealed {}
