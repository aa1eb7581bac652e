//! The client against the server, over a real socket.

use super::{InferArgs, UsageError, measure, npy, run};
use crate::oip::Options;
use crate::oip::tests::backend::Echo;
use crate::oip::tests::serve;
use clap::Parser;
use defer_partition::{DType, Tensor};
use serde_json::{Value, json};
use std::path::Path;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    infer: InferArgs,
}

fn args(url: &str, line: &[&str]) -> InferArgs {
    Command::try_parse_from(["infer", "--url", url].iter().chain(line)).unwrap().infer
}

async fn report(url: &str, line: &[&str]) -> Value {
    let report = measure(&args(url, line)).await.unwrap();
    serde_json::from_str(&report.json().unwrap()).unwrap()
}

async fn start() -> String {
    serve(Echo::default(), Options::default()).await
}

fn write(dir: &Path, name: &str, tensor: &Tensor) -> String {
    let path = dir.join(name);
    npy::write(&path, tensor).unwrap();
    path.to_str().unwrap().to_owned()
}

fn floats(values: &[f32]) -> Tensor {
    Tensor::from_f32(vec![1, values.len()], values).unwrap()
}

#[tokio::test]
async fn files_become_requests_and_answers_become_files() {
    let url = start().await;
    let dir = tempfile::tempdir().unwrap();
    let one = write(dir.path(), "one.npy", &floats(&[1.0, 2.0, 3.0]));
    let ten = write(dir.path(), "ten.npy", &floats(&[10.0, 20.0, 30.0]));
    let out = dir.path().join("new/out");
    let (a, b) = (format!("a={one}"), format!("b={ten}"));
    // In order; by name, the other way round; one named and one left over.
    let inputs = ["--input", &ten, "--input", &one, "--input", &b, "--input", &a, "--input", &b, "--input", &one];
    let mut line = vec!["--model", "two parts é", "--output", out.to_str().unwrap()];
    line.extend(inputs);
    let report = report(&url, &line).await;
    assert_eq!((&report["requests"], &report["failed"]), (&json!(3), &json!(0)), "{report}");
    let sums: Vec<_> = report["answers"].as_array().unwrap().iter().map(|a| &a["outputs"]).collect();
    for (outputs, sign) in sums.iter().zip([1.0, -1.0, -1.0]) {
        let of = |name: &str| outputs.as_array().unwrap().iter().find(|o| o["name"] == name).unwrap();
        assert_eq!(of("sum")["data"], json!([11.0, 22.0, 33.0]));
        assert_eq!(of("difference")["data"], json!([9.0 * sign, 18.0 * sign, 27.0 * sign]));
    }
    for (file, values) in [("ten.sum.npy", [11.0, 22.0, 33.0]), ("ten.difference-2.npy", [-9.0, -18.0, -27.0])] {
        assert_eq!(npy::read(&out.join(file)).unwrap(), floats(&values), "{file}");
    }
}

#[tokio::test]
async fn every_element_type_goes_there_and_back() {
    let url = start().await;
    let dir = tempfile::tempdir().unwrap();
    for dtype in DType::ALL {
        let data = (0..6 * dtype.size()).map(|i| (i % 2) as u8).collect();
        let tensor = Tensor::new(dtype, vec![2, 3], data).unwrap();
        let file = write(dir.path(), "t.npy", &tensor);
        let model = format!("echo-{dtype}");
        run(args(&url, &["--model", &model, "--input", &file, "--output", dir.path().to_str().unwrap()]))
            .await
            .unwrap();
        assert_eq!(npy::read(&dir.path().join("t.y.npy")).unwrap().data, tensor.data, "{dtype}");
    }
}

#[tokio::test]
async fn a_load_is_counted_and_timed() {
    let url = start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "x.npy", &floats(&[1.0]));
    let line = ["--model", "echo-FP32", "--input", &file, "--input", &file, "--repeat", "20", "--concurrency", "4"];
    let report = report(&url, &line).await;
    assert_eq!((&report["requests"], &report["succeeded"], &report["failures"]), (&json!(40), &json!(40), &json!({})));
    let latency = ["p50", "p90", "p99", "max"].map(|p| report["latency_ms"][p].as_f64().unwrap());
    assert!(latency[0] > 0.0 && latency.is_sorted(), "{latency:?}");
}

