//! How far two answers to one request are apart.

pub use defer_host::accuracy::difference;

/// Results of one network differ by less when it is cut, or computed by another engine: engines then add up in another
/// order, which makes some 1e-6.
pub const ROUNDING: f64 = 1e-4;
