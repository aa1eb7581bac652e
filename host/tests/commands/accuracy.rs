//! `defer-lab accuracy` on the smallest trained network.

use crate::support::networks::built;
use crate::support::{folder, stderr};
use defer_host::build::BuildOptions;
use serde_json::Value;
use std::process::{Command, Output};

const MODEL: &str = "ocr-cls";

fn accuracy(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_defer-lab"));
    command.arg("accuracy").args(args).arg("--json").output().expect("the program starts")
}

/// Whether the network can be had here; where CI runs, it must be.
fn can_be_had() -> bool {
    let entry = defer_models::find(MODEL).expect("it is in the catalogue");
    match entry.fetch(&mut |line| println!("{line}")) {
        Ok(_) => true,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "{MODEL} cannot be had: {error}");
            println!("SKIPPED: {MODEL} cannot be had: {error}");
            false
        }
    }
}

#[test]
fn lossy_codecs_keep_to_their_budget_on_print_that_they_were_not_set_by() {
    if !can_be_had() {
        return;
    }
    let output = accuracy(&["--model", MODEL, "--nodes", "3", "--allow-lossy", "max-relative-error=0.02"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    let rows = report["rows"].as_array().unwrap();
    let modes: Vec<_> = rows.iter().map(|row| row["mode"].as_str().unwrap()).collect();
    assert_eq!(modes, ["lossless", "most-lossy", "auto"]);
    let figure = |row: usize, name: &str| rows[row][name].as_f64().unwrap();
    for (row, mode) in modes.iter().enumerate() {
        assert_eq!(rows[row]["holds"], true, "{mode}: {report}");
        // Twelve lines of print, each upright and turned.
        assert_eq!((figure(row, "inputs"), figure(row, "right_of")), (24.0, 24.0), "{mode}");
        assert!(figure(row, "right") >= 20.0, "{mode}: {report}");
    }
    assert!(figure(0, "max_relative_error") < 1e-4, "{report}");
    assert!((1e-4..=0.02).contains(&figure(1, "max_relative_error")), "{report}");
    assert!(figure(1, "bytes_per_inference") < 0.5 * figure(0, "bytes_per_inference"), "{report}");
}

#[test]
fn a_budget_that_does_not_hold_is_a_failure() {
    if !can_be_had() {
        return;
    }
    let out = folder("broken-budget").join("stages");
    let staged = built(BuildOptions {
        model: MODEL.to_owned(),
        stages: Some(2),
        out: Some(out.clone()),
        allow_lossy: Some("max-relative-error=0.05".parse().unwrap()),
        ..BuildOptions::default()
    });
    let mut pipeline = staged.unwrap().pipeline;
    let check = || accuracy(&["--pipeline", out.to_str().unwrap()]);
    let held = check();
    assert!(held.status.success(), "{}", stderr(&held));
    // As if it had promised more.
    pipeline.accuracy.as_mut().unwrap().budget = "max-relative-error=0.00002".parse().unwrap();
    pipeline.write(&out).unwrap();
    let broken = check();
    assert_eq!(broken.status.code(), Some(1), "{}", stderr(&broken));
    assert!(stderr(&broken).contains("the budget does not hold for ocr-cls (most-lossy)"), "{}", stderr(&broken));
    // And where there is no promise, there is nothing to check.
    pipeline.accuracy = None;
    pipeline.write(&out).unwrap();
    let without = check();
    assert_eq!(without.status.code(), Some(2), "{}", stderr(&without));
    assert!(stderr(&without).contains("--allow-lossy"), "{}", stderr(&without));
}
