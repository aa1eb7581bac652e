//! `perf_analyzer`, the load generator of Triton's makers.

use super::cache;
use crate::support::chain::Chain;
use crate::support::folder;
use crate::support::networks::cut;
use std::path::PathBuf;
use std::process::Command;

/// Requests that it sends.
const REQUESTS: u64 = 200;

/// The folder that it is in, if set-up could install it; where CI runs, it must have been.
fn installed() -> Option<PathBuf> {
    let home = cache().join("perf_analyzer");
    if home.join("installed").exists() {
        return Some(home);
    }
    assert!(std::env::var_os("CI").is_none(), "no perf_analyzer in {}; run `cargo xtask setup`", home.display());
    println!("SKIPPED: no perf_analyzer in {}", home.display());
    None
}

#[test]
fn perf_analyzer_measures_a_chain_and_reads_its_statistics() {
    let Some(home) = installed() else { return };
    let staged = match cut("ocr-cls", &folder("perf-stages"), 3, &[]) {
        Ok(staged) => staged,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "the network cannot be had: {error}");
            println!("SKIPPED: the network cannot be had: {error}");
            return;
        }
    };
    let chain = Chain::start("perf", &staged);
    let report = folder("perf-report").join("report.csv");
    let url = chain.url().trim_start_matches("http://");
    // A number of requests, not a window of time in which results must be steady: other tests run beside it.
    let output = Command::new(home.join("bin/perf_analyzer"))
        .env("LD_LIBRARY_PATH", home.join("nvidia/cuda_runtime/lib"))
        .args(["-m", staged.name(), "-u", url, "-i", "http", "--shape", "x:1,3,48,192"])
        .args(["--concurrency-range", "4", "--request-count", &REQUESTS.to_string(), "-f"])
        .arg(&report)
        .output()
        .unwrap();
    let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
    assert!(output.status.success(), "{said}");
    let report = std::fs::read_to_string(&report).unwrap_or_else(|error| panic!("{error}: {said}"));
    let mut lines = report.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let field = |name: &str| -> f64 {
        let at = names.iter().position(|other| *other == name).unwrap_or_else(|| panic!("no {name}: {report}"));
        values[at].parse().unwrap_or_else(|_| panic!("{name} is no number: {report}"))
    };
    assert_eq!(field("Concurrency"), 4.0);
    assert!(field("Inferences/Second") > 0.0, "{report}");
    // These it has from `/v2/models/ocr-cls/stats`.
    let (inside, all) = (field("Server Compute Infer"), field("p99 latency"));
    assert!(inside > 0.0 && inside <= all, "{report}");
    assert!(said.contains(&format!("Inference count: {REQUESTS}")), "{said}");
    assert!(chain.admin()["counters"]["answered"].as_u64().unwrap() >= REQUESTS);
}
