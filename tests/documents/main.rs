//! The documents of the project: words that it does not use, the length of sentences, links and names of files; and its manifests.
//!
//! Nothing but the standard library, so that `.ci/run` compiles this file alone, before anything else.

mod cookbook;
mod links;
mod packages;
mod prose;
mod words;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The text files of the project.
pub struct Project {
    root: PathBuf,
    /// Paths from the root, with `/`.
    files: BTreeSet<String>,
}

impl Project {
    /// Finds all files below the root, except what `.gitignore` leaves out.
    fn here() -> Project {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let mut files = BTreeSet::new();
        collect(&root, &root, &mut files);
        assert!(files.contains("README.md"), "{} is not the project's folder", root.display());
        Project { root, files }
    }

    /// A project of these files, for negative cases.
    fn of(files: &[&str]) -> Project {
        Project { root: PathBuf::new(), files: files.iter().map(|file| (*file).to_owned()).collect() }
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    fn documents(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str).filter(|file| file.ends_with(".md"))
    }

    /// Whether a path from the root is a file or a folder.
    fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let folder = format!("{path}/");
        path.is_empty()
            || self.files.contains(path)
            || self.files.iter().any(|file| file.starts_with(&folder))
    }

    /// Whether a path ends so, at a folder's border.
    fn find(&self, end: &str) -> Option<&str> {
        let end = end.trim_start_matches("./");
        let is_it = |file: &&str| *file == end || file.ends_with(&format!("/{end}"));
        self.files.iter().map(String::as_str).find(is_it)
    }
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // What `.gitignore` names here and in `fuzz`; then what interpreters and `benches/peers` leave behind.
        let skipped =
            ["target", "runs", "shared", "corpus", "artifacts", "coverage", "__pycache__", "peers", "venv"];
        let own = path.strip_prefix(root).unwrap() == Path::new("benches/peers");
        if path.is_dir() {
            let hidden = name.starts_with('.') && name != ".ci";
            if !hidden && (own || !skipped.contains(&&*name)) {
                collect(root, &path, files);
            }
        } else {
            let parts: Vec<_> =
                path.strip_prefix(root).unwrap().iter().map(|part| part.to_string_lossy()).collect();
            files.insert(parts.join("/"));
        }
    }
}

/// Fails with all problems, a line each.
fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}
