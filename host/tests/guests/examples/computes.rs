//! Computes again and again on what it computed: the time is all the engine's.
#![no_std]

use hostile_guests::*;

misbehaves!(|inputs| {
    let mut tensors = inputs;
    loop {
        let name = tensors[0].0.clone();
        tensors = compute(tensors)?;
        tensors[0].0 = name;
    }
});
