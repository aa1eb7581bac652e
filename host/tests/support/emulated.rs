//! `defer-host` of another architecture, in emulation; built when a test first asks for it.

use super::{BINARY, outer_build};
use defer_host::engine::onnxruntime::VERSION;
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
