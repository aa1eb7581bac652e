//! Integer division by zero inside onnxruntime: the processor traps, and the kernel would end the process.
//!
//! onnxruntime divides INT32 and INT64 tensors, and sizes that a graph declares, with the processor's own instruction. A
//! zero among the divisors (or the smallest number divided by -1) then raises SIGFPE; a request's data alone can do that.
//! The handler here acts only when the instruction that trapped is a division inside the library's own code: it lets the
//! division give 0, notes that it did, and goes on behind it; the call then fails. Every other SIGFPE, such as a trap of
//! a component, goes to the handler that was there before.
//!
//! Only x86-64 traps. aarch64 defines the quotient as 0 (and the overflow as wrapping around), so nothing is needed there.
#![allow(unsafe_code)] // a signal handler

use std::path::Path;

/// What a call came to, and whether a division trapped in it.
pub(super) struct Watched<T> {
    pub result: T,
    pub trapped: Trapped,
}

/// Where a division trapped while a call was under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trapped {
    Nowhere,
    /// On the thread of the call.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "nothing traps elsewhere"))]
    Here,
    /// On a thread of the library's own, which may have worked for another call.
    Elsewhere,
}

/// How a failed call is explained.
pub(super) const CAUSE: &str = "integer division by zero, or of the smallest number by -1, in the graph";

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
mod signal {
    use super::{Path, Trapped, Watched};

    pub fn install(_: &Path) -> std::io::Result<()> {
        Ok(())
    }

