//! `defer-host` of another architecture, in emulation; built when a test first asks for it.

use super::{BINARY, folder, outer_build};
use defer_host::engine::onnxruntime::VERSION;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

#[path = "../../../xtask/src/cross.rs"]
mod cross;

/// A program that runs an aarch64 `defer-host` on this machine.
pub fn aarch64() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("host/ lies in the repository");
        let target = Path::new(BINARY).ancestors().nth(2).expect("cargo puts programs into a profile's folder");
        cross::AARCH64.emulated(root, target).unwrap_or_else(|error| panic!("{error}"))
    })
}

/// The onnxruntime library of that architecture, as `cargo xtask setup` installs it.
pub fn aarch64_library() -> PathBuf {
    let cache = defer_models::Cache::from_env().expect("a cache directory");
    cache.root().join("onnxruntime/aarch64").join(VERSION).join("libonnxruntime.so")
}

/// What runs a program of this machine's architecture, x86-64, on the oldest processor that `defer-host` is for: one of 2008,
/// x86-64-v2, without AVX.
pub const OLDEST_X86: [&str; 3] = ["qemu-x86_64-static", "-cpu", "Nehalem"];

/// A program that runs this machine's `defer-host` there.
pub fn oldest_x86() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let path = folder("oldest-x86").join("defer-host");
        let script = format!("#!/bin/sh\nexec {} '{BINARY}' \"$@\"\n", OLDEST_X86.join(" "));
        fs::write(&path, script).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it can be made a program");
        path
    })
}
