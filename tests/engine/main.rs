//! What the engine, its modifiers, masks and modes do, and what the registry builds.

#[path = "../common/mod.rs"]
mod common;

mod aliases;
mod combined;
mod masks;
mod misplaced;
mod modes;
mod modifiers;
mod refusals;
mod registry;
