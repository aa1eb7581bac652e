//! Returns two tensors by one name.
#![no_std]

use hostile_guests::*;

misbehaves!(|inputs| {
    let mut outputs = compute(inputs)?;
    let (name, tensor) = &outputs[0];
    let again = (name.clone(), Tensor::new(&tensor.dimensions(), tensor.ty(), &tensor.data()));
    outputs.push(again);
    Ok(outputs)
});
