//! Files that a command writes: their names say what is in them.

use std::path::{Path, PathBuf};

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A picture, scalable.
    Svg,
    /// A picture, in pixels.
    Png,
    /// Numbers, a row each step.
    Csv,
    /// Numbers, as JSON.
    Json,
    /// Numbers, as tensors.
    Safetensors,
}

impl Format {
    /// Returns the extension, which is the name, too.
    pub fn name(self) -> &'static str {
        match self {
            Format::Svg => "svg",
            Format::Png => "png",
            Format::Csv => "csv",
            Format::Json => "json",
            Format::Safetensors => "safetensors",
        }
    }

    /// Returns whether it is a picture.
    fn is_picture(self) -> bool {
        matches!(self, Format::Svg | Format::Png)
    }
}

/// A file to write, and what goes into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The file.
    pub path: PathBuf,
    /// What it is to hold.
    pub format: Format,
}

impl Output {
    /// Reads the name of a picture.
    pub fn picture(path: PathBuf) -> Result<Output, String> {
        Output::of(path, &[Format::Svg, Format::Png])
    }

    /// Reads the name of a file of numbers.
    pub fn numbers(path: PathBuf) -> Result<Output, String> {
        Output::of(path, &[Format::Csv, Format::Json])
    }

    /// Reads the name of a file of numbers or tensors.
    pub fn tensors(path: PathBuf) -> Result<Output, String> {
        Output::of(path, &[Format::Safetensors, Format::Csv, Format::Json])
    }

    /// Reads the name of a file of tensors, whatever the extension: but not one that says something else.
    pub fn only_tensors(path: PathBuf) -> Result<PathBuf, String> {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let others = [Format::Svg, Format::Png, Format::Csv, Format::Json];
        match others.iter().any(|format| format.name() == extension) && !is_device(&path) {
            true => Err("what is written is .safetensors".into()),
            false => Ok(path),
        }
    }

    /// The extension decides among those known. A device or a pipe has none and is given the first.
    fn of(path: PathBuf, known: &[Format]) -> Result<Output, String> {
        if let (true, Some(format)) = (is_device(&path), known.first()) {
            return Ok(Output { path, format: *format });
        }
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        if let Some(format) = known.iter().find(|format| format.name() == extension) {
            return Ok(Output { path, format: *format });
        }
        let names: Vec<String> = known.iter().map(|format| format!(".{}", format.name())).collect();
        let others = [Format::Svg, Format::Png, Format::Csv, Format::Json, Format::Safetensors];
        let other = others.into_iter().find(|format| format.name() == extension);
        let hint = match other.map(Format::is_picture) {
            Some(true) => " (pictures are for --plot)",
            Some(false) => " (numbers are for --out)",
            None => "",
        };
        Err(format!("the extension says what is written: expected {}{hint}", names.join(", ")))
    }
}

/// Returns whether a path is there and neither a file nor a folder.
fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_decide() {
        let format = |path: &str| Output::tensors(path.into()).map(|output| output.format);
        assert_eq!(format("a/b.safetensors"), Ok(Format::Safetensors));
        assert_eq!(format("b.CSV"), Ok(Format::Csv));
        assert_eq!(Output::picture("x.png".into()).unwrap().format, Format::Png);
        for (path, parts) in
            [("x.gif", "expected .safetensors, .csv, .json"), ("x.svg", "--plot"), ("x", ".csv")]
        {
            let error = format(path).unwrap_err();
            assert!(error.contains(parts), "{path}: {error}");
        }
        assert!(Output::picture("x.csv".into()).unwrap_err().contains("--out"));
        assert!(Output::numbers("x.safetensors".into()).is_err());
        assert!(Output::only_tensors("x.Json".into()).unwrap_err().contains(".safetensors"));
        assert_eq!(Output::only_tensors("x.st".into()), Ok("x.st".into()));
    }

    #[cfg(unix)]
    #[test]
    fn devices_take_the_first() {
        assert_eq!(Output::picture("/dev/null".into()).unwrap().format, Format::Svg);
    }
}
