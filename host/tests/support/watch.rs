//! A good chain that is asked all the while: what is done beside it must cost it nothing.

use super::chain::{Chain, Door};
use super::networks::{Staged, assert_same};
use super::poll;
use defer_host::engine::Named;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Between two requests: the chain is there to be disturbed, not to disturb.
const PAUSE: Duration = Duration::from_millis(5);

/// A client of a good chain that checks every answer. Any refusal, and any wrong answer, is a panic.
pub struct Watch {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    client: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts to ask `chain`, which runs `staged`; returns once it has answered.
    pub fn over(chain: &Chain, staged: &Staged) -> Self {
        let requests: Vec<Vec<Named>> = (0..3).map(|seed| staged.inputs(seed, 2 + seed as usize)).collect();
        let wanted = staged.whole_all(&requests.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (door, halt, count) = (chain.door.clone(), Arc::clone(&stop), Arc::clone(&answers));
        let client = thread::spawn(move || ask(&door, &requests, &wanted, &halt, &count));
        let watch = Self { stop, answers, client: Some(client) };
        watch.goes_on("at first");
        watch
    }

    /// Waits for answers to requests that begin from now on.
    pub fn goes_on(&self, after: &str) {
        let before = self.answers.load(Ordering::Relaxed);
        poll(&format!("answers after {after}"), || {
            let ended = self.client.as_ref().is_none_or(JoinHandle::is_finished);
            // One may have been under way.
            (ended || self.answers.load(Ordering::Relaxed) > before + 1).then_some(())
        });
        assert!(!self.client.as_ref().is_none_or(JoinHandle::is_finished), "the chain failed after {after}");
    }

    /// Ends the client; the chain has answered everything and lost nothing, in its own eyes too.
    pub fn end(mut self, chain: &Chain) {
        self.goes_on("all of it");
        self.halt();
        let counters = chain.admin()["counters"].clone();
        assert_eq!((&counters["failed"], &counters["pending"]), (&json!(0), &json!(0)), "{counters}");
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.client.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(matches!(ended, None | Some(Ok(()))), "the chain did not answer as it should");
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.halt();
    }
}

fn ask(door: &Door, requests: &[Vec<Named>], wanted: &[Vec<Named>], stop: &AtomicBool, answers: &AtomicUsize) {
    for (request, want) in requests.iter().zip(wanted).cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let got = door.infer(request).unwrap_or_else(|refusal| panic!("beside all that: {refusal:?}"));
        assert_same(&got, want, "beside all that");
        answers.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
}
