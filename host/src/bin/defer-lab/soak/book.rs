//! What became of every request, and what may have: which versions could answer it, and whether its dispatcher died.

use super::versions::Version;
use crate::http::Broken;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Findings that are told in full.
const TOLD: usize = 40;

/// What became of a request.
#[derive(Debug)]
pub enum Outcome {
    Answered,
    /// Why.
    Refused(String),
    Wrong(String),
    Duplicate(String),
    Mixed(String),
    Lost(String),
    /// Its client did not wait.
    Left,
}

#[derive(Debug, Default)]
pub struct Counts {
    pub answered: u64,
    pub refused: BTreeMap<String, u64>,
    pub wrong: u64,
    pub duplicate: u64,
    pub mixed: u64,
    pub lost: u64,
    pub left: u64,
    /// When right answers came, from the start.
    pub answers: Vec<Duration>,
    /// What must not be.
    pub findings: Vec<String>,
}

#[derive(Default)]
struct State {
    counts: Counts,
    /// From when on which versions may answer.
    may: Vec<(Instant, Vec<Version>)>,
    /// When the dispatcher was dying or dead; the end is open while it is.
    away: Vec<(Instant, Option<Instant>)>,
}

pub struct Book {
    pub started: Instant,
    state: Mutex<State>,
}

impl Book {
    pub fn new(version: Version) -> Self {
        let started = Instant::now();
        let state = State { may: vec![(started, vec![version])], ..State::default() };
        Self { started, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, and until told otherwise, these versions may answer.
    pub fn may(&self, versions: &[Version]) {
        self.state().may.push((Instant::now(), versions.to_vec()));
    }

    /// Whether `version` may answer a request that was begun at `since` and is answered now.
    pub fn could(&self, version: Version, since: Instant) -> bool {
        let state = self.state();
        let from = state.may.iter().rposition(|(at, _)| *at <= since).unwrap_or(0);
        state.may[from..].iter().any(|(_, versions)| versions.contains(&version))
    }

    pub fn dispatcher_goes(&self) {
        self.state().away.push((Instant::now(), None));
    }

    pub fn dispatcher_is_back(&self) {
        if let Some((_, end)) = self.state().away.last_mut() {
            end.get_or_insert_with(Instant::now);
        }
    }

    /// Whether the dispatcher was dying or dead at any time since then.
    pub fn was_away(&self, since: Instant) -> bool {
        self.state().away.iter().any(|(_, end)| end.is_none_or(|end| end >= since))
    }

    /// What a request without a reply came to, which was begun at `since`.
    pub fn broken(&self, broken: Broken, since: Instant) -> Outcome {
        let excused = self.was_away(since);
        match broken {
            Broken::Unasked(bytes) => {
                Outcome::Duplicate(format!("bytes that nobody asked for: {}", String::from_utf8_lossy(&bytes)))
            }
            Broken::Silent => Outcome::Lost("neither an answer nor an end".to_owned()),
            Broken::Unreachable if excused => Outcome::Refused("unreachable".to_owned()),
            Broken::Ended(_) if excused => Outcome::Refused("the dispatcher died".to_owned()),
            Broken::Unreachable => Outcome::Lost("nobody listens, though the dispatcher should live".to_owned()),
            Broken::Ended(error) => {
                Outcome::Lost(format!("the connection ended ({error}), though the dispatcher should live"))
            }
        }
    }

    /// Notes what became of the request `id`.
    pub fn note(&self, id: &str, outcome: Outcome) {
        let at = self.started.elapsed();
        let mut state = self.state();
        let counts = &mut state.counts;
        let (what, text) = match outcome {
            Outcome::Answered => {
                counts.answered += 1;
                return counts.answers.push(at);
            }
            Outcome::Refused(why) => return *counts.refused.entry(why).or_default() += 1,
            Outcome::Left => return counts.left += 1,
            Outcome::Wrong(text) => (&mut counts.wrong, text),
            Outcome::Duplicate(text) => (&mut counts.duplicate, text),
            Outcome::Mixed(text) => (&mut counts.mixed, text),
            Outcome::Lost(text) => (&mut counts.lost, text),
        };
        *what += 1;
        Self::tell(counts, at, &format!("request {id}: {text}"));
    }

    /// Notes something else that must not be.
    pub fn find(&self, text: &str) {
        Self::tell(&mut self.state().counts, self.started.elapsed(), text);
    }

    fn tell(counts: &mut Counts, at: Duration, text: &str) {
        if counts.findings.len() < TOLD {
            counts.findings.push(format!("{:.3} s: {text}", at.as_secs_f64()));
        }
    }

    /// Answered, refused, and findings so far.
    pub fn so_far(&self) -> (u64, u64, usize) {
        let counts = &self.state().counts;
        (counts.answered, counts.refused.values().sum(), counts.findings.len())
    }

    pub fn end(&self) -> Counts {
        std::mem::take(&mut self.state().counts)
    }
}
