//! Builds `defer-host` for another architecture than this machine's. Standard library only, because the host's tests
//! compile this same file. The includer brings `outer_build`.

use super::outer_build;
use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// An architecture that is cross-built for.
#[derive(Debug, PartialEq, Eq)]
pub struct Cross {
    pub triple: &'static str,
    /// What its C tools' names begin with: `<tools>-gcc`.
    pub tools: &'static str,
    /// Debian's name of it.
    pub debian: &'static str,
    /// Runs its programs here.
    pub emulator: &'static str,
    /// The oldest processor that programs are for, by the emulator's name.
    pub core: &'static str,
    /// Where rustup can download nothing.
    pub fallback: Fallback,
    /// Cargo's arguments for what runs in emulation: no engine but one.
    emulated: &'static [&'static str],
}

/// What a distribution has of Rust's standard library for an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    Compiled,
    Source,
}

pub const AARCH64: Cross = Cross {
    triple: "aarch64-unknown-linux-gnu",
    tools: "aarch64-linux-gnu",
    debian: "arm64",
    emulator: "qemu-aarch64-static",
    // ARMv8.0, as in a Raspberry Pi 3: no dot products, no half floats.
    core: "cortex-a53",
    fallback: Fallback::Compiled,
    emulated: &["--no-default-features"],
};

/// 32 bits, with hardware for floating-point numbers: Raspberry Pi OS (32-bit) on a Pi 2 or newer. The tests do not build it.
#[allow(dead_code)]
pub const ARMV7: Cross = Cross {
    triple: "armv7-unknown-linux-gnueabihf",
    tools: "arm-linux-gnueabihf",
    debian: "armhf",
    emulator: "qemu-arm-static",
    core: "cortex-a7",
    fallback: Fallback::Source,
    // It has tract only.
    emulated: &[],
};

/// The profile of builds that run in emulation.
const EMULATED: &str = "emulated";

/// Where the standard library for a target comes from.
#[derive(Debug, PartialEq, Eq)]
pub enum Std {
    /// In the toolchain in use.
    Active,
    /// In the distribution's, beside this compiler.
    Of { rustc: PathBuf },
    /// Cargo compiles it from the source beside this compiler.
    Source { rustc: PathBuf },
}

impl Cross {
    /// Looks in the running cargo's toolchain, then in `/usr`, where distributions put theirs.
    ///
    /// # Errors
    /// One line that names what is missing.
    pub fn std(&self) -> Result<Std, String> {
        let output = Command::new("rustc")
            .args(["--print", "sysroot"])
            .output()
            .map_err(|error| format!("cannot run rustc: {error}"))?;
        let active = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        self.std_in(&active, Path::new("/usr"))
    }

    /// The same, in these two folders.
    ///
    /// # Errors
    /// The same.
    pub fn std_in(&self, active: &Path, system: &Path) -> Result<Std, String> {
        let has_core = |sysroot: &Path| {
            let libraries = fs::read_dir(sysroot.join("lib/rustlib").join(self.triple).join("lib"));
            libraries
                .into_iter()
                .flatten()
                .flatten()
                .any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
        };
        if has_core(active) {
            return Ok(Std::Active);
        }
        let rustc = system.join("bin/rustc");
        if has_core(system) && rustc.is_file() {
            return Ok(Std::Of { rustc });
        }
        let has_source = |sysroot: &&Path| {
            sysroot.join("lib/rustlib/src/rust/library/std/src/lib.rs").is_file() && sysroot.join("bin/rustc").is_file()
        };
        if let (Fallback::Source, Some(sysroot)) = (self.fallback, [active, system].iter().find(|at| has_source(at))) {
            return Ok(Std::Source { rustc: sysroot.join("bin/rustc") });
        }
        Err(format!("no Rust standard library for {}", self.triple))
    }

    /// Builds `defer-host` of the workspace at `root` under `target_dir`, with further arguments for cargo; `profile` is
    /// that of `arguments`. Gives the program's path.
    ///
    /// # Errors
    /// One line that says what to do.
    pub fn build(&self, root: &Path, target_dir: &Path, profile: &str, arguments: &[&str]) -> Result<PathBuf, String> {
        let std = self.std().map_err(|missing| format!("{missing}: run `cargo xtask setup`"))?;
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
        outer_build::leave(&mut cargo);
        let target_dir = match std {
            Std::Active => target_dir.to_owned(),
            // What another compiler makes for this machine must not take the place of what is there.
            Std::Of { ref rustc } | Std::Source { ref rustc } => {
                cargo.env("RUSTC", rustc);
                target_dir.join("system-rust")
            }
        };
        if matches!(std, Std::Source { .. }) {
            // A stable compiler builds its own standard library only when told that it is one of its makers'.
            cargo.env("RUSTC_BOOTSTRAP", "1");
        }
        let linker = format!("CARGO_TARGET_{}_LINKER", self.triple.to_uppercase().replace('-', "_"));
        cargo
            .args(["build", "--locked", "--profile", profile, "--target", self.triple, "-p", "defer-host"])
            .args(["--bin", "defer-host"])
            .args(matches!(std, Std::Source { .. }).then_some("-Zbuild-std=std,panic_unwind"))
            .args(arguments)
            .arg("--target-dir")
            .arg(&target_dir)
            .current_dir(root)
            .env(linker, format!("{}-gcc", self.tools));
        let status = cargo.status().map_err(|error| format!("cannot run cargo: {error}"))?;
        if !status.success() {
            let check = "check the tools with `cargo xtask setup --check`";
            return Err(format!("building defer-host for {} failed, see above; {check}", self.triple));
        }
        Ok(target_dir.join(self.triple).join(profile).join("defer-host"))
    }

    /// Builds what runs in emulation, and gives a program of this machine that runs it there.
    ///
    /// # Errors
    /// One line that says what to do.
    pub fn emulated(&self, root: &Path, target_dir: &Path) -> Result<PathBuf, String> {
        let program = self.build(root, target_dir, EMULATED, self.emulated)?;
        let quoted = program.display().to_string().replace('\'', r"'\''");
        let script = format!("#!/bin/sh\nexec {} -cpu {} '{quoted}' \"$@\"\n", self.emulator, self.core);
        let path = program.with_file_name("defer-host-emulated");
        let cannot = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
        // A script that runs is not written to.
        let new = path.with_extension("new");
        fs::write(&new, script).map_err(cannot)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).map_err(cannot)?;
        fs::rename(&new, &path).map_err(cannot)?;
        Ok(path)
    }
}
