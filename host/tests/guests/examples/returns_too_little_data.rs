//! Returns a tensor of fewer bytes than its shape needs.
#![no_std]

use hostile_guests::*;

misbehaves!(|inputs| {
    let mut outputs = compute(inputs)?;
    let tensor = &outputs[0].1;
    outputs[0].1 = Tensor::new(&tensor.dimensions(), tensor.ty(), &[0; 4]);
    Ok(outputs)
});
