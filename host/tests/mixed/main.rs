//! Nodes of two architectures in one chain: this machine's, and aarch64 in emulation, as its oldest processor; and this
//! machine's oldest. The same stage files run on both.
//!
//! What is equal to the bit, and what only within a bound: `frames` and `chain`.
#![allow(clippy::unwrap_used)] // tests, and functions that only tests call

mod chain;
mod frames;
mod oldest;
#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code)] // a part of it is used here
#[path = "../swap/traffic.rs"]
mod traffic;
