//! Where a stage may end, for each point at which it may begin, on a machine of a given speed and memory.

use super::bits;
use super::model::Model;

/// Rows of bits, made when they are first asked for.
pub(super) struct Rows {
    /// The most time that a stage may take there.
    limit: f64,
    speed: f64,
    memory: u64,
    spans: Vec<Option<Span>>,
    words: Vec<u64>,
}

/// A row's words that are not all zero.
#[derive(Clone, Copy)]
struct Span {
    first: u32,
    count: u32,
    offset: usize,
}

impl Rows {
    pub fn new(model: &Model, speed: f64, memory: u64, limit: f64) -> Self {
        Self { limit, speed, memory, spans: vec![None; model.points.len()], words: Vec::new() }
    }

    /// Index of the row's first word, and its words. `effort` grows by what it cost.
    pub fn get(&mut self, model: &Model, from: usize, effort: &mut u64) -> (usize, &[u64]) {
        let span = match self.spans[from] {
            Some(span) => span,
            None => {
                let first = model.next[from] / 64;
                let offset = self.words.len();
                let (words, limit, speed) = (&mut self.words, self.limit, self.speed);
                let mut seen = 0;
                // A little more than fits, so that the division below decides: what it says is what the plan will cost.
                model.scan(from, self.memory, limit * speed * (1.0 + 1e-12), |to, work| {
                    seen += 1;
                    if work / speed <= limit {
                        words.resize(offset + to / 64 - first + 1, 0);
                        words[offset + to / 64 - first] |= 1 << (to % 64);
                    }
                });
                *effort += 8 * seen + 8;
                let span = Span { first: first as u32, count: (words.len() - offset) as u32, offset };
                self.spans[from] = Some(span);
                span
            }
        };
        *effort += u64::from(span.count) + 1;
        (span.first as usize, &self.words[span.offset..][..span.count as usize])
    }

    /// Adds the row of `from` to `row`.
    pub fn or_into(&mut self, model: &Model, from: usize, row: &mut [u64], effort: &mut u64) {
        let (first, words) = self.get(model, from, effort);
        bits::or(&mut row[first..], words);
    }

    pub fn has(&mut self, model: &Model, from: usize, to: usize, effort: &mut u64) -> bool {
        let (first, words) = self.get(model, from, effort);
        (to / 64).checked_sub(first).and_then(|at| words.get(at)).is_some_and(|word| word >> (to % 64) & 1 == 1)
    }
}
