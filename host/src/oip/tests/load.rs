//! What load generators look up, and that large requests do not hold up small ones.

use super::{get, post, start};
use crate::oip::stats::{Recorder, Spent, Steps};
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test]
async fn the_configuration_says_what_the_metadata_says() {
    let url = start().await;
    for path in ["/v2/models/echo-BF16/config", "/v2/models/echo-BF16/versions/1/config"] {
        let (status, config) = get(format!("{url}{path}")).await;
        assert_eq!((status, &config["name"], &config["max_batch_size"]), (200, &json!("echo-BF16"), &json!(0)));
        assert_eq!(config["input"].as_array().unwrap().len(), 1);
        let input = &config["input"][0];
        assert_eq!(
            (&input["name"], &input["data_type"], &input["dims"]),
            (&json!("x"), &json!("TYPE_BF16"), &json!([-1, -1]))
        );
        assert_eq!(config["output"][0]["name"], "y");
    }
    assert_eq!(get(format!("{url}/v2/models/absent/config")).await.0, 404);
    assert_eq!(get(format!("{url}/v2/models/busy/versions/9/stats")).await.0, 404);
}

#[tokio::test]
async fn statistics_count_what_ran_and_what_failed() {
    let url = start().await;
    let body = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}).to_string();
    let scalar = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [], "data": [1]}]}).to_string();
    for _ in 0..3 {
        assert_eq!(post(format!("{url}/v2/models/scalar/infer"), scalar.clone()).await.0, 200);
    }
    assert_eq!(post(format!("{url}/v2/models/broken/infer"), body).await.0, 500);
    let entries = |body: Value| body["model_stats"].as_array().unwrap().clone();
    let of_model = entries(get(format!("{url}/v2/models/scalar/stats")).await.1);
    assert_eq!(of_model.iter().map(|s| s["version"].as_str().unwrap()).collect::<Vec<_>>(), ["1", "2"]);
    let of_version = entries(get(format!("{url}/v2/models/scalar/versions/2/stats")).await.1);
    assert_eq!(of_version, of_model[1..]);
    let stats = &of_version[0];
    assert_eq!((&stats["inference_count"], &stats["execution_count"]), (&json!(3), &json!(3)));
    assert!(stats["last_inference"].as_u64().unwrap() > 1_700_000_000_000, "{stats}");
    let inference = &stats["inference_stats"];
    for (step, count) in [
        ("success", 3),
        ("fail", 0),
        ("queue", 3),
        ("compute_input", 3),
        ("compute_infer", 3),
        ("compute_output", 3),
        ("cache_hit", 0),
        ("cache_miss", 0),
    ] {
        assert_eq!(inference[step]["count"], count, "{step}");
    }
    assert!(inference["success"]["ns"].as_u64().unwrap() >= inference["compute_infer"]["ns"].as_u64().unwrap());
    assert_eq!(
        (&stats["batch_stats"][0]["batch_size"], &stats["batch_stats"][0]["compute_infer"]),
        (&json!(1), &inference["compute_infer"])
    );
    let all = entries(get(format!("{url}/v2/models/stats")).await.1);
    assert_eq!(all.iter().filter(|s| **s == *stats).count(), 1);
    let broken = all.iter().find(|s| s["name"] == "broken" && s["version"] == "2").unwrap();
    assert_eq!((&broken["inference_stats"]["fail"]["count"], &broken["inference_count"]), (&json!(1), &json!(0)));
    assert_eq!(broken["batch_stats"], json!([]));
}

#[test]
fn steps_add_up_in_nanoseconds() {
    let recorder = Recorder::default();
    let ms = Duration::from_millis;
    let steps = Steps { total: ms(10), queue: ms(1), input: ms(2), infer: ms(3), output: ms(4) };
    recorder.success(steps);
    recorder.success(steps);
    recorder.failure(ms(7));
    let stats = recorder.stats("m", "1").inference_stats;
    let twice = |ms: u64| Spent { count: 2, ns: ms * 2_000_000 };
    assert_eq!((stats.success, stats.queue, stats.compute_input), (twice(10), twice(1), twice(2)));
    assert_eq!((stats.compute_infer, stats.compute_output), (twice(3), twice(4)));
    assert_eq!(stats.fail, Spent { count: 1, ns: 7_000_000 });
}

/// On one thread: a request read on it would leave no time for the other.
#[tokio::test]
async fn a_small_request_passes_a_large_one() {
    let url = start().await;
    let numbers = vec!["0.123456789"; 1 << 20].join(",");
    let large = format!(
        r#"{{"inputs": [{{"name": "x", "datatype": "FP64", "shape": [1, {}], "data": [{numbers}]}}]}}"#,
        1 << 20
    );
    let path = format!("{url}/v2/models/echo-FP64/infer");
    let large = tokio::spawn(async move { post(path, large).await.0 });
    let mut longest = Duration::ZERO;
    let mut during = 0;
    while !large.is_finished() {
        let started = std::time::Instant::now();
        assert_eq!(get(format!("{url}/v2/health/live")).await.0, 200);
        longest = longest.max(started.elapsed());
        during += 1;
    }
    assert_eq!(large.await.unwrap(), 200);
    assert!(during > 5, "only {during} small requests passed, the longest took {longest:?}");
}
