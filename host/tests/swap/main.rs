//! Generations that change while traffic flows: nothing is lost, nothing is wrong, nothing is mixed.
#![allow(clippy::unwrap_used)] // tests, and functions that only tests call

mod apart;
mod bad;
mod deploys;
mod engines;
mod lost;
mod priority;
mod repeats;
mod replicas;
mod stages;
#[path = "../support/mod.rs"]
mod support;
mod takeover;
mod traffic;
