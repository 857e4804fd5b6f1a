//! What both Rust sides speak with `compare.py`, a line each way (that of `peers.py` too): `open NAME ELEMENTS` →
//! `ok VERSION`, `round NAME` → seconds, `close NAME` → `ok`; `error …` where something fails. The only argument of a
//! side is the number of threads.

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Instant;

pub type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Something whose steps are timed.
pub trait Contender {
    fn step(&mut self) -> Result<()>;

    /// What comes before a step and is not timed.
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A contender by name, with so many elements and threads, and its version.
pub type Open = fn(&str, usize, usize) -> Result<(Box<dyn Contender>, String)>;

fn answer(
    line: &str,
    contenders: &mut HashMap<String, Box<dyn Contender>>,
    open: Open,
    threads: usize,
) -> Result<String> {
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["open", name, elements] => {
            let (contender, version) = open(name, elements.parse()?, threads)?;
            contenders.insert(name.to_owned(), contender);
            Ok(format!("ok {version}"))
        }
        ["round", name] => {
            let contender = contenders.get_mut(name).ok_or("it is not open")?;
            // Not timed: it wakes the threads. A scheduler may put them on one core until it has watched them for a while.
            contender.prepare()?;
            contender.step()?;
            contender.prepare()?;
            let start = Instant::now();
            contender.step()?;
            Ok(start.elapsed().as_secs_f64().to_string())
        }
        ["close", name] => {
            contenders.remove(name);
            Ok("ok".into())
        }
        _ => Err("expected open NAME ELEMENTS, round NAME or close NAME".into()),
    }
}

/// Answers until there is nothing more asked.
pub fn serve(open: Open) -> Result<()> {
    let threads = std::env::args().nth(1).ok_or("the argument is the number of threads")?.parse()?;
    let mut contenders = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer =
            answer(&line, &mut contenders, open, threads).unwrap_or_else(|error| format!("error {error}"));
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}
