//! What the vector loops share: tables by bitmap byte, and writing behind what a buffer holds.
#![allow(unsafe_code)] // sets a buffer's length

/// For each bitmap byte, the positions of its ones, in order; 0 behind them.
pub static ONES: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut bit, mut found) = (0, 0);
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                table[byte] |= bit << (8 * found);
                found += 1;
            }
            bit += 1;
        }
        byte += 1;
    }
    table
};

/// For each bitmap byte, by position: how many ones are before it if it is one, else 0x80.
pub static RANKS: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut bit, mut found) = (0, 0);
        while bit < 8 {
            let rank = if byte >> bit & 1 == 1 { found } else { 0x80 };
            table[byte] |= rank << (8 * bit);
            found += (byte >> bit & 1) as u64;
            bit += 1;
        }
        byte += 1;
    }
    table
};

/// Has `write` put exactly `len` bytes behind what is in `out`.
///
/// # Safety
/// `write` gets a pointer to `len` uninitialised bytes and must initialise all of them, and nothing beyond.
pub unsafe fn append(out: &mut Vec<u8>, len: usize, write: impl FnOnce(*mut u8)) {
    out.reserve(len);
    write(out.spare_capacity_mut().as_mut_ptr().cast());
    // SAFETY: `reserve` made room for them and `write` initialised them.
    unsafe { out.set_len(out.len() + len) };
}
