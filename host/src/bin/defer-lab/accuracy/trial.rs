//! Inputs that no pipeline was calibrated with, and what is right about answers to them.

use crate::subject::Subject;
use anyhow::{Context as _, Result};
use defer_host::build::random_inputs;
use defer_host::engine::Named;
use defer_models::{Answer, Region, Task, trial_lines};
use defer_partition::{Network, onnx};

/// Random inputs for a network that is not in the catalogue, and the first of their seeds: calibration has smaller ones.
const MADE_UP: u64 = 6;
const FIRST_SEED: u64 = 1000;
/// Edges of the same region of text differ by no more pixels.
const EDGE: usize = 4;

pub struct Trial {
    pub label: String,
    pub inputs: Vec<Named>,
}

/// What is counted as right, and in how many of how many cases it was.
#[derive(Clone, Copy, Debug, Default)]
pub struct Right {
    pub right: usize,
    pub of: usize,
}

impl Right {
    pub fn add(&mut self, other: Self) {
        self.right += other.right;
        self.of += other.of;
    }
}

/// What to ask `subject`.
pub fn trials(subject: &Subject) -> Result<Vec<Trial>> {
    let trial = |(label, inputs)| Trial { label, inputs };
    if let Some(entry) = subject.entry {
        return Ok(entry.trial_inputs()?.into_iter().map(trial).collect());
    }
    let network = Network::new(onnx::read(&subject.file)?)?;
    let known = &subject.requests.first().context("a network without requests")?.inputs;
    let shapes: Vec<Vec<usize>> = known.iter().map(|(_, tensor)| tensor.shape.clone()).collect();
    let seeds = FIRST_SEED..FIRST_SEED + MADE_UP;
    let made =
        seeds.map_while(|seed| Some((format!("random {seed}"), random_inputs(network.inputs(), &shapes, seed)?)));
    Ok(made.map(trial).collect())
}

/// What [`right`] counts for a network that was trained for `task`.
pub fn unit(task: Task) -> Option<&'static str> {
    match task {
        Task::TextRecognition => Some("characters"),
        Task::TextDetection => Some("lines found"),
        Task::TextDirection => Some("directions"),
        Task::Classification | Task::TokenEmbedding => None,
    }
}

/// What of the answer `got` is right: of characters as they are printed, of directions as the picture was turned, of lines of
/// text where the uncut network's answer `whole` has them. `None` where answers mean nothing.
pub fn right(subject: &Subject, trial: &Trial, got: &[Named], whole: &[Named]) -> Result<Option<Right>> {
    let (Some(entry), Some(processor)) = (subject.entry, &subject.processor) else { return Ok(None) };
    if !entry.trained {
        return Ok(None);
    }
    Ok(match processor.answer(got)? {
        Answer::Text { text, .. } => {
            let line = trial_lines().find(|line| line.name == trial.label).context("a line without its text")?;
            let of = line.text.chars().count();
            Some(Right { right: of.saturating_sub(edits(line.text, &text)), of })
        }
        Answer::Direction { degrees, .. } => {
            let turned = if trial.label.ends_with("-turned") { 180 } else { 0 };
            Some(Right { right: usize::from(degrees == turned), of: 1 })
        }
        Answer::Regions(regions) => {
            let Answer::Regions(want) = processor.answer(whole)? else { return Ok(None) };
            let found = want.iter().filter(|want| regions.iter().any(|region| is_same(want, region))).count();
            // What is found too much counts as wrong.
            Some(Right { right: found, of: want.len().max(regions.len()) })
        }
        Answer::Classes(_) | Answer::Embedding { .. } => None,
    })
}

fn is_same(a: &Region, b: &Region) -> bool {
    let edges = [(a.left, b.left), (a.top, b.top), (a.right, b.right), (a.bottom, b.bottom)];
    edges.iter().all(|(a, b)| a.abs_diff(*b) <= EDGE)
}

/// Levenshtein's distance in characters.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::edits;

    #[test]
    fn wrong_missing_and_needless_characters_count() {
        for (a, b, want) in
            [("", "", 0), ("abc", "abc", 0), ("abc", "abd", 1), ("abc", "ac", 1), ("abc", "abxc", 1), ("abc", "", 3)]
        {
            assert_eq!(edits(a, b), want, "{a} {b}");
        }
    }
}
