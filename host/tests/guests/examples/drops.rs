//! Returns a handle that it has dropped.
#![no_std]

use hostile_guests::*;

misbehaves!(|inputs| {
    let mut outputs = compute(inputs)?;
    let handle = outputs[0].1.handle();
    // SAFETY: there is none: the handle is dropped here, and again by whoever gets it.
    drop(core::mem::replace(&mut outputs[0].1, unsafe { Tensor::from_handle(handle) }));
    Ok(outputs)
});
