//! One run of a session whose outputs are written into memory of ours. The `ort` crate only lets the runtime allocate them,
//! or copies inputs instead.
#![allow(unsafe_code)]

use ort::session::{RunOptions, Session, SessionInputValue};
use ort::value::{DynValueRefMut, Outlet};
use ort::{AsPointer as _, Error};
use std::ffi::{CStr, c_char};

/// Runs `session`, writing each output into the memory that stands beside its name.
///
/// # Errors
/// Memory for other outputs than the session has, or of other types; and those of the runtime, among them that an output has
/// another shape than its memory, which is then not written.
pub(super) fn run_into(
    session: &mut Session,
    options: &RunOptions,
    inputs: &[(&CStr, SessionInputValue<'_>)],
    outputs: &mut [(&CStr, DynValueRefMut<'_>)],
) -> ort::Result<()> {
    let fits = |(outlet, (name, value)): (&Outlet, &(&CStr, DynValueRefMut<'_>))| {
        outlet.name().as_bytes() == name.to_bytes() && outlet.dtype().tensor_type() == value.dtype().tensor_type()
    };
    if outputs.len() != session.outputs().len() || !session.outputs().iter().zip(outputs.iter()).all(fits) {
        return Err(Error::new("memory for other outputs than the graph has"));
    }
    let input_names: Vec<*const c_char> = inputs.iter().map(|(name, _)| name.as_ptr()).collect();
    let input_values: Vec<*const ort::sys::OrtValue> = inputs.iter().map(|(_, value)| value.ptr()).collect();
    let output_names: Vec<*const c_char> = outputs.iter().map(|(name, _)| name.as_ptr()).collect();
    let given: Vec<*mut ort::sys::OrtValue> = outputs.iter_mut().map(|(_, value)| value.ptr().cast_mut()).collect();
    let mut written = given.clone();
    // SAFETY: session, options, values and names live until the call returns, in arrays of the lengths given; the values of
    // the outputs are borrowed from memory that is borrowed exclusively, and have the graph's types, as was checked above. The
    // runtime holds an output's shape against that of its memory before it writes ("OrtValue shape verification failed", in
    // `IExecutionFrame::GetOrCreateNodeOutputMLValue`), and keeps none of these pointers. It returns a status, or null, which
    // is what `result_from_status` takes.
    unsafe {
        Error::result_from_status((ort::api().Run)(
            session.ptr().cast_mut(),
            options.ptr(),
            input_names.as_ptr(),
            input_values.as_ptr(),
            inputs.len(),
            output_names.as_ptr(),
            outputs.len(),
            written.as_mut_ptr(),
        ))?;
    }
    // It puts a value of its own only where none was given.
    match written == given {
        true => Ok(()),
        false => Err(Error::new("the runtime replaced the memory of an output")),
    }
}
