//! Reads the file system, if it is let.
#![no_std]

extern crate alloc;

use alloc::string::String;
use hostile_guests::*;

wit_bindgen::generate!({
    inline: "
        package hostile:files;
        world files { import wasi:filesystem/preopens@0.2.0; }
        package wasi:filesystem@0.2.0 {
            interface types { resource descriptor; }
            interface preopens {
                use types.{descriptor};
                get-directories: func() -> list<tuple<descriptor, string>>;
            }
        }
    ",
    world: "hostile:files/files",
    generate_all,
});

misbehaves!(|inputs| {
    if wasi::filesystem::preopens::get_directories().is_empty() {
        return Err(String::from("there are no files"));
    }
    compute(inputs)
});
