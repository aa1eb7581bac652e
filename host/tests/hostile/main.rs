//! What does not belong is refused with its reason, and the node goes on serving.
#![allow(clippy::unwrap_used)] // tests, and functions that only tests call

mod artifacts;
mod bodies;
mod crowds;
mod graphs;
mod guests;
mod limits;
mod misdeeds;
mod relay;
mod requests;
mod stall;
#[path = "../support/mod.rs"]
mod support;
mod uploads;
