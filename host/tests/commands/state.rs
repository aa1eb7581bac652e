//! State directories that cannot be written, and ones that fill up.

use crate::support::chain::{Chain, Node};
use crate::support::cluster::Process;
use crate::support::hand::assignment;
use crate::support::hostile::{Parts, digest};
use crate::support::networks::{ladder, stage};
use crate::support::watch::Watch;
use crate::support::{BINARY, PATIENCE, folder};
use serde_json::json;
use std::path::Path;
use std::process::Command;

/// How to run a program with mounts of its own; `None` where this machine does not allow it.
fn mounts() -> Option<Vec<&'static str>> {
    let ways = [vec!["--mount"], vec!["--user", "--map-root-user", "--mount"]];
    let works = |way: &Vec<&str>| {
        let status = Command::new("unshare").args(way).args(["mount", "-t", "tmpfs", "tmpfs", "/mnt"]).status();
        status.is_ok_and(|status| status.success())
    };
    let way = ways.into_iter().find(works);
    if way.is_none() {
        eprintln!("SKIPPED: neither root nor user namespaces, so no file system can be mounted for a test");
    }
    way
}

/// The arguments of `unshare` that mount a tmpfs of `options` at `folder`, run `then`, and become `program`.
fn within<'a>(way: &[&'a str], folder: &'a str, options: &'a str, then: &'a str, program: &[&'a str]) -> Vec<&'a str> {
    let script = "mount -t tmpfs -o \"$1\" tmpfs \"$2\" && eval \"$3\" && shift 3 && exec \"$@\"";
    [way, &["sh", "-c", script, "sh", options, folder, then], program].concat()
}

#[test]
fn a_state_directory_that_cannot_be_written_is_named() {
    let Some(way) = mounts() else { return };
    let base = folder("read-only");
    let base = base.to_str().unwrap();
    let state = format!("{base}/state");
    let serve = [BINARY, "serve", "--listen", "127.0.0.1:0", "--relay", "127.0.0.1:0", "--state-dir", &state];
    for (what, then) in [
        ("nothing there", format!("mount -o remount,ro {base}")),
        ("a state of old", format!("mkdir -p {state}/artifacts {state}/generations && mount -o remount,ro {base}")),
    ] {
        let mut node =
            Process::spawn(Path::new("unshare"), &within(&way, base, "size=1m", &then, &serve), &[]).unwrap();
        let status = node.wait_exit(PATIENCE).expect("it ends by itself");
        let said = node.stderr_tail();
        assert_eq!(status.code(), Some(2), "{what}: {said}");
        let named = format!("cannot use the state directory {state}");
        assert!(said.contains(&named) && said.contains("Read-only file system"), "{what}: {said}");
    }
}

#[test]
fn a_full_disk_refuses_what_is_new_and_serves_what_is_there() {
    let Some(way) = mounts() else { return };
    let base = folder("full-disk");
    let state = base.join("n0");
    std::fs::create_dir_all(&state).unwrap();
    let state = state.to_str().unwrap();
    let program =
        [BINARY, "serve", "--name", "n0", "--threads", "1", "--listen", "127.0.0.1:0", "--relay", "127.0.0.1:0"];
    let program = [&program[..], &["--state-dir", state]].concat();
    let args = within(&way, state, "size=1m", "true", &program);
    let mut process = Process::spawn(Path::new("unshare"), &args, &[]).unwrap();
    process.wait_listening(&["rest", "relay"], PATIENCE).unwrap();
    let staged = stage("full-disk", &ladder(2), 1, &[]);
    let chain = Chain::over(vec![Node::adopt(process, "n0", Path::new(state))], &staged, &[]);
    let watch = Watch::over(&chain, &staged);
    let node = &chain.nodes[0];
    // Twice: what was written of the first attempt is gone.
    for _ in 0..2 {
        let bytes = vec![7; 2 << 20];
        let reply = node.upload(&digest(&bytes), bytes);
        assert_eq!(reply.status.as_u16(), 507, "{reply:?}");
        assert!(reply.error().contains("no space left for the artifact"), "{}", reply.error());
        watch.goes_on("a full disk");
    }
    // Filled to the last page, and with it the notes.
    let artifact = Parts::good("no-note").artifact();
    let name = digest(&artifact);
    assert!(node.upload(&name, artifact).status.is_success());
    let filler: Vec<String> = (0..64u8)
        .filter_map(|seed| {
            let bytes = vec![seed; 32 << 10];
            let name = digest(&bytes);
            node.upload(&name, bytes).status.is_success().then_some(name)
        })
        .collect();
    assert!(!filler.is_empty() && filler.len() < 64, "{} of 32 KiB fit", filler.len());
    let mut generation = 0;
    let refusal = crate::support::poll("a disk that is full", || {
        generation += 1;
        let tiny = vec![u8::try_from(generation % 251).unwrap(); 4000];
        let full = !node.upload(&digest(&tiny), tiny).status.is_success();
        let reply = node.prepare("no-note", generation, &assignment(0, &name, &json!([])));
        (full && !reply.status.is_success()).then_some(reply)
    });
    assert_eq!(refusal.status.as_u16(), 507, "{refusal:?}");
    assert!(refusal.error().contains("cannot note the generation in"), "{}", refusal.error());
    assert!(refusal.error().contains("No space left"), "{}", refusal.error());
    watch.goes_on("a disk without room for a note");
    watch.end(&chain);
}
