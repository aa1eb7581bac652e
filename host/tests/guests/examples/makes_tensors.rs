//! Makes tensors as large as one call can carry, and keeps them all.
#![no_std]

extern crate alloc;

use alloc::vec;
use hostile_guests::*;

misbehaves!(|_inputs| {
    let data = vec![1u8; 1_000_000];
    loop {
        core::mem::forget(Tensor::new(&[1_000_000], TensorType::U8, &data));
    }
});
