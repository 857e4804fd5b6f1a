//! What checkpoints of any age and origin bring, and what is refused of them.

#[path = "../common/mod.rs"]
mod common;

mod converted;
mod earlier;
mod edited;
mod first_step;
mod loading;
