//! Builds crates of guests: another target with another profile, so each is a cargo run of its own.
//!
//! Shared by `build.rs`, for the stage guest, and by the tests, for hostile ones. The includer brings `outer_build` and `wasm_toolchain`.

use super::outer_build;
use super::wasm_toolchain::{TARGET, WasmToolchain};
use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The guest's stack, bytes: with it, its memory is 2 pages (rustc's default of 1 MiB makes it 17).
const STACK_BYTES: u32 = 65_536;

/// Builds the crate in `manifest_dir` under `target_dir`, with `cargo` and further arguments for it, and gives the folder
/// with what it made.
///
/// The error is one line that says what to do.
pub fn build(cargo: &OsStr, manifest_dir: &Path, target_dir: &Path, arguments: &[&str]) -> Result<PathBuf, String> {
    let toolchain = WasmToolchain::find().map_err(|missing| format!("{missing}: run `cargo xtask setup`"))?;
    let mut cargo = Command::new(cargo);
    outer_build::leave(&mut cargo);
    cargo
        .args(["build", "--release", "--locked", "--target", TARGET])
        .args(arguments)
        .current_dir(manifest_dir)
        .env("CARGO_TARGET_DIR", target_dir)
        .env("RUSTC", &toolchain.rustc)
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags(&toolchain, manifest_dir));
    if toolchain.build_std {
        // Building the standard library is an unstable option; the compiler is a stable one.
        cargo.arg("-Zbuild-std=core,alloc,panic_abort").env("RUSTC_BOOTSTRAP", "1");
    }
    let status = cargo.status().map_err(|e| format!("cannot run cargo for {}: {e}", manifest_dir.display()))?;
    if !status.success() {
        return Err(format!(
            "building the guest {} failed, see above; check the toolchain with `cargo xtask setup --check`",
            manifest_dir.display()
        ));
    }
    Ok(target_dir.join(TARGET).join("release"))
}

/// Separated by 0x1f, as `CARGO_ENCODED_RUSTFLAGS` wants, so that paths may hold spaces.
fn rust_flags(toolchain: &WasmToolchain, manifest_dir: &Path) -> OsString {
    let mut flags = vec![
        format!("-Clinker={}", toolchain.component_ld.display()),
        format!("-Clink-arg=--wasm-ld-path={}", toolchain.wasm_ld.display()),
        format!("-Clink-arg=-zstack-size={STACK_BYTES}"),
        // The same bytes wherever the checkout and cargo's home are.
        format!("--remap-path-prefix={}=/guest", manifest_dir.display()),
    ];
    if let Some(home) = cargo_home() {
        flags.push(format!("--remap-path-prefix={}=/cargo", home.display()));
    }
    flags.join("\x1f").into()
}

fn cargo_home() -> Option<PathBuf> {
    let set = env::var_os("CARGO_HOME").map(PathBuf::from);
    set.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
}
