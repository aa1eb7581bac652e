//! Folding: doing once, at build time, what would otherwise be done for every request.

mod affine;
mod constants;
mod conv;

pub use constants::{Results, fold_constants};
pub use conv::{Folded, fold};
