//! `schemathesis`, which makes requests out of the port's own description, and holds the answers against it.

use super::client;
use super::types::{every_type, inputs};
use crate::support::chain::Chain;
use crate::support::folder;
use crate::support::networks::stage;
use std::process::Command;

/// What a description cannot say: that a request which it allows may still not fit the model.
const SETTINGS: &str = r#"
[[operations]]
include-path-regex = "/infer$"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400"]
"#;

#[test]
fn the_port_does_what_its_description_says_whatever_is_sent() {
    let staged = stage("described", &every_type(), 0, &["twice-BF16"]);
    let chain = Chain::start("described", &staged);
    let folder = folder("schemathesis");
    let settings = folder.join("schemathesis.toml");
    std::fs::write(&settings, SETTINGS).unwrap();
    let output = Command::new(client("schemathesis"))
        .current_dir(&folder)
        .arg("--config-file")
        .arg(&settings)
        .args(["run", &format!("{}/openapi.json", chain.url())])
        .args(["--checks", "all", "--max-examples", "40", "--seed", "1", "--workers", "1", "--no-color"])
        .output()
        .unwrap();
    let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("14 selected / 14 total") && said.contains("Fuzzing"), "{said}");
    // Some of it got as far as the nodes: the description holds a request that fits.
    let counters = chain.admin()["counters"].clone();
    assert!(counters["answered"].as_u64().unwrap() > 0, "{counters}: {said}");
    assert_eq!(counters["failed"], 0, "{counters}");
    let (given, want) = inputs(3);
    assert_eq!(chain.infer(&given).unwrap().len(), want.len());
}
