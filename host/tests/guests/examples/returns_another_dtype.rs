//! Returns an output of another element type.
#![no_std]

use hostile_guests::*;

misbehaves!(|inputs| {
    let mut outputs = compute(inputs)?;
    let tensor = &outputs[0].1;
    outputs[0].1 = Tensor::new(&tensor.dimensions(), TensorType::I32, &tensor.data());
    Ok(outputs)
});
