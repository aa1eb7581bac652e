//! libFuzzer at the relay's codecs.
#![no_main]
#![allow(dead_code)] // the other targets

#[path = "../targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    targets::codec::run(bytes);
});
