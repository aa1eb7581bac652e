//! Finds what builds a stage guest: a rustc that can produce wasm32-unknown-unknown, and the linker that turns its
//! objects into a component. Standard library only, because `host/build.rs` compiles this same file.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The guest's target.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// The oldest Rust that compiles the guest (`rust-version` in `stage-guest/Cargo.toml`).
pub const OLDEST_RUST: (u32, u32) = (1, 95);

/// A way to build a guest that exists on this machine.
#[derive(Debug, PartialEq, Eq)]
pub struct WasmToolchain {
    pub rustc: PathBuf,
    /// No compiled `core` for the target: cargo compiles it from the source beside this rustc.
    pub build_std: bool,
    /// Runs `wasm_ld` and wraps what it links as a component.
    pub component_ld: PathBuf,
    pub wasm_ld: PathBuf,
}

impl WasmToolchain {
    /// Looks in the running cargo's toolchain, then in `/usr`, where distributions put theirs.
    ///
    /// # Errors
    /// One line that names what is missing.
    pub fn find() -> Result<Self, String> {
        choose(&sysroot()?, Path::new("/usr"), rust_version)
    }
}

/// `active` is the sysroot of the toolchain in use, `system` that of the distribution's.
fn choose(
    active: &Path,
    system: &Path,
    version: impl Fn(&Path) -> Option<(u32, u32)>,
) -> Result<WasmToolchain, String> {
    let bin =
        linkers(active).ok_or_else(|| format!("no wasm-component-ld in the Rust toolchain {}", active.display()))?;
    let with = |sysroot: &Path, build_std| WasmToolchain {
        rustc: sysroot.join("bin/rustc"),
        build_std,
        component_ld: bin.join("wasm-component-ld"),
        wasm_ld: bin.join("gcc-ld/wasm-ld"),
    };
    if active.join("lib/rustlib").join(TARGET).is_dir() {
        return Ok(with(active, false));
    }
    [active, system]
        .into_iter()
        .find(|sysroot| {
            sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
                && version(&sysroot.join("bin/rustc")).is_some_and(|v| v >= OLDEST_RUST)
        })
        .map(|sysroot| with(sysroot, true))
        .ok_or_else(|| format!("no Rust for the target {TARGET}"))
}

/// The directory that holds `wasm-component-ld` and `gcc-ld/wasm-ld`, which every rustup toolchain ships for its host.
fn linkers(sysroot: &Path) -> Option<PathBuf> {
    fs::read_dir(sysroot.join("lib/rustlib"))
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .find(|bin| bin.join("wasm-component-ld").is_file() && bin.join("gcc-ld/wasm-ld").is_file())
}

/// The sysroot that the running cargo belongs to: `RUSTC` may name another one, which need not have the linkers.
fn sysroot() -> Result<PathBuf, String> {
    let beside_cargo = env::var_os("CARGO")
        .and_then(|cargo| Some(Path::new(&cargo).parent()?.parent()?.to_path_buf()))
        .filter(|root| root.join("lib/rustlib").is_dir() && linkers(root).is_some());
    if let Some(root) = beside_cargo {
        return Ok(root);
    }
    let output =
        Command::new("rustc").args(["--print", "sysroot"]).output().map_err(|e| format!("cannot run rustc: {e}"))?;
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

fn rust_version(rustc: &Path) -> Option<(u32, u32)> {
    let output = Command::new(rustc).arg("--version").output().ok()?;
    parse_rust_version(&String::from_utf8_lossy(&output.stdout))
}

/// `rustc 1.96.0 (ac68faa20 2026-05-25)` gives `(1, 96)`.
fn parse_rust_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split_whitespace().nth(1)?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
#[path = "wasm_toolchain_tests.rs"]
mod tests;
