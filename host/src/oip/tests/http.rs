//! Paths, statuses, headers, limits.

use super::backend::Echo;
use super::{get, post, serve, start};
use crate::oip::Options;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use std::io::Write as _;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn ask(shape: &[usize]) -> String {
    let data: Vec<usize> = (0..shape.iter().product()).collect();
    json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": data}]}).to_string()
}

#[tokio::test]
async fn every_path_answers_in_json() {
    let url = start().await;
    let cases = [
        (
            "/v2",
            200,
            json!({"name": "defer-host", "version": env!("CARGO_PKG_VERSION"),
                "extensions": ["binary_tensor_data", "model_configuration", "statistics"]}),
        ),
        ("/v2/health/live", 200, json!({"live": true})),
        ("/v2/health/ready", 200, json!({"ready": true})),
        ("/v2/models/echo-BOOL/ready", 200, json!({"name": "echo-BOOL", "ready": true})),
        ("/v2/models/echo-BOOL/versions/2/ready", 200, json!({"name": "echo-BOOL", "ready": true})),
        ("/v2/models/warming%20up/ready", 503, json!({"error": "model \"warming up\" is not ready"})),
        (
            "/v2/models/two%20parts%20%C3%A9/versions/1",
            200,
            json!({"name": "two parts é", "versions": ["1", "2"], "platform": "test",
                "inputs": [{"name": "a", "datatype": "FP32", "shape": [-1, 3]}, {"name": "b", "datatype": "FP32", "shape": [-1, 3]}],
                "outputs": [{"name": "sum", "datatype": "FP32", "shape": [-1, 3]}, {"name": "difference", "datatype": "FP32", "shape": [-1, 3]}]}),
        ),
        (
            "/v2/models/busy/versions/3",
            404,
            json!({"error": "unknown version \"3\" of model \"busy\"; it has \"1\", \"2\""}),
        ),
        ("/v2/models/busy/infer", 405, json!({"error": "GET is not served at /v2/models/busy/infer"})),
        ("/v3", 404, json!({"error": "nothing is served at /v3"})),
    ];
    for (path, status, body) in cases {
        assert_eq!(get(format!("{url}{path}")).await, (status, body), "{path}");
    }
    let (status, body) = get(format!("{url}/v2/models/absent")).await;
    assert_eq!(status, 404);
    let message = body["error"].as_str().unwrap();
    assert!(message.starts_with("unknown model \"absent\"; this server has \"echo-FP32\", "), "{message}");
    let (_, body) = get(format!("{url}/v2/models/a%2Fb/ready")).await;
    assert!(body["error"].as_str().unwrap().starts_with("unknown model \"a/b\";"), "{body}");
    assert_eq!(get(format!("{url}/v2/models/%ff")).await.0, 400);
    assert_eq!(post(format!("{url}/v2/models/absent/infer"), "{}").await.0, 404);
}

#[tokio::test]
async fn failures_of_the_backend_have_their_status() {
    let url = start().await;
    let timed =
        r#"{"parameters": {"timeout": 2000}, "inputs": [{"name": "x", "datatype": "FP32", "shape": [0], "data": []}]}"#;
    let cases = [
        ("slow", timed.to_owned(), 504, "timed out: no answer within 2ms"),
        ("broken", ask(&[2]), 500, "stage 2 trapped"),
        ("gone", ask(&[2]), 503, "unavailable: no chain"),
        ("full", ask(&[2]), 503, "overloaded: queue full"),
        ("full", "x".repeat(4 << 20), 503, "overloaded: queue full"),
    ];
    for (model, body, status, message) in cases {
        let answer = post(format!("{url}/v2/models/{model}/infer"), body).await;
        assert_eq!(answer, (status, json!({"error": message})), "{model}");
    }
    let full = reqwest::Client::new().post(format!("{url}/v2/models/full/infer")).body("{}").send().await.unwrap();
    assert_eq!(full.headers()["retry-after"], "2", "1.5 s, rounded up");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_in_json() {
    let url = serve(Echo::default(), Options { max_body_bytes: 1000, ..Options::default() }).await;
    let path = format!("{url}/v2/models/echo-FP32/infer");
    let too_large = (413, json!({"error": "the body is larger than 1000 bytes"}));
    assert_eq!(post(path.clone(), vec![b' '; 1001]).await, too_large);
    assert_eq!(post(path.clone(), vec![b' '; 8 << 20]).await, too_large);
    let chunks = futures_util::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>(vec![b' '; 20])));
    assert_eq!(post(path.clone(), reqwest::Body::wrap_stream(chunks)).await, too_large);
    let mut exact = ask(&[2, 2]);
    exact.extend(std::iter::repeat_n(' ', 1000 - exact.len()));
    assert_eq!(post(path, exact).await.0, 200);
}

