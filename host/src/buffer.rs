//! Large byte buffers, reused: a fresh allocation of some megabytes costs milliseconds of page faults each time.

use std::sync::{Arc, Mutex, PoisonError};

/// Buffers smaller than this come from the allocator, which reuses them well enough.
const SMALL: usize = 64 * 1024;

/// A set of spare buffers, shared by everything in one process that moves tensors.
#[derive(Clone, Debug)]
pub struct Pool {
    spare: Arc<Mutex<Spare>>,
}

#[derive(Debug)]
struct Spare {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
    limit: usize,
}

impl Pool {
    /// A pool that keeps at most `limit` spare bytes; what is returned beyond that is freed.
    pub fn new(limit: usize) -> Self {
        Self { spare: Arc::new(Mutex::new(Spare { buffers: Vec::new(), bytes: 0, limit })) }
    }

    /// An empty buffer with room for `len` bytes: the smallest spare one that fits without wasting over half of it,
    /// else a new one.
    pub fn take(&self, len: usize) -> Vec<u8> {
        let mut buffer = self.spare(len);
        buffer.clear();
        buffer
    }

    /// A buffer of `len` bytes to be written over: what stands in it is what its last user left, or 0.
    pub fn take_filled(&self, len: usize) -> Vec<u8> {
        let mut buffer = self.spare(len);
        buffer.resize(len, 0);
        buffer
    }

    fn spare(&self, len: usize) -> Vec<u8> {
        if len >= SMALL {
            let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
            let best = (0..spare.buffers.len())
                .filter(|&i| (len..=len.saturating_mul(2)).contains(&spare.buffers[i].capacity()))
                .min_by_key(|&i| spare.buffers[i].capacity());
            if let Some(i) = best {
                let buffer = spare.buffers.swap_remove(i);
                spare.bytes -= buffer.capacity();
                return buffer;
            }
        }
        Vec::with_capacity(len)
    }

    /// Takes back a buffer that is no longer needed, evicting the oldest spare ones to stay within the limit.
    pub fn give(&self, buffer: Vec<u8>) {
        let size = buffer.capacity();
        if size < SMALL {
            return;
        }
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if size > spare.limit {
            return;
        }
        while spare.bytes + size > spare.limit {
            let oldest = spare.buffers.remove(0);
            spare.bytes -= oldest.capacity();
        }
        spare.bytes += size;
        spare.buffers.push(buffer);
    }

    /// Bytes held in spare.
    pub fn spare_bytes(&self) -> usize {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_buffer_is_reused() {
        let pool = Pool::new(1 << 20);
        let mut buffer = pool.take(100_000);
        buffer.extend([1; 100_000]);
        let at = buffer.as_ptr();
        pool.give(buffer);
        let again = pool.take(90_000);
        assert_eq!(again.as_ptr(), at);
        assert!(again.is_empty());
        pool.give(again);
        assert_eq!(pool.take_filled(80_000).len(), 80_000);
        assert_eq!(pool.take_filled(10), [0; 10]);
    }

    #[test]
    fn spare_bytes_stay_within_the_limit() {
        let pool = Pool::new(300_000);
        for size in [100_000, 150_000, 200_000, 400_000] {
            pool.give(Vec::with_capacity(size));
            assert!(pool.spare_bytes() <= 300_000);
        }
        assert!(pool.take(400_000).capacity() >= 400_000);
    }
}
