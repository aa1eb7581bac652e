//! Returns an output more than the network has.
#![no_std]

extern crate alloc;

use alloc::string::String;
use hostile_guests::*;

misbehaves!(|inputs| {
    let mut outputs = compute(inputs)?;
    outputs.push((String::from("more"), Tensor::new(&[1], TensorType::U8, &[0])));
    Ok(outputs)
});
