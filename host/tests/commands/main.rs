//! The commands as a person meets them: what they print, how they end, and what a node or dispatcher outlives.
#![allow(clippy::unwrap_used)] // tests, and functions that only tests call

mod accuracy;
mod benched;
mod clock;
mod discovered;
mod documents;
mod life;
mod limits;
mod planned;
mod probed;
mod reports;
mod rivals;
mod state;
mod store;
mod strangers;
#[path = "../support/mod.rs"]
mod support;
mod tokens;
mod words;
