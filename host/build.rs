//! Builds the stage guest from source and hands its path to the crate as `STAGE_GUEST_WASM`.
//!
//! The guest is another target with another profile, so it is a cargo run of its own, in a target directory of its own:
//! sharing the outer one would wait for the lock that the outer cargo holds. That directory lies beside the outer
//! build's, not in `OUT_DIR`: clippy and build have one `OUT_DIR` each, and need not compile the guest's tools twice.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[path = "../xtask/src/wasm_toolchain.rs"]
mod wasm_toolchain;

use wasm_toolchain::{TARGET, WasmToolchain};

/// The guest's stack, bytes: with it, its memory is 2 pages (rustc's default of 1 MiB makes it 17).
const STACK_BYTES: u32 = 65_536;

fn main() {
    let host = PathBuf::from(var("CARGO_MANIFEST_DIR"));
    let repository = host.parent().expect("host/ lies in the repository");
    let guest = repository.join("stage-guest");
    for input in ["src", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", guest.join(input).display());
    }
    let wit = repository.join("wit");
    println!("cargo::rerun-if-changed={}", wit.display());
    println!("cargo::rerun-if-changed=build.rs");

    match build_guest(&guest, &PathBuf::from(var("OUT_DIR"))) {
        Ok(wasm) => println!("cargo::rustc-env=STAGE_GUEST_WASM={}", wasm.display()),
        Err(message) => println!("cargo::error={message}"),
    }
}

/// Builds the guest crate in `manifest_dir` into a component, and puts it into `out_dir`.
///
/// Returns the component's path; the error is one line that says what to do.
fn build_guest(manifest_dir: &Path, out_dir: &Path) -> Result<PathBuf, String> {
    let toolchain = WasmToolchain::find().map_err(|missing| format!("{missing}: run `cargo xtask setup`"))?;
    // <target>/<profile>/build/<package>/out
    let target_dir = out_dir.ancestors().nth(3).unwrap_or(out_dir).join("guests");
    let mut cargo = Command::new(var("CARGO"));
    for (name, _) in env::vars_os() {
        if is_from_outer_build(&name.to_string_lossy()) {
            cargo.env_remove(name);
        }
    }
    cargo
        .args(["build", "--release", "--locked", "--target", TARGET])
        .current_dir(manifest_dir)
        .env("CARGO_TARGET_DIR", &target_dir)
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
    let crate_name = manifest_dir
        .file_name()
        .expect("a guest lies in a directory that bears its name")
        .to_string_lossy()
        .replace('-', "_");
    let file = format!("{crate_name}.wasm");
    let built = target_dir.join(TARGET).join("release").join(&file);
    let component = out_dir.join(&file);
    fs::copy(&built, &component).map_err(|e| format!("cannot copy the guest {}: {e}", built.display()))?;
    Ok(component)
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

/// What the outer cargo (or clippy, or the user for the outer build) set for its own compilation, and what must not
/// shape the guest's. Where cargo keeps and fetches things stays as it is.
fn is_from_outer_build(name: &str) -> bool {
    const KEPT: [&str; 5] = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_MAKEFLAGS", "CARGO_NET_", "CARGO_REGISTR"];
    let prefixes = ["CARGO", "RUSTC", "RUSTFLAGS", "CLIPPY_", "__CARGO"];
    prefixes.iter().any(|prefix| name.starts_with(prefix)) && !KEPT.iter().any(|kept| name.starts_with(kept))
}

fn var(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name} for build scripts"))
}
