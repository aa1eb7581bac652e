//! What does not belong is refused with its reason, and the node goes on serving.
#![allow(clippy::unwrap_used)] // tests, and functions that only tests call

mod artifacts;
mod guests;
mod limits;
mod relay;
mod requests;
#[path = "../support/mod.rs"]
mod support;
