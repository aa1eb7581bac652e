//! Slices in a row compute what the whole network computes, on the real engine.
#![allow(clippy::unwrap_used)] // helpers of tests

mod catalogue;
mod divisions;
mod engines;
mod models;
mod operators;
mod promises;
mod random;
mod split;
mod support;
