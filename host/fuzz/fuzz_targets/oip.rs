//! libFuzzer at the inference protocol's request parser.
#![no_main]
#![allow(dead_code)] // the other targets

#[path = "../targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    targets::oip::run(bytes);
});
