//! Keeps what an outer cargo set for its own compilation away from a cargo that it starts. Standard library only: the
//! host's build script and tests compile this same file.

use std::{env, process::Command};

/// Takes from `cargo` what the outer cargo (or clippy, or the user for the outer build) set, and what must not shape
/// another build. Where cargo keeps and fetches things stays as it is.
pub fn leave(cargo: &mut Command) {
    for (name, _) in env::vars_os() {
        if is_from_outer_build(&name.to_string_lossy()) {
            cargo.env_remove(name);
        }
    }
}

fn is_from_outer_build(name: &str) -> bool {
    const KEPT: [&str; 5] = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_MAKEFLAGS", "CARGO_NET_", "CARGO_REGISTR"];
    let prefixes = ["CARGO", "RUSTC", "RUSTFLAGS", "CLIPPY_", "__CARGO"];
    prefixes.iter().any(|prefix| name.starts_with(prefix)) && !KEPT.iter().any(|kept| name.starts_with(kept))
}
