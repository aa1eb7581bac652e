//! Fails with a message of 4 MiB.
#![no_std]

use hostile_guests::*;

misbehaves!(|_inputs| Err("no ".repeat(4 << 20 >> 1)));
