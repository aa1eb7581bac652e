//! libFuzzer at the artifact reader.
#![no_main]
#![allow(dead_code)] // the other targets

#[path = "../targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    targets::artifact::run(bytes);
});
