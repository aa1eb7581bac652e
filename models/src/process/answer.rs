//! What networks say.

use std::fmt;

/// Classes, regions and numbers that a line for a person names.
const FEW: usize = 5;

/// One class and its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Class {
    pub index: usize,
    /// From 0 to 1.
    pub probability: f32,
}

/// An upright rectangle that holds text, in pixels of the network's input; `right` and `bottom` are the first outside.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Region {
    pub left: usize,
    pub top: usize,
    pub right: usize,
    pub bottom: usize,
    /// Mean probability of its pixels to belong to text, from 0 to 1.
    pub score: f32,
}

/// What a network said of one request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The text, and the mean probability of its characters (0 when there are none).
    Text { text: String, confidence: f32 },
    /// Where text stands, from top to bottom and left to right.
    Regions(Vec<Region>),
    /// By how much a line of text is turned, 0 or 180 degrees, and how likely that is.
    Direction { degrees: u16, probability: f32 },
    /// The most likely classes, best first.
    Classes(Vec<Class>),
    /// One vector per sequence.
    Embedding {
        sequences: usize,
        /// Tokens per sequence, padding included.
        tokens: usize,
        /// The vector of the first sequence.
        pooled: Vec<f32>,
    },
}

impl Answer {
    /// Without what differs in the last digits between two ways to compute the same.
    pub fn gist(&self) -> String {
        match self {
            Self::Text { text, .. } => format!("\"{text}\""),
            Self::Regions(regions) => match regions.len() {
                1 => "1 region".to_owned(),
                count => format!("{count} regions"),
            },
            Self::Direction { degrees, .. } => format!("turned by {degrees}°"),
            Self::Classes(classes) => {
                classes.first().map_or_else(|| "no class".to_owned(), |best| format!("class {}", best.index))
            }
            Self::Embedding { sequences, tokens, pooled } => {
                format!("{sequences} × {tokens} tokens as vectors of {}", pooled.len())
            }
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text { text, confidence } => write!(f, "\"{text}\" ({confidence:.2})"),
            Self::Regions(regions) => {
                f.write_str(&self.gist())?;
                let region =
                    |r: &Region| format!("({}, {}) to ({}, {}) ({:.2})", r.left, r.top, r.right, r.bottom, r.score);
                few(f, ": ", regions.iter().map(region))
            }
            Self::Direction { probability, .. } => write!(f, "{} ({probability:.3})", self.gist()),
            Self::Classes(classes) => {
                few(f, "", classes.iter().map(|c| format!("class {} ({:.3})", c.index, c.probability)))
            }
            Self::Embedding { pooled, .. } => {
                f.write_str(&self.gist())?;
                few(f, ": ", pooled.iter().map(|value| format!("{value:.3}")))
            }
        }
    }
}

/// The first of `items` after `before`, and whether there are more.
fn few(f: &mut fmt::Formatter<'_>, before: &str, items: impl Iterator<Item = String>) -> fmt::Result {
    for (at, item) in items.take(FEW + 1).enumerate() {
        match at {
            0 => write!(f, "{before}{item}")?,
            FEW => f.write_str(", …")?,
            _ => write!(f, ", {item}")?,
        }
    }
    Ok(())
}
