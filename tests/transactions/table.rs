//! Rows, their text, and the committed tables.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What became of one fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub told: String,
    pub left: String,
    pub save: String,
    pub next: String,
    pub reload: Option<String>,
}

impl Row {
    fn write(&self, text: &mut String) {
        let Row { told, left, save, next, reload } = self;
        let lines = [("told", Some(told)), ("left", Some(left)), ("save", Some(save)), ("next", Some(next))];
        for (what, line) in lines.into_iter().chain([("reload", reload.as_ref())]) {
            if let Some(line) = line {
                writeln!(text, "    {what:<6} {line}").unwrap();
            }
        }
    }
}

/// A table's text.
#[derive(Default)]
pub struct Table(String);

impl Table {
    /// A row of its own.
    pub fn row(&mut self, title: &str, row: &Row) {
        writeln!(self.0, "{title}").unwrap();
        row.write(&mut self.0);
    }

    /// Rows under a title, by the calls that failed in their order; what has the same row stands together.
    pub fn block(&mut self, title: &str, rows: &[(String, Row)]) {
        writeln!(self.0, "\n## {title}").unwrap();
        for same in rows.chunk_by(|one, other| one.1 == other.1) {
            let mut calls: Vec<(&str, usize)> = Vec::new();
            for (call, _) in same {
                match calls.iter_mut().find(|(known, _)| known == call) {
                    Some((_, count)) => *count += 1,
                    None => calls.push((call, 1)),
                }
            }
            let calls = calls.iter().map(|(call, count)| match count {
                1 => (*call).to_owned(),
                count => format!("{count} {call}"),
            });
            self.row(&calls.collect::<Vec<_>>().join(", "), &same[0].1);
        }
    }

    /// A title.
    pub fn title(&mut self, title: &str) {
        writeln!(self.0, "\n## {title}").unwrap();
    }

    /// Compares with the committed table, or writes it.
    pub fn settle(self, name: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/transactions").join(name);
        let got = format!(
            "Written by `FALLLINE_TRANSACTIONS=write cargo test --test transactions`, whose head says how to read it.\n{}",
            self.0
        );
        if std::env::var_os("FALLLINE_TRANSACTIONS").is_some_and(|wish| wish == "write") {
            return std::fs::write(&path, got).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), got.lines().collect());
        let Some(first) = (0..old.len().max(new.len())).find(|&i| old.get(i) != new.get(i)) else { return };
        let title = old[..first.min(old.len())].iter().rev().find(|line| line.starts_with("## "));
        let aside: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&aside, &got).unwrap();
        panic!(
            "{name}, line {}, under {:?}:\n  table {:?}\n  now   {:?}\nthe whole of what is now: {}",
            first + 1,
            title.unwrap_or(&"no title"),
            old.get(first).unwrap_or(&"the end"),
            new.get(first).unwrap_or(&"the end"),
            aside.display()
        );
    }
}