#[tokio::test]
async fn a_body_that_stops_coming_is_given_up() {
    let options = Options { idle_timeout: Duration::from_millis(50), ..Options::default() };
    let url = serve(Echo::default(), options).await;
    let mut socket = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    let head = b"POST /v2/models/echo-FP32/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{";
    socket.write_all(head).await.unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

const FULL: &str = "overloaded: pending requests take the 1 MiB that they may (dispatch --request-memory-mb)";

#[tokio::test]
async fn a_request_counts_for_what_its_tensors_take_until_it_is_answered() {
    let limit = 1 << 20;
    let options = Options { max_body_bytes: limit, request_memory: limit, ..Options::default() };
    let url = serve(Echo::default(), options).await;
    let client = reqwest::Client::new();
    // Of 600 kB each, sent as raw bytes, as 300 kB of JSON, and compressed to next to nothing.
    let waits =
        r#"{"parameters": {"timeout": 1000000}, "inputs": [{"name": "x", "datatype": "FP32", "shape": [150000], "#;
    let raw = format!("{waits} \"parameters\": {{\"binary_data_size\": 600000}}}}]}}");
    let json = format!("{waits} \"data\": [{}]}}]}}", vec!["1"; 150_000].join(","));
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(json.as_bytes()).unwrap();
    let bodies = [
        (Some(raw.len()), None, [raw.into_bytes(), vec![0; 600_000]].concat()),
        (None, None, json.into_bytes()),
        (None, Some("gzip"), gzip.finish().unwrap()),
    ];
    let ask = |(length, coding, body): &(Option<usize>, Option<&str>, Vec<u8>)| {
        let mut request = client.post(format!("{url}/v2/models/slow/infer")).body(body.clone());
        if let Some(length) = length {
            request = request.header("inference-header-content-length", *length);
        }
        if let Some(coding) = coding {
            request = request.header("content-encoding", *coding);
        }
        async move {
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
        }
    };
    for one in &bodies {
        let first = tokio::spawn(ask(one));
        tokio::time::sleep(Duration::from_millis(400)).await;
        for other in &bodies {
            assert_eq!(ask(other).await, (503, json!({"error": FULL})));
        }
        assert_eq!(first.await.unwrap().0, 504);
    }
    let huge = format!(
        r#"{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": [400000], "data": [{}]}}]}}"#,
        vec!["1"; 400_000].join(",")
    );
    let (status, answer) = post(format!("{url}/v2/models/slow/infer"), huge).await;
    assert_eq!(
        (status, answer["error"].as_str().unwrap().contains("1600000 bytes of memory")),
        (413, true),
        "{answer}"
    );
}

#[tokio::test]
async fn bodies_of_all_requests_share_a_bound() {
    let limit = 1 << 20;
    let options = Options { max_body_bytes: limit, request_memory: limit, ..Options::default() };
    let url = serve(Echo::default(), options).await;
    let head = format!("POST /v2/models/echo-FP32/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {limit}\r\n\r\n");
    let path = format!("{url}/v2/models/echo-FP32/infer");
    let refused = (503, json!({"error": FULL}));
    let hold = async {
        loop {
            let mut socket = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
            socket.write_all(head.as_bytes()).await.unwrap();
            // What is declared costs nothing, what is sent does.
            assert_eq!(post(path.clone(), ask(&[100, 100])).await.0, 200);
            socket.write_all(&vec![b' '; limit - 1]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            // Had the server not read it all by now, the large body would be the one refused.
            if post(path.clone(), ask(&[100, 100])).await == refused {
                return socket;
            }
        }
    };
    let socket = tokio::time::timeout(Duration::from_secs(10), hold).await.unwrap();
    drop(socket);
    let served = async {
        while post(path.clone(), ask(&[100, 100])).await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), served).await.unwrap();
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let url = start().await;
    let client = reqwest::Client::new();
    for (method, path, allowed) in [
        ("GET", "/v2/models/busy/infer", "POST"),
        ("DELETE", "/v2/models/busy/versions/1/infer", "POST"),
        ("POST", "/v2/models/busy/stats", "GET,HEAD"),
        ("TRACE", "/v2/health/live", "GET,HEAD"),
        ("PUT", "/openapi.json", "GET,HEAD"),
    ] {
        let answer = client.request(method.parse().unwrap(), format!("{url}{path}")).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.headers()["allow"]), (405, &allowed.parse().unwrap()), "{path}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body, json!({"error": format!("{method} is not served at {path}")}));
    }
}

#[tokio::test]
async fn a_token_is_asked_for_everywhere_but_at_health() {
    let options = Options { api_token: Some("s3cret".into()), ..Options::default() };
    let url = serve(Echo::default(), options).await;
    let client = reqwest::Client::new();
    let cases = [
        ("/v2/health/live", None, 200),
        ("/v2/health/ready", None, 200),
        ("/openapi.json", None, 200),
        ("/v2/models/stats", None, 401),
        ("/v2", None, 401),
        ("/v2/models/busy", Some("Bearer s3cre"), 401),
        ("/v2/models/busy", Some("Bearer s3crets3cret"), 401),
        ("/v2/models/busy", Some("Bearer "), 401),
        ("/v2/models/busy", Some("Basic s3cret"), 401),
        ("/v2/models/busy", Some("Bearer s3cret"), 200),
        ("/v2/models/busy", Some("bearer s3cret"), 200),
        ("/v2/models/busy/infer", Some("Bearer x"), 401),
        ("/v2/models/busy/infer", Some("Bearer s3cret"), 405),
    ];
    for (path, token, status) in cases {
        let mut request = client.get(format!("{url}{path}"));
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{path} {token:?}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["error"].is_string(), status >= 400, "{path} {token:?}");
    }
}
