//! Panics.
#![no_std]

use hostile_guests::*;

misbehaves!(|inputs| panic!("{} inputs are too many", inputs.len()));
