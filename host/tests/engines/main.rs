//! What nodes promise about engines: time limits, and how weights are held.
#![allow(clippy::unwrap_used)] // tests, and functions that only tests call

mod crafted;
mod library;
mod networks;
mod outputs;
mod prepacking;
#[path = "../support/mod.rs"]
mod support;
mod time;
mod traps;
