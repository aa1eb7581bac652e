//! libFuzzer at the ONNX reader and the partitioner.
#![no_main]
#![allow(dead_code)] // the other targets

#[path = "../targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    targets::onnx::run(bytes);
});
