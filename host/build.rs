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
};

#[path = "build/guest.rs"]
mod guest;
#[path = "../xtask/src/outer_build.rs"]
mod outer_build;
#[path = "../xtask/src/wasm_toolchain.rs"]
mod wasm_toolchain;

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
    println!("cargo::rerun-if-changed=build/guest.rs");

    match build_guest(&guest, &PathBuf::from(var("OUT_DIR"))) {
        Ok(wasm) => println!("cargo::rustc-env=STAGE_GUEST_WASM={}", wasm.display()),
        Err(message) => println!("cargo::error={message}"),
    }
}

/// Builds the guest crate in `manifest_dir` into a component, and puts it into `out_dir`.
///
/// Returns the component's path; the error is one line that says what to do.
fn build_guest(manifest_dir: &Path, out_dir: &Path) -> Result<PathBuf, String> {
    // <target>/<profile>/build/<package>/out
    let target_dir = out_dir.ancestors().nth(3).unwrap_or(out_dir).join("guests");
    let built = guest::build(&var("CARGO"), manifest_dir, &target_dir, &[])?;
    let crate_name = manifest_dir
        .file_name()
        .expect("a guest lies in a directory that bears its name")
        .to_string_lossy()
        .replace('-', "_");
    let file = format!("{crate_name}.wasm");
    let component = out_dir.join(&file);
    fs::copy(built.join(&file), &component).map_err(|e| format!("cannot copy the guest {}: {e}", built.display()))?;
    Ok(component)
}

fn var(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name} for build scripts"))
}