fn vector(dir: &Path) -> String {
    write(dir, "v.npy", &Tensor::from_f32(vec![2], &[1.0, 2.0]).unwrap())
}

#[tokio::test]
async fn a_busy_server_is_asked_again_and_a_broken_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = vector(dir.path());
    let url = serve(Echo { refusals: 1.into(), ..Echo::default() }, Options::default()).await;
    let answered = report(&url, &["--model", "busy", "--input", &file]).await;
    assert_eq!((&answered["succeeded"], &answered["retries"]), (&json!(1), &json!(1)));
    let gone = report(&url, &["--model", "gone", "--input", &file, "--retries", "1"]).await;
    assert_eq!((&gone["failed"], &gone["retries"]), (&json!(1), &json!(1)));
    let failure = json!({"HTTP 503": {"count": 1, "example": "unavailable: no chain (HTTP 503)"}});
    assert_eq!(gone["failures"], failure);
    let line = ["--model", "broken", "--input", &file, "--repeat", "3"];
    let broken = report(&url, &line).await;
    assert_eq!((&broken["retries"], &broken["latency_ms"]), (&json!(0), &Value::Null));
    assert_eq!(broken["answers"][0]["error"], "stage 2 trapped (HTTP 500)");
    let error = run(args(&url, &line)).await.unwrap_err();
    assert_eq!(error.to_string(), "3 of 3 requests failed: 3 × HTTP 500");
    assert!(!error.is::<UsageError>());
}

#[tokio::test]
async fn what_cannot_be_sent_is_told_before_anything_is() {
    let url = start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = vector(dir.path());
    let row = write(dir.path(), "row.npy", &floats(&[1.0, 2.0, 3.0]));
    let text = dir.path().join("text.txt");
    std::fs::write(&text, "hello").unwrap();
    let text = text.to_str().unwrap();
    let cases = [
        (vec!["--model", "echo-FP32"], "give --input for \"x\" FP32[-1, -1]: \"echo-FP32\" has no sample inputs"),
        (
            vec!["--model", "echo-FP32", "--input", &file],
            "input \"x\" of model \"echo-FP32\" expects FP32[-1, -1], got FP32[2]",
        ),
        (vec!["--model", "echo-FP32", "--input", "absent.npy"], "cannot read --input absent.npy: "),
        (vec!["--model", "echo-FP32", "--input", text], "it is no .npy file, and pictures are understood for ocr-rec"),
        (vec!["--model", "two parts é", "--input", &row], "input \"b\" FP32[-1, 3] of \"two parts é\" is missing"),
        (vec!["--model", "x", "--token-file", "absent"], "cannot read --token-file absent: "),
    ];
    for (line, message) in cases {
        let error = run(args(&url, &line)).await.unwrap_err();
        assert!(error.downcast_ref::<UsageError>().is_some(), "{line:?}: {error:#}");
        assert!(format!("{error:#}").contains(message), "{line:?}: {error:#}");
    }
    let tls = run(args("https://x", &["--model", "m"])).await.unwrap_err();
    assert!(tls.is::<UsageError>() && tls.to_string().contains("has the scheme https, only http is spoken"), "{tls}");
    let unknown = format!("{:#}", run(args(&url, &["--model", "a/b"])).await.unwrap_err());
    assert!(unknown.contains("unknown model \"a/b\"; this server has \"echo-FP32\","), "{unknown}");
    let nobody = run(args("http://127.0.0.1:1", &["--model", "m"])).await.unwrap_err();
    assert!(format!("{nobody:#}").starts_with("cannot ask http://127.0.0.1:1 about \"m\": "), "{nobody:#}");
}

#[tokio::test]
async fn a_token_is_read_from_its_file() {
    let url = serve(Echo::default(), Options { api_token: Some("s3cret".into()), ..Options::default() }).await;
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "x.npy", &floats(&[1.0]));
    let token = dir.path().join("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    let line = ["--model", "echo-FP32", "--input", &file, "--token-file", token.to_str().unwrap()];
    run(args(&url, &line)).await.unwrap();
    let refused = format!("{:#}", run(args(&url, &line[..4])).await.unwrap_err());
    assert!(refused.contains("a token is needed here"), "{refused}");
}
