//! Asks for memory until there is none.
#![no_std]

extern crate alloc;

use alloc::vec;
use hostile_guests::*;

misbehaves!(|_inputs| loop {
    core::mem::forget(core::hint::black_box(vec![1u8; 1 << 16]));
});
