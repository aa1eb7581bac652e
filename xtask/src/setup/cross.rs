//! What builds `defer-host` for another architecture: a C and C++ compiler, and Rust's standard library for it, which is
//! rustup's where rustup can download, else the distribution's.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, anyhow};

use super::{Item, Machine, Need, Task, command};
use crate::cross::{AARCH64, ARMV7, Cross, Fallback, Std};

/// For about 30 MB; without a network rustup gives up long before.
const RUSTUP_LIMIT: Duration = Duration::from_secs(180);

pub struct CrossTools(pub &'static Cross);

pub const FOR_AARCH64: CrossTools = CrossTools(&AARCH64);
pub const FOR_ARMV7: CrossTools = CrossTools(&ARMV7);

impl Item for CrossTools {
    fn name(&self) -> &'static str {
        if *self.0 == AARCH64 { "aarch64 tools" } else { "armv7 tools" }
    }

    fn find(&self, _: &Machine) -> Result<String> {
        for tool in ["gcc", "g++", "strip"] {
            command::run(Command::new(format!("{}-{tool}", self.0.tools)).arg("--version"))?;
        }
        let rust = match self.0.std().map_err(|missing| anyhow!(missing))? {
            Std::Active => "rustup's".to_owned(),
            Std::Of { rustc } => format!("that of {}", rustc.display()),
            Std::Source { rustc } => format!("compiled by {}", rustc.display()),
        };
        Ok(format!("{}-gcc, standard library {rust}", self.0.tools))
    }

    fn install(&self, machine: &mut Machine) -> Result<()> {
        let Cross { triple, tools, debian, fallback, .. } = self.0;
        let [gcc, gxx, libc] = [format!("gcc-{tools}"), format!("g++-{tools}"), format!("libc6-dev-{debian}-cross")];
        machine.apt_install(&[&gcc, &gxx, &libc])?;
        let add = ["target", "add", triple];
        let Err(error) = command::run_within(RUSTUP_LIMIT, Command::new("rustup").args(add)) else {
            return Ok(());
        };
        let compiled = format!("libstd-rust-web-dev:{debian}");
        match fallback {
            Fallback::Compiled => {
                machine.apt_install_of(debian, &["rustc-web", "libstd-rust-web-dev", &compiled, "rust-web-src"])
            }
            Fallback::Source => machine.apt_install(&["rustc-web", "rust-web-src"]),
        }
        .with_context(|| format!("`rustup {}` did not work ({error:#}), so", add.join(" ")))
    }

    fn on_demand(&self) -> bool {
        *self.0 == ARMV7
    }

    fn need(&self, task: Task) -> Need {
        let needs = match task {
            Task::Test => *self.0 == AARCH64,
            Task::Cross(cross) | Task::Mixed(cross) => self.0 == cross,
            Task::Run | Task::Compare | Task::Bed | Task::Peers => false,
        };
        if needs { Need::Required } else { Need::Unused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{env, fs, path::Path};

    #[test]
    fn rustup_comes_before_the_distribution_and_compiled_before_source() {
        let folder = env::temp_dir().join(format!("defer-xtask-std-{}", std::process::id()));
        let [rustup, system] = ["rustup", "system"].map(|name| folder.join(name));
        let put = |sysroot: &Path, file: &str| {
            let path = sysroot.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        let rustc = system.join("bin/rustc");
        let core = |cross: &Cross| format!("lib/rustlib/{}/lib/libcore-1.rlib", cross.triple);
        let error = ARMV7.std_in(&rustup, &system).unwrap_err();
        assert!(error.contains(ARMV7.triple), "{error}");
        put(&system, "bin/rustc");
        put(&system, "lib/rustlib/src/rust/library/std/src/lib.rs");
        // Debian has one for aarch64, which is quicker than to compile it.
        assert!(AARCH64.std_in(&rustup, &system).is_err());
        assert_eq!(ARMV7.std_in(&rustup, &system), Ok(Std::Source { rustc: rustc.clone() }));
        for cross in [&AARCH64, &ARMV7] {
            put(&system, &core(cross));
            assert_eq!(cross.std_in(&rustup, &system), Ok(Std::Of { rustc: rustc.clone() }));
            put(&rustup, &core(cross));
            assert_eq!(cross.std_in(&rustup, &system), Ok(Std::Active));
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
