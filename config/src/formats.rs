//! The file formats JSON, TOML and YAML.

mod json;
#[cfg(feature = "toml")]
mod toml;
#[cfg(feature = "yaml")]
mod yaml;

use crate::error::ConfigError;
#[cfg(not(all(feature = "toml", feature = "yaml")))]
use crate::value::Node;
use crate::value::Position;

pub(crate) use json::json;
#[cfg(feature = "toml")]
pub(crate) use toml::toml;
#[cfg(feature = "yaml")]
pub(crate) use yaml::yaml;

/// Says that this build does not read TOML.
#[cfg(not(feature = "toml"))]
pub(crate) fn toml(_: &str, file: &Position) -> Result<Node, ConfigError> {
    Err(invalid("TOML", file, 0, 0, "this build does not read it; the feature `toml` does"))
}

/// Says that this build does not read YAML.
#[cfg(not(feature = "yaml"))]
pub(crate) fn yaml(_: &str, file: &Position) -> Result<Node, ConfigError> {
    Err(invalid("YAML", file, 0, 0, "this build does not read it; the feature `yaml` does"))
}

fn invalid(
    file_format: &'static str,
    file: &Position,
    line: usize,
    column: usize,
    problem: &str,
) -> ConfigError {
    // Both parsers write the place at the end; it is at the front already.
    let problem = problem.split(" at line ").next().unwrap_or_default().replace('\n', " ");
    let at = Position { line: line as u32, column: column.max(line.min(1)) as u32, ..file.clone() };
    ConfigError::FileFormat { at, file_format, problem }
}

/// Refuses a text in which there is nothing but white space and comments of YAML.
fn refuse_empty(file_format: &'static str, text: &str, file: &Position) -> Result<(), ConfigError> {
    let blank = |line: &str| line.trim().is_empty() || file_format == "YAML" && line.trim().starts_with('#');
    match text.lines().all(blank) {
        true => Err(invalid(file_format, file, 1, 1, "the file is empty")),
        false => Ok(()),
    }
}
