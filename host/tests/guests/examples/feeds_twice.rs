//! Hands the engine one input under two names, by one handle.
#![no_std]

extern crate alloc;

use alloc::{string::String, vec, vec::Vec};
use hostile_guests::*;

misbehaves!(|inputs| {
    let (name, tensor) = &inputs[0];
    // SAFETY: there is none: the handle has one owner, and gets a second one here.
    let again = unsafe { Tensor::from_handle(tensor.handle()) };
    let twice = vec![(name.clone(), again), (String::from("again"), take(inputs))];
    compute(twice)
});

fn take(mut inputs: Vec<NamedTensor>) -> Tensor {
    inputs.remove(0).1
}
