//! Clients that know nothing of stages, unmodified: `tritonclient`, `perf_analyzer`, `schemathesis`, and plain HTTP.
#![allow(clippy::unwrap_used)] // tests, and functions that only tests call

mod described;
mod load;
#[path = "../support/mod.rs"]
mod support;
mod triton;
mod types;

use std::path::PathBuf;

/// Where set-up puts what it downloads.
fn cache() -> PathBuf {
    defer_models::Cache::from_env().expect("a home directory").root().to_owned()
}

/// A program of the test clients' own environment.
fn client(name: &str) -> PathBuf {
    let program = cache().join("clients/bin").join(name);
    assert!(program.exists(), "no {}; run `cargo xtask setup`", program.display());
    program
}
