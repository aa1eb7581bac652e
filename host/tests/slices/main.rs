//! Slices in a row compute what the whole network computes, on the real engine.
#![allow(clippy::unwrap_used)] // helpers of tests

mod catalogue;
mod models;
mod promises;
mod random;
mod support;
