//! What is loaded while requests are answered stands back, and what it leaves behind does not.

use crate::stages::{settled, swap_at};
use crate::support::chain::Chain;
use crate::support::poll;
use crate::traffic::Versions;
use reqwest::StatusCode;
use std::fs;
use std::thread;

/// Name and niceness of each thread of a process.
fn threads(pid: u32) -> Vec<(String, i64)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    // One that has just ended has no file any more.
    let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    let named = |stat: String| {
        let (head, fields) = stat.rsplit_once(')').unwrap();
        let (_, name) = head.split_once('(').unwrap();
        // The third field of all comes first here; niceness is the nineteenth.
        (name.to_owned(), fields.split_whitespace().nth(16).unwrap().parse().unwrap())
    };
    stats.map(named).collect()
}

fn niceness(pid: u32, name: &str) -> Vec<i64> {
    threads(pid).into_iter().filter(|thread| thread.0 == name).map(|thread| thread.1).collect()
}

#[test]
fn a_stage_is_loaded_with_less_priority_than_requests_have_and_then_computes_with_as_much() {
    let versions = Versions::of("priority", &[[1, 2, 3], [1, 12, 3]]);
    let staged = &versions.0[0];
    // With two threads, an engine has one of its own.
    let chain = Chain::start_with("priority", staged, &["--threads", "2"], &[]);
    let node = &chain.nodes[1];
    let (pid, url) = (node.process.pid(), node.url());
    // What it was started with is this process's.
    let own = threads(std::process::id())[0].1;
    // It is called so once it runs.
    let engine = || poll("one thread of an engine", || <[i64; 1]>::try_from(niceness(pid, "engine")).ok());
    assert_eq!(engine(), [own]);
    let traffic = versions.traffic(&chain.door, 2);
    let loading = thread::scope(|scope| {
        // Some loads are over between two looks.
        let swaps = scope.spawn(|| {
            for version in [1, 0].into_iter().cycle().take(10) {
                let reply = swap_at(url, staged.name(), 1, versions.0[version].artifact(1));
                assert_eq!(reply.status, StatusCode::OK, "{}", reply.error());
            }
        });
        let mut seen = Vec::new();
        while !swaps.is_finished() {
            seen.extend(niceness(pid, "load"));
        }
        seen
    });
    assert!(loading.iter().any(|nice| *nice > own), "loading was seen at {loading:?}, requests have {own}");
    assert_eq!(settled(&chain.nodes), 11);
    traffic.goes_on("swaps");
    assert_eq!(engine(), [own]);
    let seen = traffic.end();
    assert_eq!(seen.refused, 0, "{seen:?}");
}
