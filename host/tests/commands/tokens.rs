//! Who bears the token may give orders and ask; nobody else.

use crate::support::chain::{Chain, Node, spawn_dispatcher};
use crate::support::cluster::Process;
use crate::support::http::Request;
use crate::support::networks::{assert_same, ladder, stage};
use crate::support::{BINARY, PATIENCE, folder, run, stderr};
use reqwest::{Method, StatusCode};
use std::path::Path;
use std::time::Duration;

#[test]
fn orders_need_the_token() {
    let staged = stage("tokens", &ladder(4), 2, &[]);
    let folder = folder("tokens");
    let file = |name: &str, secret: &str| {
        let path = folder.join(name);
        std::fs::write(&path, secret).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (right, wrong, api) = (file("right", "s3cret\n"), file("wrong", "guess"), file("api", " for clients "));
    let start = |name: &str| Node::start(&folder, name, &["--token-file", &right]);
    let nodes: Vec<Node> = vec![start("n0"), start("n1")];
    let digest = "0".repeat(64);
    for (method, path) in [
        (Method::GET, "/v1/node".to_owned()),
        (Method::GET, "/v1/stages".to_owned()),
        (Method::GET, "/metrics".to_owned()),
        (Method::PUT, format!("/v1/artifacts/{digest}")),
        (Method::PUT, "/v1/pipelines/p/generations/1".to_owned()),
        (Method::DELETE, "/v1/pipelines/p/generations/1".to_owned()),
    ] {
        let url = format!("{}{path}", nodes[0].url());
        for (bearer, because) in [
            (None, "a token is needed"),
            (Some("Bearer guess"), "wrong token"),
            (Some("Bearer "), "a token is needed"),
            (Some("Bearer s3cre"), "wrong token"),
            (Some("Basic s3cret"), "a token is needed"),
        ] {
            let request = Request::new(method.clone(), &url);
            let request = match bearer {
                Some(bearer) => request.header("authorization", bearer),
                None => request,
            };
            let reply = request.send();
            assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{method} {path} {bearer:?}");
            assert!(reply.error().contains(because), "{method} {path} {bearer:?}: {}", reply.error());
        }
    }
    let open = nodes[0].get("/healthz");
    assert_eq!(open.status, StatusCode::OK, "probes need no secret");
    let described = Request::get(format!("{}/v1/node", nodes[0].url())).header("authorization", "Bearer s3cret").send();
    assert_eq!(described.json()["name"], "n0");

    // A dispatcher without it, or with another one, is told so.
    for flags in [&[][..], &["--token-file", &wrong]] {
        let mut dispatcher = spawn_dispatcher(&staged, &nodes.iter().collect::<Vec<_>>(), flags);
        let status = dispatcher.wait_exit(PATIENCE).expect("it gives up");
        assert_eq!(status.code(), Some(1));
        let said = dispatcher.stderr_tail();
        let named = nodes.iter().any(|node| said.contains(node.url()));
        assert!(said.contains("token") && named, "{said}");
    }

    let chain = Chain::over(nodes, &staged, &["--token-file", &right, "--api-token-file", &api]);
    let admin = chain.dispatcher.address("admin");
    assert_eq!(Request::get(format!("{admin}/v1/pipelines")).send().status, StatusCode::UNAUTHORIZED);
    let bearer = Request::get(format!("{admin}/v1/pipelines")).header("authorization", "Bearer s3cret").send();
    assert_eq!(bearer.json()["pipelines"][0]["name"], "tokens");

    let inputs = staged.inputs(1, 2);
    let refusal = chain.infer(&inputs).expect_err("a client without the token of the inference port");
    assert_eq!(refusal.status, 401);
    assert!(refusal.error.contains("a token is needed here"), "{}", refusal.error);
    let (header, body) = crate::support::http::binary_body(&inputs, &serde_json::json!({"binary_data_output": false}));
    let url = format!("{}/v2/models/tokens/infer", chain.url());
    let ask = |bearer: &str| {
        Request::new(Method::POST, &url)
            .header("inference-header-content-length", header.to_string())
            .header("authorization", bearer)
            .body(body.clone())
            .send()
    };
    assert_eq!(ask("Bearer s3cret").status, StatusCode::UNAUTHORIZED, "the nodes' token is not the clients'");
    let answer = ask("Bearer for clients").json();
    let values: Vec<f32> = serde_json::from_value(answer["outputs"][0]["data"].clone()).expect("numbers");
    let got = defer_partition::Tensor::from_f32(vec![2, 64], &values).unwrap();
    assert_same(&[("y".to_owned(), got)], &staged.whole(&inputs), "with tokens on both sides");

    let npy = folder.join("x.npy");
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 64), }\n";
    let length = (header.len() as u16).to_le_bytes();
    std::fs::write(&npy, [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &inputs[0].1.data].concat()).unwrap();
    let infer = |token: &str| {
        let npy = npy.to_str().unwrap();
        run(&["infer", "--url", chain.url(), "--model", "tokens", "--input", npy, "--token-file", token])
    };
    let output = infer(&api);
    assert!(output.status.success(), "{}", stderr(&output));
    let output = infer(&wrong);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("token"), "{}", stderr(&output));
}

#[test]
fn a_port_that_others_reach_needs_a_token_or_insistence() {
    let folder = folder("insecure");
    let state = folder.join("state");
    let state = state.to_str().unwrap();
    let args = ["serve", "--listen", "0.0.0.0:0", "--relay", "0.0.0.0:0", "--state-dir", state];
    let output = run(&args);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("--token-file") && said.contains("--insecure"), "{said}");
    for more in [&["--insecure"][..], &["--token-file", "TOKEN"]] {
        let token = folder.join("token");
        std::fs::write(&token, "x").unwrap();
        let more: Vec<&str> =
            more.iter().map(|arg| if *arg == "TOKEN" { token.to_str().unwrap() } else { *arg }).collect();
        let mut node = Process::spawn(Path::new(BINARY), &[&args[..], &more].concat(), &[]).unwrap();
        node.wait_listening(&["rest", "relay"], Duration::from_secs(60)).unwrap();
        assert!(node.terminate().is_some_and(|status| status.success()));
    }
    let empty = folder.join("empty");
    std::fs::write(&empty, " \n").unwrap();
    let output = run(&[&args[..], &["--token-file", empty.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("is empty"), "{}", stderr(&output));
}
