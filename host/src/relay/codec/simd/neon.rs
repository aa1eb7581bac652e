//! The loops in NEON, those that compilers do not find by themselves.
#![allow(unsafe_code)] // vector loads and stores by pointer

use std::arch::aarch64::*;

/// Whether this processor has all that this file uses.
pub fn is_there() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
}
