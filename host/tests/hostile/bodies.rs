//! Bodies that are not what their heads say, on every port that takes bodies, and bodies that are too much.

use crate::support::chain::Chain;
use crate::support::http::Request;
use crate::support::networks::{ladder, stage};
use crate::support::poll;
use crate::support::watch::Watch;
use crate::support::wire::Wire;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use reqwest::Method;
use std::io::Write as _;

/// What a compressed body stands for here, and what a node or dispatcher may grow by because of it.
const BOMB: u64 = 1 << 30;
const GROWTH: u64 = 128 << 20;

const GENERATION: &str = "/v1/pipelines/p/generations/1";
const JSON: &str = "Content-Type: application/json\r\n";

#[test]
fn a_body_is_as_long_as_its_head_says() {
    let staged = stage("lengths", &ladder(2), 1, &[]);
    let chain = Chain::start("lengths", &staged);
    let watch = Watch::over(&chain, &staged);
    let artifact = format!("/v1/artifacts/{}", "b".repeat(64));
    let infer = "/v2/models/lengths/infer";
    for (port, method, path) in [
        (chain.nodes[0].url(), "PUT", artifact.as_str()),
        (chain.nodes[0].url(), "PUT", GENERATION),
        (chain.url(), "POST", infer),
    ] {
        // Shorter: the client stops in the middle and says that it is done.
        let mut wire = Wire::open(port);
        wire.head(method, path, &format!("{JSON}Content-Length: 1000\r\n"));
        wire.send("{\"half\":");
        wire.finish();
        if let Some(answer) = wire.answer() {
            assert_eq!(answer.status, 400, "{path}: {answer:?}");
            assert!(!answer.error.is_empty(), "{path}");
        }
        watch.goes_on(path);
        // Longer: what follows is no request.
        let mut wire = Wire::open(port);
        wire.head(method, path, &format!("{JSON}Content-Length: 2\r\n"));
        wire.send("{}and more than that\r\n\r\n");
        let answer = wire.answer().expect("an answer to what was declared");
        assert!((400..500).contains(&answer.status), "{path}: {answer:?}");
        assert!(wire.answer().is_none_or(|answer| answer.status == 400), "{path}: what follows is no request");
        // Chunks that are none.
        let mut wire = Wire::open(port);
        wire.head(method, path, &format!("{JSON}Transfer-Encoding: chunked\r\n"));
        wire.send("zz\r\n{}\r\n0\r\n\r\n");
        if let Some(answer) = wire.answer() {
            assert_eq!(answer.status, 400, "{path}: {answer:?}");
        }
        watch.goes_on(path);
    }
    assert_eq!(
        std::fs::read_dir(chain.nodes[0].state_dir.join("artifacts")).unwrap().count(),
        2,
        "the chain's and its mark"
    );
    watch.end(&chain);
}

#[test]
fn json_that_is_none_is_told_where() {
    let staged = stage("no-json", &ladder(2), 1, &[]);
    let chain = Chain::start("no-json", &staged);
    let watch = Watch::over(&chain, &staged);
    let infer = format!("{}/v2/models/no-json/infer", chain.url());
    let prepare = format!("{}{GENERATION}", chain.nodes[0].url());
    let deep = [&b"["[..]; 20_000].concat();
    for (what, body) in [
        ("words", &b"hello"[..]),
        ("half an object", b"{\"inputs\": ["),
        ("another encoding", b"\xff\xfe{\x00}\x00"),
        ("a number that is none", b"{\"lease_ms\": 1e999}"),
        ("brackets without end", &deep),
        ("nothing", b""),
        ("an object and more", b"{} {}"),
    ] {
        for (method, url) in [(Method::POST, &infer), (Method::PUT, &prepare)] {
            let reply = Request::new(method, url).header("content-type", "application/json").body(body.to_vec()).send();
            assert!(reply.status.is_client_error(), "{what} at {url}: {reply:?}");
            assert!(!reply.error().is_empty(), "{what} at {url}");
        }
        watch.goes_on(what);
    }
    // Larger than any order to a node.
    let large =
        Request::new(Method::PUT, &prepare).header("content-type", "application/json").body(vec![b' '; 3 << 20]);
    let reply = large.send();
    assert!(reply.status.is_client_error() && reply.error().contains("limit"), "{reply:?}");
    watch.end(&chain);
}

#[test]
fn a_compressed_body_that_expands_without_end_is_refused_within_memory() {
    let staged = stage("bombs", &ladder(2), 1, &[]);
    let chain = Chain::start("bombs", &staged);
    let watch = Watch::over(&chain, &staged);
    let zeros = vec![0; 1 << 20];
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    for _ in 0..BOMB >> 20 {
        gzip.write_all(&zeros).unwrap();
        zlib.write_all(&zeros).unwrap();
    }
    let peak = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", chain.dispatcher.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim();
        line.trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    };
    let before = peak();
    let url = format!("{}/v2/models/bombs/infer", chain.url());
    for (coding, body) in [("gzip", gzip.finish().unwrap()), ("deflate", zlib.finish().unwrap())] {
        assert!((body.len() as u64) < BOMB / 100);
        for length in [None, Some("10")] {
            let request = Request::new(Method::POST, &url).header("content-encoding", coding).body(body.clone());
            let request = match length {
                Some(length) => request.header("inference-header-content-length", length),
                None => request,
            };
            let reply = request.send();
            assert_eq!(reply.status.as_u16(), 413, "{coding}: {reply:?}");
            assert!(reply.error().contains("the body expands to more than"), "{}", reply.error());
        }
        watch.goes_on(coding);
        // A node does not take compressed orders: to it they are noise.
        let request = Request::new(Method::PUT, format!("{}{GENERATION}", chain.nodes[0].url()));
        let reply =
            request.header("content-encoding", coding).header("content-type", "application/json").body(body).send();
        assert!(reply.status.is_client_error(), "{reply:?}");
    }
    // The limit here is 256 MiB and a half; the expansion stops there.
    let grown = peak() - before;
    assert!(grown < 3 * GROWTH, "the dispatcher grew by {} MiB", grown >> 20);
    poll("rest", || (chain.admin()["counters"]["pending"].as_u64() == Some(0)).then_some(()));
    watch.end(&chain);
}
