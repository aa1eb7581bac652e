//! Never returns.
#![no_std]

use hostile_guests::*;

misbehaves!(|_inputs| loop {
    core::hint::black_box(());
});
