//! What builds the stage guest: rustup's target where rustup can download, else the distribution's Rust, which builds
//! the standard library from its source.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, anyhow};

use super::{Item, Machine, Need, Task, command};
use crate::wasm_toolchain::{TARGET, WasmToolchain};

/// For about 25 MB; without a network rustup gives up long before.
const RUSTUP_LIMIT: Duration = Duration::from_secs(180);

pub struct Wasm;

impl Item for Wasm {
    fn name(&self) -> &'static str {
        "wasm toolchain"
    }

    fn find(&self, _: &Machine) -> Result<String> {
        let found = WasmToolchain::find().map_err(|missing| anyhow!(missing))?;
        let how = if found.build_std { "builds core from source" } else { "target installed" };
        Ok(format!("{} ({how})", found.rustc.display()))
    }

    fn install(&self, machine: &mut Machine) -> Result<()> {
        let add = ["target", "add", TARGET];
        let Err(error) = command::run_within(RUSTUP_LIMIT, Command::new("rustup").args(add)) else {
            return Ok(());
        };
        machine
            .apt_install(&["rustc-web", "rust-web-src"])
            .with_context(|| format!("`rustup {}` did not work ({error:#}), so", add.join(" ")))
    }

    fn need(&self, _: Task) -> Need {
        Need::Required
    }
}
