//! Never returns from `init`.
#![no_std]

extern crate alloc;

use alloc::{string::String, vec::Vec};
use hostile_guests::*;

struct Endless;

impl Guest for Endless {
    fn init() -> Result<(), String> {
        loop {
            core::hint::black_box(());
        }
    }

    fn run(inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, String> {
        compute(inputs)
    }
}

export!(Endless with_types_in hostile_guests);
