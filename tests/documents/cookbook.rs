//! The cookbook: how many recipes it has, in which order, and how long they are.

use crate::{Project, assert_none};

const RECIPES: usize = 40;
/// The most lines of a recipe's code.
const LINES: usize = 20;

/// What is wrong with a cookbook. Each recipe is a heading with its number, and has code of at most so many lines, or
/// a table that is its answer.
fn wrong(document: &str) -> Vec<String> {
    let mut recipes: Vec<(&str, Vec<usize>, bool)> = Vec::new();
    let mut fenced = false;
    for line in document.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
            if fenced && let Some((_, blocks, _)) = recipes.last_mut() {
                blocks.push(0);
            }
        } else if let Some(heading) = line.strip_prefix("## ").filter(|_| !fenced) {
            recipes.push((heading, Vec::new(), false));
        } else if let Some((_, blocks, table)) = recipes.last_mut() {
            *table |= !fenced && line.starts_with('|');
            if fenced && let Some(lines) = blocks.last_mut() {
                *lines += 1;
            }
        }
    }
    let mut problems = Vec::new();
    for (place, (heading, blocks, table)) in recipes.iter().enumerate() {
        if !heading.starts_with(&format!("{}. ", place + 1)) {
            problems.push(format!("{heading:?} is recipe {}", place + 1));
        }
        if blocks.is_empty() && !table {
            problems.push(format!("{heading:?} has no code"));
        }
        let long = blocks.iter().filter(|lines| **lines > LINES);
        problems.extend(long.map(|lines| format!("{heading:?}: {lines} lines of code, more than {LINES}")));
    }
    if recipes.len() != RECIPES {
        problems.push(format!("{} recipes, not {RECIPES}", recipes.len()));
    }
    problems
}

#[test]
fn there_are_forty_short_recipes() {
    assert_none(&wrong(&Project::here().read("docs/cookbook.md")));
}

/// Calls of the adapters. They are in other workspaces: here their code cannot run.
const ADAPTERS: [(&str, [&str; 2]); 3] = [
    ("candle", ["CandleOptimizer::new(&variables, ", ".backward_step(&loss)?"]),
    ("burn", ["BurnOptimizer::new(", ".step(model, gradients)"]),
    ("tch", ["TchOptimizer::new(&store, ", ".backward_step(&loss)?"]),
];

/// The recipes call the adapters as their own pages do, which are tested with the frameworks.
#[test]
fn adapters_are_called_as_in_their_pages() {
    let project = Project::here();
    let recipes = project.read("docs/cookbook.md");
    let mut problems = Vec::new();
    for (adapter, calls) in ADAPTERS {
        let page = format!("adapters/{adapter}/README.md");
        let text = if project.has(&page) { project.read(&page) } else { String::new() };
        for (name, document) in [("docs/cookbook.md", &recipes), (&*page, &text)] {
            let missing = calls.iter().filter(|call| !document.contains(**call));
            problems.extend(missing.map(|call| format!("{name} does not call `{call}`")));
        }
    }
    assert_none(&problems);
}

#[test]
fn long_and_missing_recipes_are_found() {
    let recipe = |number: usize, lines: usize| {
        format!("## {number}. A task\n\n```rust\n{}```\n\n", "## code\n".repeat(lines))
    };
    let all = |from: usize| (from..=RECIPES).map(|number| recipe(number, LINES)).collect::<String>();
    assert_eq!(wrong(&all(1)), [""; 0]);
    let table = "## 1. A task\n\n| a | b |\n".to_owned();
    assert_eq!(wrong(&(table + &all(2))), [""; 0]);
    for (first, problem) in [
        (recipe(1, LINES + 1), "\"1. A task\": 21 lines of code, more than 20"),
        (recipe(7, 1), "\"7. A task\" is recipe 1"),
        ("## 1. A task\n\nText.\n".to_owned(), "\"1. A task\" has no code"),
    ] {
        assert_eq!(wrong(&(first + &all(2))), [problem]);
    }
    assert_eq!(wrong(&all(1).replace("## 40. ", "### ")), ["39 recipes, not 40"]);
}
