//! Makes tensors and drops them, without end.
#![no_std]

extern crate alloc;

use alloc::vec;
use hostile_guests::*;

misbehaves!(|_inputs| {
    let data = vec![1u8; 1_000_000];
    loop {
        drop(Tensor::new(&[1_000_000], TensorType::U8, &data));
    }
});
