//! Working memory of a thread, kept between frames and never cleared: what is borrowed holds what was last written there.

use std::cell::RefCell;

/// A thread keeps nothing larger, in bytes.
const KEEP: usize = 64 << 20;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Lends `work` a slice of `len` bytes with arbitrary contents. May be nested.
pub(super) fn with<R>(len: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut buffer = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    let result = work(&mut buffer[..len]);
    if buffer.capacity() <= KEEP {
        SPARE.with_borrow_mut(|spare| spare.push(buffer));
    }
    result
}
