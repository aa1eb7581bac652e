//! Returns one tensor twice, by one handle.
#![no_std]

use hostile_guests::*;

misbehaves!(|inputs| {
    let mut outputs = compute(inputs)?;
    let (name, tensor) = &outputs[0];
    // SAFETY: there is none: the handle has one owner, and gets a second one here.
    let again = (name.clone(), unsafe { Tensor::from_handle(tensor.handle()) });
    outputs.push(again);
    Ok(outputs)
});
