//! Requests at the inference port that do not fit the network.

use crate::support::PATIENCE;
use crate::support::chain::Chain;
use crate::support::http::{Request, binary_body};
use crate::support::networks::{Staged, assert_same, ladder, stage, tour};
use defer_host::engine::Named;
use defer_host::relay::frame::{Kind, Tag, write_head};
use defer_partition::testing::Random;
use defer_partition::{DType, Tensor};
use reqwest::Method;
use serde_json::json;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

fn zeros(dtype: DType, shape: &[usize]) -> Tensor {
    let len = defer_partition::byte_len(dtype, shape).unwrap();
    Tensor::new(dtype, shape.to_vec(), vec![0; len]).unwrap()
}

fn still_answers(chain: &Chain, staged: &Staged, after: &str) {
    let inputs = staged.inputs(9, 2);
    let got = chain.infer(&inputs).unwrap_or_else(|refusal| panic!("after {after}: {refusal:?}"));
    assert_same(&got, &staged.whole(&inputs), after);
}

#[test]
fn a_request_that_does_not_fit_is_told_why() {
    let staged = stage("requests", &tour(), 3, &[]);
    let chain = Chain::start("requests", &staged);
    type Change = fn(&mut Vec<Named>);
    let cases: [(&str, Change, &str); 7] = [
        ("another name", |i| i[0].0 = "z".into(), "model \"requests\" has no input \"z\""),
        (
            "another shape",
            |i| i[0].1 = zeros(DType::Fp32, &[3, 2]),
            "input \"a\" of model \"requests\" expects FP32[2, 3], got FP32[3, 2]",
        ),
        ("another rank", |i| i[0].1 = zeros(DType::Fp32, &[6]), "expects FP32[2, 3], got FP32[6]"),
        ("another type", |i| i[0].1 = zeros(DType::Fp64, &[2, 3]), "expects FP32[2, 3], got FP64[2, 3]"),
        ("one too few", |i| drop(i.pop()), "needs input \"late\""),
        ("one twice", |i| i.push(i[0].clone()), "input \"a\" is given twice"),
        ("no truth value", |i| i[3].1.data[1] = 7, "only 0 and 1 are truth values"),
    ];
    for (what, change, because) in cases {
        let mut inputs = staged.inputs(1, 2);
        change(&mut inputs);
        let refusal = chain.infer(&inputs).expect_err(what);
        assert_eq!(refusal.status, 400, "{what}: {}", refusal.error);
        assert!(refusal.error.contains(because), "{what}: {}", refusal.error);
        still_answers(&chain, &staged, what);
    }
    let url = format!("{}/v2/models/requests/infer", chain.url());
    let (header, body) = binary_body(&staged.inputs(1, 2), &json!({}));
    for (what, length, body) in [
        ("random bytes", None, vec![0xa5; 500]),
        ("nothing", None, Vec::new()),
        ("a header that is longer than the body", Some(1 << 40), body.clone()),
        ("a body that ends early", Some(header), body[..body.len() - 1].to_vec()),
        ("a body that goes on", Some(header), [&body[..], b"more"].concat()),
        ("sizes that lie", None, br#"{"inputs":[{"name":"a","datatype":"FP32","shape":[2,3],"data":[1,2]}]}"#.to_vec()),
        (
            "a shape of 2^60",
            None,
            br#"{"inputs":[{"name":"a","datatype":"FP32","shape":[1152921504606846976,3],"data":[1]}]}"#.to_vec(),
        ),
    ] {
        let mut request = Request::new(Method::POST, &url).body(body);
        if let Some(length) = length {
            request = request.header("inference-header-content-length", length.to_string());
        }
        let reply = request.send();
        assert_eq!(reply.status.as_u16(), 400, "{what}: {}", String::from_utf8_lossy(&reply.body));
        assert!(!reply.error().is_empty());
        still_answers(&chain, &staged, what);
    }
    let other = format!("{}/v2/models/other/infer", chain.url());
    let reply = Request::new(Method::POST, other).body(b"{}".to_vec()).send();
    assert_eq!(reply.status.as_u16(), 404);
    assert!(reply.error().contains("unknown model \"other\"; this server has \"requests\""), "{}", reply.error());
}

#[test]
fn what_is_no_http_harms_no_http_port() {
    let staged = stage("noise", &ladder(2), 2, &[]);
    let chain = Chain::start("noise", &staged);
    let mut random = Random::new(1);
    let noise: Vec<u8> = (0..4000).map(|_| random.bits() as u8).collect();
    let endless = [&b"GET /"[..], &[b'a'; 200_000]].concat();
    let ports = [chain.url(), chain.dispatcher.address("admin"), chain.nodes[0].url(), chain.nodes[1].url()];
    for port in ports {
        let address = port.trim_start_matches("http://");
        for (what, bytes) in [
            ("random bytes", &noise[..]),
            ("a relay frame", &write_head(Kind::Hello, &Tag::default(), b"{}", 0)),
            ("an endless path", &endless),
            (
                "an impossible length",
                b"POST /v2/models/noise/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
            ),
            ("two lengths", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        ] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            // The server may have hung up before all is sent.
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(Shutdown::Write);
            let mut answer = Vec::new();
            match stream.read_to_end(&mut answer) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("{what} at {port}: neither an answer nor the end")
                }
                _ => assert!(!answer.starts_with(b"HTTP/1.1 2"), "{what} at {port}"),
            }
        }
        still_answers(&chain, &staged, port);
    }
    for node in &chain.nodes {
        assert_eq!(node.get("/healthz").status.as_u16(), 200);
        let reply = node.get("/v1/nothing");
        assert_eq!(reply.status.as_u16(), 404);
        assert!(reply.error().contains("no such path"), "{}", reply.error());
    }
}

#[test]
fn a_request_larger_than_the_nodes_take_is_refused() {
    let staged = stage("large", &ladder(2), 2, &[]);
    let chain = Chain::start_with("large", &staged, &["--max-tensor-mb", "1"], &[]);
    let rows = |n: usize| vec![("x".to_owned(), zeros(DType::Fp32, &[n, 64]))];
    let refusal = chain.infer(&rows(4200)).expect_err("1.08 MB");
    assert_eq!(refusal.status, 400);
    assert!(refusal.error.contains("the nodes take 1048576 (serve --max-tensor-mb)"), "{}", refusal.error);
    let refusal = chain.infer(&rows(14_000)).expect_err("3.6 MB");
    assert_eq!(refusal.status, 413);
    assert!(refusal.error.contains("the body is larger than"), "{}", refusal.error);
    assert_eq!(chain.infer(&rows(4096)).expect("1 MiB fits")[0].1.shape, [4096, 64]);
    still_answers(&chain, &staged, "large requests");
}
