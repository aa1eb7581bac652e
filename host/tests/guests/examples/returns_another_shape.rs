//! Returns an output of another rank.
#![no_std]

use hostile_guests::*;

misbehaves!(|inputs| {
    let mut outputs = compute(inputs)?;
    outputs[0].1 = Tensor::new(&[3], TensorType::Fp32, &[0; 12]);
    Ok(outputs)
});
