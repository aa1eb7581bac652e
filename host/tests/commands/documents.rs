//! The command lines that documents show: their flags exist and take such values.

use crate::support::{run, stderr};
use std::path::Path;

const DOCUMENTS: [&str; 2] = ["README.md", "docs/raspberry-pi.md"];

/// The lines of `text` that are inside of fences, joined where they end in a backslash, without comments.
fn commands(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut fenced = false;
    let mut open = String::new();
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            let line = line.split(" #").next().unwrap_or_default().trim();
            match line.strip_suffix('\\') {
                Some(part) => open += part,
                None => lines.push(std::mem::take(&mut open) + line),
            }
        }
    }
    lines
}

/// The arguments of `defer-host` on such a line, if that is what it runs; of a node, if it sets its flags.
fn arguments(line: &str) -> Option<Vec<&str>> {
    let flags = |rest: &'static str, line| [rest].into_iter().chain(str::split_whitespace(line)).collect();
    match line.strip_prefix("defer-host ") {
        Some(rest) => Some(rest.split_whitespace().collect()),
        None => line.strip_prefix("DEFER_SERVE=").map(|rest| flags("serve", rest)),
    }
}

#[test]
fn commands_in_documents_have_the_flags_that_they_show() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for document in DOCUMENTS {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        let lines = commands(&text);
        let found: Vec<Vec<&str>> = lines.iter().filter_map(|line| arguments(line)).collect();
        assert!(found.len() >= 5, "{document}: {found:?}");
        for arguments in found {
            // What comes before --help is parsed first.
            let output = run(&[&arguments[..], &["--help"]].concat());
            assert!(output.status.success(), "{document}: defer-host {}: {}", arguments.join(" "), stderr(&output));
        }
    }
}

#[test]
fn a_flag_that_is_not_there_is_noticed() {
    let text = "before\n```\ndefer-host serve --no-such-flag \\\n    --insecure   # why not\nDEFER_SERVE=--threads two\n```\ndefer-host x\n";
    let lines = commands(text);
    let found: Vec<Vec<&str>> = lines.iter().filter_map(|line| arguments(line)).collect();
    assert_eq!(found, [vec!["serve", "--no-such-flag", "--insecure"], vec!["serve", "--threads", "two"]]);
    for arguments in found {
        assert_eq!(run(&[&arguments[..], &["--help"]].concat()).status.code(), Some(2));
    }
}
