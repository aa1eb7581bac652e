//! The wall clock jumps; nothing but a log line may notice.

use crate::support::chain::{Chain, Node};
use crate::support::hand::assignment;
use crate::support::hostile::{Parts, digest};
use crate::support::networks::{ladder, stage};
use crate::support::watch::Watch;
use crate::support::{folder, poll};
use serde_json::json;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

const TEN_YEARS: i64 = 10 * 365 * 86_400;

/// Compiles the clock that can be set off, and gives what a process needs to run by it.
fn set_off(folder: &Path) -> (PathBuf, [(&'static str, String); 2]) {
    let library = folder.join("clock.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/clock.c");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    assert!(compiled.expect("a C compiler links Rust programs too").success());
    let by = folder.join("seconds");
    fs::write(&by, "0").unwrap();
    let envs = [("LD_PRELOAD", library.display().to_string()), ("DEFER_TEST_CLOCK", by.display().to_string())];
    (by, envs)
}

fn jump(by: &Path, seconds: i64) {
    // In one step: a reader must not see half of it.
    fs::write(by.with_extension("new"), seconds.to_string()).unwrap();
    fs::rename(by.with_extension("new"), by).unwrap();
}

#[test]
fn a_wall_clock_that_jumps_loses_no_request_no_lease_and_no_stage() {
    let folder = folder("clock");
    let (by, envs) = set_off(&folder);
    let envs: Vec<(&str, &str)> = envs.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let staged = stage("clock", &ladder(4), 2, &[]);
    let nodes: Vec<Node> = (0..2).map(|i| Node::start_in(&folder, &format!("n{i}"), &[], &envs)).collect();
    let chain = Chain::over_in(nodes, &staged, &[], &envs);
    let watch = Watch::over(&chain, &staged);
    let node = &chain.nodes[0];
    // A generation that is only prepared, with a lease of ten minutes.
    let artifact = Parts::good("leased").artifact();
    let name = digest(&artifact);
    assert!(node.upload(&name, artifact).status.is_success());
    let leased = assignment(0, &name, &json!([]));
    assert!(node.prepare("leased", 1, &leased).status.is_success());
    let mut rival = leased.clone();
    rival["dispatcher"] = json!({"name": "rival", "incarnation": 1});
    let year = |offset: i64| 1970 + (SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64 + offset) / 31_556_952;
    for offset in [TEN_YEARS, -TEN_YEARS, 3600, 0] {
        jump(&by, offset);
        // Longer than a node needs to look for leases that are over.
        thread::sleep(Duration::from_millis(1500));
        let what = format!("a jump to {offset} s from now");
        watch.goes_on(&what);
        assert_eq!(node.stages().len(), 2, "{what}: nothing expired");
        let reply = node.prepare("leased", 2, &rival);
        assert_eq!(reply.status.as_u16(), 409, "{what}: the lease still runs");
        // The proof that the clock is off: the logs tell the time. An upload that is needless is refused, and an unknown
        // generation is no news; a new one is.
        let year = year(offset).to_string();
        assert!(node.prepare("leased", 1, &leased).status.is_success(), "{what}");
        assert_eq!(node.remove("leased", 1).status.as_u16(), 204);
        assert!(node.prepare("leased", 1, &leased).status.is_success(), "{what}");
        poll("a log line", || node.process.stderr_tail().lines().last()?.starts_with(&year).then_some(()));
    }
    watch.end(&chain);
    assert_eq!(chain.tag().0, 1, "still the first generation");
}

#[test]
fn a_use_that_is_noted_in_the_future_does_not_outlast_those_of_today() {
    let node = Node::start(&folder("future"), "n0", &["--store-limit", "1"]);
    let artifacts = node.state_dir.join("artifacts");
    let keep = |seed: u8| {
        let bytes = vec![seed; 400 << 10];
        let digest = digest(&bytes);
        assert!(node.upload(&digest, bytes).status.is_success());
        digest
    };
    let (future, today) = (keep(1), keep(2));
    for file in [format!("{future}.verified"), format!("{future}.wasm")] {
        let file = File::options().write(true).open(artifacts.join(file)).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(365 * 86_400)).unwrap();
    }
    let newest = keep(3);
    poll("room", || (!artifacts.join(format!("{future}.wasm")).exists()).then_some(()));
    assert!(node.has_artifact(&today) && node.has_artifact(&newest));
    // An artifact whose own time is in the future is as good as any.
    let file = File::options().write(true).open(artifacts.join(format!("{today}.wasm"))).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(365 * 86_400)).unwrap();
    assert!(node.has_artifact(&today));
}

/// Where the wall clock is read, and why that is right.
const READERS: [(&str, &str); 2] = [
    ("node/store.rs", "when an artifact was last asked for, across restarts"),
    ("oip/stats.rs", "when the last inference was, for people"),
];

#[test]
fn nothing_else_reads_the_wall_clock() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut readers = Vec::new();
    let mut folders: Vec<PathBuf> = ["host/src", "partition/src", "models/src"].map(|f| repository.join(f)).to_vec();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                if ["SystemTime", "UNIX_EPOCH", "CLOCK_REALTIME"].iter().any(|name| text.contains(name)) {
                    readers.push(path);
                }
            }
        }
    }
    assert!(readers.len() >= READERS.len(), "the search finds what is there");
    for path in readers {
        let known = READERS.iter().any(|(file, _)| path.ends_with(file));
        assert!(known, "{} reads the wall clock; use Instant, or say why not in READERS", path.display());
    }
}
