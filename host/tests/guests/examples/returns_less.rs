//! Returns no output.
#![no_std]

use hostile_guests::*;

misbehaves!(|inputs| {
    let mut outputs = compute(inputs)?;
    outputs.clear();
    Ok(outputs)
});
