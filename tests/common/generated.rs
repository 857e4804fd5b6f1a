//! Tables of documents that are written by the test which checks them.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Checks the table `name` of a document, which `command` writes.
///
/// The table is between the lines `<!-- NAME: written by COMMAND -->` and `<!-- end of NAME -->`. The command begins with
/// an environment variable, as in `FALLLINE_README=write cargo test --test readme`. Where it is set so, the table is
/// written.
pub fn generated(document: &str, name: &str, command: &str, table: &str) {
    // Tests of one file may write to one document.
    static DOCUMENTS: Mutex<()> = Mutex::new(());
    let _lock = DOCUMENTS.lock().unwrap_or_else(PoisonError::into_inner);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = std::fs::read_to_string(&path).unwrap();
    let begin = format!("<!-- {name}: written by {command} -->\n");
    let end = format!("<!-- end of {name} -->\n");
    let parts = text.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?)));
    let (before, (found, behind)) = parts.unwrap_or_else(|| panic!("{document} has no {begin}…{end}"));
    let variable = command.split_once("=write ").expect("a command that sets a variable").0;
    if std::env::var_os(variable).is_some_and(|wish| wish == "write") {
        std::fs::write(&path, [before, &begin, table, &end, behind].concat()).unwrap();
        return;
    }
    let only = |of: &str, other: &str, mark: &str| -> String {
        let lines = of.lines().filter(|line| other.lines().all(|known| known != *line));
        lines.map(|line| format!("{mark} {line}\n")).collect()
    };
    let differences = only(table, found, "missing:") + &only(found, table, "too many:");
    assert!(
        found == table,
        "the table {name} of {document} is written by {command}. It differs:\n{differences}"
    );
}
