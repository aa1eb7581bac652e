//! Slices in a row compute what the whole network computes, on the real engine.

mod catalogue;
mod models;
mod promises;
mod random;
mod support;
