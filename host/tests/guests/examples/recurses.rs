//! Uses up its stack.
#![no_std]

use hostile_guests::*;

misbehaves!(|inputs| {
    deep(&[inputs.len(); 64]);
    compute(inputs)
});

fn deep(of: &[usize; 64]) -> usize {
    let mut here = core::hint::black_box(*of);
    here[0] += 1;
    if here[0] == 0 { 0 } else { deep(&here) + here[1] }
}
