//! Networks of which several versions exist, and clients that can tell from an answer which versions made it.

use crate::support::chain::Door;
use crate::support::networks::{Staged, cut, ladder_of};
use crate::support::{folder, poll};
use defer_host::engine::Named;
use prost::Message as _;
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Versions of a network of three layers, each with weights of its own, cut between the layers.
pub struct Versions(pub Vec<Staged>);

impl Versions {
    /// The versions whose layers have the weights `seeds`.
    pub fn of(name: &str, seeds: &[[u64; 3]]) -> Self {
        Self::cut(name, &seeds.iter().map(|seeds| (&seeds[..], &["t1", "t2"][..])).collect::<Vec<_>>())
    }

    /// The same cut at tensors of their own each.
    pub fn cut(name: &str, versions: &[(&[u64], &[&str])]) -> Self {
        let folder = folder(&format!("versions-{name}"));
        let version = |(number, (seeds, cuts)): (usize, &(&[u64], &[&str]))| {
            let folder = folder.join(number.to_string());
            std::fs::create_dir_all(&folder).unwrap();
            let file = folder.join(format!("{name}.onnx"));
            std::fs::write(&file, ladder_of(seeds).encode_to_vec()).unwrap();
            cut(file.to_str().unwrap(), &folder.join("stages"), 1, cuts).unwrap()
        };
        Self(versions.iter().enumerate().map(version).collect())
    }

    /// Starts clients at `door`.
    pub fn traffic(&self, door: &Door, clients: usize) -> Traffic {
        let requests: Vec<Vec<Named>> = (0..3).map(|seed| self.0[0].inputs(seed, 2 + seed as usize)).collect();
        let refs: Vec<&[Named]> = requests.iter().map(Vec::as_slice).collect();
        let known: Vec<Vec<Vec<Named>>> = self.0.iter().map(|version| version.whole_all(&refs)).collect();
        let book = Arc::new(Book { answers: self.0.iter().map(|_| AtomicUsize::new(0)).collect(), ..Book::default() });
        let client = |_| {
            let (door, requests, known, book) = (door.clone(), requests.clone(), known.clone(), Arc::clone(&book));
            thread::spawn(move || ask(&door, &requests, &known, &book))
        };
        let traffic = Traffic { clients: (0..clients).map(client).collect(), book };
        traffic.goes_on("at first");
        traffic
    }
}

#[derive(Default)]
struct Book {
    stop: AtomicBool,
    /// By the version that made them.
    answers: Vec<AtomicUsize>,
    refused: AtomicUsize,
    /// Answers that no version makes, requests that failed or were lost.
    wrong: Mutex<Vec<String>>,
    /// How often a client's answers changed from one version to another.
    turns: AtomicUsize,
    last: Mutex<Option<Instant>>,
    longest_gap: Mutex<Duration>,
}

/// Clients that ask all the while, several at once.
pub struct Traffic {
    clients: Vec<JoinHandle<()>>,
    book: Arc<Book>,
}

/// What clients have seen.
#[derive(Debug)]
pub struct Seen {
    pub answers: Vec<usize>,
    pub refused: usize,
    pub turns: usize,
    pub longest_gap: Duration,
}

impl Traffic {
    fn answered(&self) -> usize {
        self.book.answers.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Waits for more answers, from requests that begin from now on.
    pub fn goes_on(&self, after: &str) {
        let before = self.answered();
        // Each client may have one under way.
        poll(&format!("answers after {after}"), || {
            let wrong = self.book.wrong.lock().unwrap();
            assert!(wrong.is_empty(), "after {after}: {wrong:?}");
            (self.answered() > before + 2 * self.clients.len()).then_some(())
        });
    }

    /// Answers of each version so far.
    pub fn answers(&self) -> Vec<usize> {
        self.book.answers.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Ends it; everything was answered right, or refused with "come again".
    pub fn end(mut self) -> Seen {
        self.goes_on("all of it");
        self.halt();
        let wrong = std::mem::take(&mut *self.book.wrong.lock().unwrap());
        assert!(wrong.is_empty(), "{wrong:?}");
        let seen = Seen {
            answers: self.answers(),
            refused: self.book.refused.load(Ordering::Relaxed),
            turns: self.book.turns.load(Ordering::Relaxed),
            longest_gap: *self.book.longest_gap.lock().unwrap(),
        };
        println!("{seen:?}, the longest time without an answer {:?}", seen.longest_gap);
        seen
    }

    fn halt(&mut self) {
        self.book.stop.store(true, Ordering::Relaxed);
        self.clients.drain(..).for_each(|client| drop(client.join()));
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.halt();
    }
}

fn ask(door: &Door, requests: &[Vec<Named>], known: &[Vec<Vec<Named>>], book: &Book) {
    let mut before = None;
    for at in (0..requests.len()).cycle() {
        if book.stop.load(Ordering::Relaxed) {
            return;
        }
        match door.try_infer(&requests[at], &json!({"timeout": 80_000_000})) {
            Some(Ok(got)) => {
                let Some(version) = known.iter().position(|known| is_same(&got, &known[at])) else {
                    book.wrong.lock().unwrap().push(format!("no version answers request {at} with {got:?}"));
                    return;
                };
                book.answers[version].fetch_add(1, Ordering::Relaxed);
                if before.replace(version).is_some_and(|before| before != version) {
                    book.turns.fetch_add(1, Ordering::Relaxed);
                }
                let now = Instant::now();
                if let Some(last) = book.last.lock().unwrap().replace(now) {
                    let mut longest = book.longest_gap.lock().unwrap();
                    *longest = longest.max(now.saturating_duration_since(last));
                }
            }
            Some(Err(refusal)) if refusal.status == 503 => {
                book.refused.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
            other => {
                book.wrong.lock().unwrap().push(format!("{other:?}"));
                return;
            }
        }
    }
}

/// Whether two answers are the same within rounding. Those of different weights differ by far more.
fn is_same(got: &[Named], want: &[Named]) -> bool {
    got.len() == want.len()
        && want.iter().all(|(name, want)| {
            let Some((_, got)) = got.iter().find(|(other, _)| other == name) else { return false };
            let (Some(got), Some(want)) = (got.to_f32(), want.to_f32()) else { return false };
            got.len() == want.len() && got.iter().zip(&want).all(|(got, want)| (got - want).abs() < 1e-4)
        })
}
