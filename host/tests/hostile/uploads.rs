//! Artifacts that are more than a node keeps.

use crate::support::chain::Chain;
use crate::support::hostile::digest;
use crate::support::http::Request;
use crate::support::networks::{ladder, stage};
use crate::support::poll;
use crate::support::watch::Watch;
use crate::support::wire::Wire;
use reqwest::Method;
use std::fs;

const LIMIT: usize = 2 << 20;

#[test]
fn an_upload_that_is_more_than_the_store_keeps_is_refused_early() {
    let staged = stage("uploads", &ladder(2), 1, &[]);
    let chain = Chain::start_with("uploads", &staged, &["--store-limit", "2"], &[]);
    let watch = Watch::over(&chain, &staged);
    let node = &chain.nodes[0];
    let path = format!("/v1/artifacts/{}", "c".repeat(64));
    let too_large = "the upload is larger than what the node keeps, 2097152 bytes (serve --store-limit)";
    // Announced: refused before its first byte.
    for length in [LIMIT as u64 + 1, 1 << 40, 1 << 62] {
        let mut wire = Wire::open(node.url());
        wire.head("PUT", &path, &format!("Expect: 100-continue\r\nContent-Length: {length}\r\n"));
        let answer = wire.answer().expect("an answer");
        assert_eq!(answer.status, 413, "{length}: {answer:?}");
        assert_eq!(answer.error, too_large);
    }
    // The client's own library hears it too, although it is still sending.
    let reply = node.upload(&"c".repeat(64), vec![0; LIMIT + 1]);
    assert_eq!((reply.status.as_u16(), reply.error().as_str()), (413, too_large));
    watch.goes_on("announced ones");
    // Not announced: refused once it is too much.
    let mut wire = Wire::open(node.url());
    wire.head("PUT", &path, "Transfer-Encoding: chunked\r\n");
    for _ in 0..LIMIT / 65536 + 1 {
        wire.send("10000\r\n");
        wire.send(vec![0; 65536]);
        wire.send("\r\n");
    }
    let answer = wire.answer().expect("an answer");
    assert_eq!((answer.status, answer.error.as_str()), (413, too_large));
    // Two that are too much together.
    let mut first = Wire::open(node.url());
    first.head("PUT", &format!("/v1/artifacts/{}", "d".repeat(64)), &format!("Content-Length: {LIMIT}\r\n"));
    first.send("begun");
    let parts = || {
        let files = fs::read_dir(node.state_dir.join("artifacts")).unwrap().flatten();
        files.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "part")).count()
    };
    poll("the first one", || (parts() == 1).then_some(()));
    let small = b"small".to_vec();
    let reply = node.upload(&digest(&small), small.clone());
    assert_eq!(reply.status.as_u16(), 507);
    assert!(
        reply.error().contains("uploads under way take 2097152 bytes; with 5 more it is over"),
        "{}",
        reply.error()
    );
    drop(first);
    poll("the end of the first one", || node.upload(&digest(&small), small.clone()).status.is_success().then_some(()));
    poll("its file's end", || (parts() == 0).then_some(()));
    watch.end(&chain);
}

#[test]
fn uploads_that_nobody_runs_never_fill_the_disk() {
    let staged = stage("hoard", &ladder(2), 1, &[]);
    let chain = Chain::start_with("hoard", &staged, &["--store-limit", "2"], &[]);
    let watch = Watch::over(&chain, &staged);
    let node = &chain.nodes[0];
    let artifacts = node.state_dir.join("artifacts");
    let size = || fs::read_dir(&artifacts).unwrap().flatten().map(|e| e.metadata().map_or(0, |m| m.len())).sum::<u64>();
    for number in 0..12u8 {
        let bytes = vec![number; 1 << 20];
        assert!(node.upload(&digest(&bytes), bytes).status.is_success());
        // What runs stays beyond the limit, and one upload may be under way; both are small change here.
        poll("room", || (size() <= LIMIT as u64 + 4096).then_some(()));
    }
    assert!(node.has_artifact(&digest(&[11; 1 << 20])), "the last one is still there");
    assert!(node.has_artifact(&staged.pipeline.stages[0].digest.to_string()), "and what runs");
    watch.end(&chain);
    // The dispatcher says so before it ships anything that is too large.
    let reply = Request::new(Method::GET, format!("{}/v1/node", node.url())).send();
    assert_eq!(reply.json()["store_limit_bytes"], LIMIT);
}
