//! What builds `defer-host` for aarch64: a C and C++ compiler, and Rust's standard library for it, which is rustup's where
//! rustup can download, else the distribution's.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, anyhow};

use super::{Item, Machine, Need, Task, command};
use crate::cross::{AARCH64, Std};

/// For about 30 MB; without a network rustup gives up long before.
const RUSTUP_LIMIT: Duration = Duration::from_secs(180);

pub struct CrossTools;

impl Item for CrossTools {
    fn name(&self) -> &'static str {
        "aarch64 tools"
    }

    fn find(&self, _: &Machine) -> Result<String> {
        for tool in ["gcc", "g++", "strip"] {
            command::run(Command::new(format!("{}-{tool}", AARCH64.tools)).arg("--version"))?;
        }
        let rust = match AARCH64.std().map_err(|missing| anyhow!(missing))? {
            Std::Active => "rustup's".to_owned(),
            Std::Of { rustc } => format!("that of {}", rustc.display()),
        };
        Ok(format!("{}-gcc, standard library {rust}", AARCH64.tools))
    }

    fn install(&self, machine: &mut Machine) -> Result<()> {
        machine.apt_install(&["gcc-aarch64-linux-gnu", "g++-aarch64-linux-gnu", "libc6-dev-arm64-cross"])?;
        let add = ["target", "add", AARCH64.triple];
        let Err(error) = command::run_within(RUSTUP_LIMIT, Command::new("rustup").args(add)) else {
            return Ok(());
        };
        machine
            .apt_install_of("arm64", &["rustc-web", "libstd-rust-web-dev", "libstd-rust-web-dev:arm64", "rust-web-src"])
            .with_context(|| format!("`rustup {}` did not work ({error:#}), so", add.join(" ")))
    }

    fn need(&self, task: Task) -> Need {
        match task {
            Task::Test | Task::Cross | Task::Mixed => Need::Required,
            Task::Run | Task::Compare | Task::Bed | Task::Peers => Need::Unused,
        }
    }
}
