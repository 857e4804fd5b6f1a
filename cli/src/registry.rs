//! The algorithms that the command knows.

use fallline::Registry;
use std::sync::OnceLock;

static REGISTRY: OnceLock<Registry> = OnceLock::new();

/// Sets the algorithms, where nobody has set or asked for them.
pub fn use_for_process(registry: Registry) {
    REGISTRY.get_or_init(|| registry);
}

/// Returns the algorithms: the shipped ones, unless a binary has others.
pub fn registry() -> &'static Registry {
    REGISTRY.get_or_init(Registry::standard)
}
