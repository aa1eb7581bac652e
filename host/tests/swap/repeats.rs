//! Requests that are repeated.

use crate::support::chain::Chain;
use crate::support::http::{Reply, Request, binary_body};
use crate::support::networks::{ladder, long, stage};
use crate::support::poll;
use defer_host::engine::Named;
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::io::Write as _;
use std::net::TcpStream;
use std::thread;

fn ask(url: &str, model: &str, key: &str, inputs: &[Named]) -> Reply {
    let (header, body) = binary_body(inputs, &json!({}));
    Request::new(Method::POST, format!("{url}/v2/models/{model}/infer"))
        .header("inference-header-content-length", header.to_string())
        .header("idempotency-key", key)
        .body(body)
        .send()
}

fn accepted(chain: &Chain) -> u64 {
    chain.admin()["counters"]["accepted"].as_u64().unwrap()
}

#[test]
fn a_request_with_a_key_runs_once_and_answers_as_often_as_it_is_asked() {
    let staged = stage("repeats", &ladder(2), 1, &[]);
    let chain = Chain::start_with("repeats", &staged, &[], &["--repeat-window", "2"]);
    let (url, name) = (chain.url().to_owned(), staged.name());
    let (inputs, others) = (staged.inputs(1, 2), staged.inputs(2, 2));
    let first = ask(&url, name, "order-1", &inputs);
    assert_eq!(first.status, StatusCode::OK);
    let replies: Vec<Reply> = thread::scope(|scope| {
        let all: Vec<_> = (0..6).map(|_| scope.spawn(|| ask(&url, name, "order-1", &inputs))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(replies.iter().all(|reply| reply.body == first.body));
    assert_eq!(accepted(&chain), 1);
    // Another key is another request; the same key is no other's.
    assert_eq!(ask(&url, name, "order-2", &inputs).status, StatusCode::OK);
    assert_eq!(accepted(&chain), 2);
    let reply = ask(&url, name, "order-1", &others);
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert!(reply.error().contains("was used for other inputs"), "{}", reply.error());
    for wrong in [String::new(), "x".repeat(257), "two words".to_owned()] {
        assert_eq!(ask(&url, name, &wrong, &inputs).status, StatusCode::BAD_REQUEST, "{wrong:?}");
    }
    // The window is bounded.
    poll("the end of the window", || (ask(&url, name, "order-1", &others).status == StatusCode::OK).then_some(()));
    assert_eq!(accepted(&chain), 3);
}

#[test]
fn a_request_with_a_key_is_finished_although_its_client_has_hung_up() {
    let staged = stage("hung-up", &long(8), 1, &[]);
    let chain = Chain::start("hung-up", &staged);
    let inputs = staged.inputs(1, 2000);
    let (header, body) = binary_body(&inputs, &json!({}));
    let address = chain.url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    let head = format!(
        "POST /v2/models/{}/infer HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\
         Inference-Header-Content-Length: {header}\r\nIdempotency-Key: only-once\r\n\r\n",
        staged.name(),
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
    poll("the request", || (accepted(&chain) == 1).then_some(()));
    drop(stream);
    let reply = ask(chain.url(), staged.name(), "only-once", &inputs);
    assert_eq!(reply.status, StatusCode::OK, "{}", String::from_utf8_lossy(&reply.body));
    let counters = chain.admin()["counters"].clone();
    assert_eq!((&counters["accepted"], &counters["answered"]), (&json!(1), &json!(1)), "{counters}");
}