    pub fn watched<T>(work: impl FnOnce() -> T) -> Watched<T> {
        Watched { result: work(), trapped: Trapped::Nowhere }
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod signal {
    use super::{Path, Trapped, Watched, division};
    use libc::{
        REG_RAX, REG_RDX, REG_RIP, SA_ONSTACK, SA_SIGINFO, SIG_DFL, SIG_IGN, SIGFPE, c_int, c_void, sigaction,
        siginfo_t, ucontext_t,
    };
    use std::cell::Cell;
    use std::ops::Range;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::{fs, io, mem, ptr, slice};

    thread_local! {
        /// Whether this thread is in a call that will ask. Constant and without a destructor: a signal handler reads it.
        static INSIDE: Cell<bool> = const { Cell::new(false) };
        static TRAPPED: Cell<bool> = const { Cell::new(false) };
    }
    /// Divisions that trapped on the library's own threads.
    static ELSEWHERE: AtomicU64 = AtomicU64::new(0);
    static INSTALLED: OnceLock<Installed> = OnceLock::new();

    struct Installed {
        /// Where the library's instructions lie.
        code: Vec<Range<usize>>,
        previous: sigaction,
    }

    /// Handles SIGFPE for the library at `library`, which is loaded already.
    pub fn install(library: &Path) -> io::Result<()> {
        let code = executable(&fs::read_to_string("/proc/self/maps")?, &library.canonicalize()?.to_string_lossy());
        if code.is_empty() {
            return Err(io::Error::other("its code is not in /proc/self/maps"));
        }
        // SAFETY: all zeros is a valid `sigaction`: the default action, no flags, an empty mask.
        let (mut previous, mut ours): (sigaction, sigaction) = unsafe { (mem::zeroed(), mem::zeroed()) };
        // SAFETY: asks only, into a value that lives.
        if unsafe { sigaction(SIGFPE, ptr::null(), &mut previous) } != 0 {
            return Err(io::Error::last_os_error());
        }
        if INSTALLED.set(Installed { code, previous }).is_err() {
            return Ok(());
        }
        let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = handle;
        ours.sa_sigaction = handler as usize;
        // On the alternate stack, if the thread has one: wasmtime's rule for handlers beside its own.
        ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
        // SAFETY: `handle` has the signature that SA_SIGINFO asks for, and does only what a handler may: it reads memory
        // that was set up before, and touches thread-locals without destructors and atomics.
        match unsafe { sigaction(SIGFPE, &ours, ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Ranges of `path` that are mapped executable.
    pub(super) fn executable(maps: &str, path: &str) -> Vec<Range<usize>> {
        let range = |line: &str| {
            let mut fields = line.split_ascii_whitespace();
            let (range, flags) = (fields.next()?, fields.next()?);
            if !flags.contains('x') || !line.ends_with(path) {
                return None;
            }
            let (start, end) = range.split_once('-')?;
            let address = |text| usize::from_str_radix(text, 16).ok();
            Some(address(start)?..address(end)?)
        };
        maps.lines().filter_map(range).collect()
    }

    /// Runs `work`, a call into the library.
    pub fn watched<T>(work: impl FnOnce() -> T) -> Watched<T> {
        let elsewhere = ELSEWHERE.load(Ordering::Relaxed);
        TRAPPED.set(false);
        INSIDE.set(true);
        let result = work();
        INSIDE.set(false);
        let trapped = match (TRAPPED.get(), ELSEWHERE.load(Ordering::Relaxed) == elsewhere) {
            (true, _) => Trapped::Here,
            (false, true) => Trapped::Nowhere,
            (false, false) => Trapped::Elsewhere,
        };
        Watched { result, trapped }
    }

    extern "C" fn handle(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
        let Some(installed) = INSTALLED.get() else { return };
        // SAFETY: with SA_SIGINFO the third argument is this thread's `ucontext_t`, and nobody else looks at it.
        let registers = unsafe { &mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs };
        let at = registers[REG_RIP as usize] as usize;
        if let Some(range) = installed.code.iter().find(|range| range.contains(&at)) {
            let len = (range.end - at).min(division::MAX_LENGTH);
            // SAFETY: inside a mapping of the library's code, which is readable and never unmapped (ort keeps it).
            let code = unsafe { slice::from_raw_parts(at as *const u8, len) };
            if let Some(division) = division::decode(code) {
                let (rax, rdx) = (REG_RAX as usize, REG_RDX as usize);
                registers[rax] = division.clear(registers[rax]);
                if division.width != 1 {
                    registers[rdx] = division.clear(registers[rdx]);
                }
                registers[REG_RIP as usize] += division.length as i64;
                if INSIDE.get() {
                    TRAPPED.set(true);
                } else {
                    ELSEWHERE.fetch_add(1, Ordering::Relaxed);
                }
                return;
            }
        }
        pass_on(&installed.previous, signal, info, context);
    }

    fn pass_on(previous: &sigaction, signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
        match previous.sa_sigaction {
            // Back to the instruction, which traps again, and ends the process as it would have.
            SIG_DFL | SIG_IGN => {
                // SAFETY: puts the default action back, in a valid value.
                unsafe {
                    let default: sigaction = mem::zeroed();
                    sigaction(signal, &default, ptr::null_mut());
                }
            }
            handler if previous.sa_flags & SA_SIGINFO != 0 => {
                // SAFETY: whoever installed it with SA_SIGINFO gave a function of this signature.
                let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = unsafe { mem::transmute(handler) };
                handler(signal, info, context);
            }
            handler => {
                // SAFETY: whoever installed it without SA_SIGINFO gave a function of this signature.
                let handler: extern "C" fn(c_int) = unsafe { mem::transmute(handler) };
                handler(signal);
            }
        }
    }
}

pub(super) use signal::{install, watched};

/// The encodings of DIV and IDIV (Intel SDM volume 2: opcodes F6 and F7 with /6 and /7).
#[cfg_attr(not(all(target_os = "linux", target_arch = "x86_64")), allow(dead_code))]
mod division {
    /// Bytes that an instruction has at most.
    pub const MAX_LENGTH: usize = 15;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Division {
        /// Bytes of the instruction.
        pub length: usize,
        /// Bytes of the divisor: 1, 2, 4 or 8.
        pub width: usize,
    }

    impl Division {
        /// What becomes of RAX or RDX when the result in it is 0.
        pub fn clear(self, register: i64) -> i64 {
            match self.width {
                // Quotient and remainder are AL and AH, which together are AX.
                1 | 2 => register & !0xffff,
                // Writing 32 bits clears the upper half.
                _ => 0,
            }
        }
    }

    /// The division that `code` begins with, if it does.
    pub fn decode(code: &[u8]) -> Option<Division> {
        let mut at = 0;
        let mut word = false;
        // Legacy prefixes: operand size, address size, segments, and those that mean nothing here.
        while let Some(prefix @ (0x66 | 0x67 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65 | 0xf2 | 0xf3)) = code.get(at) {
            word |= *prefix == 0x66;
            at += 1;
        }
        let mut long = false;
        if let Some(rex @ 0x40..=0x4f) = code.get(at) {
            long = rex & 8 != 0;
            at += 1;
        }
        let opcode = *code.get(at)?;
        let modrm = *code.get(at + 1)?;
        if !matches!(opcode, 0xf6 | 0xf7) || !matches!(modrm >> 3 & 7, 6 | 7) {
            return None;
        }
        at += 2;
        let (mode, mut base) = (modrm >> 6, modrm & 7);
        if mode != 3 && base == 4 {
            base = *code.get(at)? & 7; // of the SIB byte
            at += 1;
            // A base of 5 without displacement means one of 32 bits and no base, as in ModRM.
        }
        at += match mode {
            0 if base == 5 => 4,
            1 => 1,
            2 => 4,
            _ => 0,
        };
        let width = match opcode {
            0xf6 => 1,
            _ if long => 8,
            _ if word => 2,
            _ => 4,
        };
        (at <= code.len().min(MAX_LENGTH)).then_some(Division { length: at, width })
    }
}

#[cfg(test)]
mod tests {
    use super::division::{Division, decode};

    #[test]
    fn divisions_are_known_by_their_bytes() {
        // As GNU as encodes them.
        let cases: [(&[u8], usize, usize, &str); 20] = [
            (&[0xf7, 0xf9], 2, 4, "idiv ecx"),
            (&[0xf7, 0xf1], 2, 4, "div ecx"),
            (&[0x48, 0xf7, 0xf9], 3, 8, "idiv rcx"),
            (&[0x49, 0xf7, 0xf8], 3, 8, "idiv r8"),
            (&[0x41, 0xf7, 0xff], 3, 4, "idiv r15d"),
            (&[0x66, 0xf7, 0xf9], 3, 2, "idiv cx"),
            (&[0x66, 0x41, 0xf7, 0xf8], 4, 2, "idiv r8w"),
            (&[0xf6, 0xf9], 2, 1, "idiv cl"),
            (&[0x40, 0xf6, 0xf6], 3, 1, "div sil"),
            (&[0xf7, 0x38], 2, 4, "idiv dword ptr [rax]"),
            (&[0x48, 0xf7, 0x78, 0x08], 4, 8, "idiv qword ptr [rax+8]"),
            (&[0x48, 0xf7, 0xb8, 0x00, 0x10, 0x00, 0x00], 7, 8, "idiv qword ptr [rax+0x1000]"),
            (&[0x48, 0xf7, 0x3c, 0x24], 4, 8, "idiv qword ptr [rsp]"),
            (&[0x48, 0xf7, 0x7c, 0x24, 0x18], 5, 8, "idiv qword ptr [rsp+0x18]"),
            (&[0x49, 0xf7, 0x3c, 0xc4], 4, 8, "idiv qword ptr [r12+rax*8]"),
            (&[0x49, 0xf7, 0x7d, 0x00], 4, 8, "idiv qword ptr [r13+0]"),
            (&[0xf7, 0x3d, 0x00, 0x10, 0x00, 0x00], 6, 4, "idiv dword ptr [rip+0x1000]"),
            (&[0xf7, 0x3c, 0x8d, 0x00, 0x10, 0x00, 0x00], 7, 4, "idiv dword ptr [rcx*4+0x1000]"),
            (&[0x42, 0xf7, 0xbc, 0xa0, 0x00, 0x10, 0x00, 0x00], 8, 4, "idiv dword ptr [rax+r12*4+0x1000]"),
            (&[0x64, 0x67, 0xf7, 0x38], 4, 4, "idiv dword ptr fs:[eax]"),
        ];
        for (code, length, width, text) in cases {
            assert_eq!(decode(code), Some(Division { length, width }), "{text}");
            // With something behind it, as in memory; and cut short.
            assert_eq!(decode(&[code, &[0xc3; 16]].concat()), Some(Division { length, width }), "{text}");
            for end in 0..code.len() {
                assert_eq!(decode(&code[..end]), None, "{text}");
            }
        }
    }

    #[test]
    fn nothing_else_is_taken_for_a_division() {
        let others: [&[u8]; 8] = [
            &[0xf7, 0xe1],             // mul ecx
            &[0xf7, 0xd8],             // neg eax
            &[0xf6, 0xc1, 0x01],       // test cl, 1
            &[0x0f, 0x5e, 0xc1],       // divps xmm0, xmm1
            &[0xc5, 0xfc, 0x5e, 0xc1], // vdivps
            &[0xd8, 0xf1],             // fdiv st(1)
            &[0x0f, 0x0b],             // ud2
            &[0x66; 15],
        ];
        for code in others {
            assert_eq!(decode(code), None, "{code:02x?}");
        }
    }

    #[test]
    fn a_result_of_zero_leaves_the_bits_that_the_width_leaves() {
        let clear = |width| Division { length: 2, width }.clear(0x1122_3344_5566_7788);
        assert_eq!([1, 2, 4, 8].map(clear), [0x1122_3344_5566_0000, 0x1122_3344_5566_0000, 0, 0]);
    }

    #[test]
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    fn only_the_librarys_own_code_counts() {
        let maps = "\
7f00-7f10 r--p 00000000 08:01 1 /lib/libonnxruntime.so.1.24.4
7f10-7f90 r-xp 00010000 08:01 1 /lib/libonnxruntime.so.1.24.4
7f90-7fa0 r-xp 00000000 08:01 2 /lib/libm.so.6
7fa0-7fb0 rw-p 00000000 00:00 0
";
        let code = super::signal::executable(maps, "/lib/libonnxruntime.so.1.24.4");
        assert_eq!(code.iter().map(|range| (range.start, range.end)).collect::<Vec<_>>(), [(0x7f10, 0x7f90)]);
        assert!(super::signal::executable(maps, "/lib/libother.so").is_empty());
    }
}
