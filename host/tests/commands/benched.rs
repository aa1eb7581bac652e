//! `bench portable`: what it reports, not how much of it.

use crate::support::BINARY;
use serde_json::Value;
use std::process::Command;

#[test]
fn the_portable_benchmark_reports_machine_code_interpreter_and_program() {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_defer-lab"));
    lab.args(["bench", "portable", "--json", "--calls", "20", "--starts", "1", "--program", BINARY]);
    let output = lab.output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!(report["bench"], "portable");
    let rows = report["rows"].as_array().unwrap();
    let named: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(named, ["cranelift", "pulley", BINARY]);
    let size = |row: &Value| row["stripped_mb"].as_f64().unwrap();
    for row in &rows[..2] {
        for field in ["overhead_us", "overhead_p99_us", "compile_ms", "ready_ms", "idle_resident_mb"] {
            assert!(row[field].as_f64().is_some_and(|value| value > 0.0), "{field}: {row}");
        }
        assert!(row["idle_anonymous_mb"].as_f64() < row["idle_resident_mb"].as_f64(), "{row}");
        assert_eq!((size(row), &row["arch"]), (size(&rows[2]), &rows[2]["arch"]));
    }
    assert!(rows[2]["overhead_us"].is_null());
}
