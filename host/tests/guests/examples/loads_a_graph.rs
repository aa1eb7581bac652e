//! Brings a graph of its own.
#![no_std]

extern crate alloc;

use alloc::{string::String, vec};
use hostile_guests::*;

misbehaves!(|_inputs| {
    match graph::load(&[vec![8, 8, 58, 0]], GraphEncoding::Onnx, ExecutionTarget::Cpu) {
        Ok(_) => Err(String::from("it was loaded")),
        Err(error) => Err(describe("load a graph of its own", &error)),
    }
});
