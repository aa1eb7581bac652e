//! How the C library's allocator, which the library takes a session's memory from, gives memory back.
//!
//! By default glibc raises the size from which it maps memory by itself, and gives it back when it is freed, up to 32 MiB as
//! such blocks are freed. What sessions hold then comes from heaps, whose holes are kept: a node that had swapped a stage a
//! hundred times held two to three times what it held after two swaps. The same size for ever keeps such blocks apart.
//! `cargo xtask bench swap` measures what a node holds after a hundred swaps.

#![allow(unsafe_code)] // a setting of the C library

/// Blocks from this size on are mapped by themselves (glibc's own default, before it grows), and so much may be free at a
/// heap's end.
#[cfg(target_env = "gnu")]
const THRESHOLD: libc::c_int = 128 << 10;

/// Has freed memory of sessions given back to the system. The whole process is affected.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    for parameter in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: sets a number of the allocator, under its own lock; any number is allowed.
        if unsafe { libc::mallopt(parameter, THRESHOLD) } == 0 {
            tracing::debug!(parameter, "the C library keeps its own threshold of allocation");
        }
    }
}

/// When it is dropped, what is free between blocks of the heaps goes back to the system too.
#[derive(Debug)]
pub(super) struct Trim;

impl Drop for Trim {
    fn drop(&mut self) {
        #[cfg(target_env = "gnu")]
        // SAFETY: takes the allocator's own locks, heap by heap, and touches no block that is in use.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}
